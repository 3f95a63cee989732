"""The curves of the light-curve task: read, split by source, made into examples."""

import hashlib

import numpy as np

from data import split
from data.light_curves.curve import Reading
from data.light_curves.packed import LightCurves, Packed, list_light_curves, pack_light_curves
from tasks.light_curve.config import Config
from utils.mistake import Mistake


def read_curves(config: Config, workers: int) -> Packed:
    if not config.data:
        raise Mistake(
            "--data is missing: give a folder of light curves, a file, or a manifest (.txt, one path a line)"
        )
    reading = Reading(**{name: getattr(config, name) for name in Reading.__dataclass_fields__})
    return pack_light_curves(list_light_curves(config.data), reading, config.store_dir, max(1, workers))


def split_curves(packed: Packed, config: Config) -> np.ndarray:
    """[N] the split of each curve by a hash of its source; "" for those that are refused or too short."""
    splits = split.split_of(packed.curves["source"], config, blind=False)
    return np.where(packed.good & (packed.points >= config.min_points), splits, "")


def make_examples(packed: Packed, chosen: np.ndarray, config: Config) -> LightCurves:
    return LightCurves(packed, np.flatnonzero(chosen), config.max_points)


def counts_and_likelihood(config: Config, packed: Packed) -> tuple[bool, str]:
    """Whether all curves have counts, and the likelihood to use."""
    counted = bool(packed.has_counts[packed.good].all())
    if config.likelihood == "poisson" and not counted:
        raise Mistake(
            f"--likelihood poisson: {int((packed.good & ~packed.has_counts).sum())} curves have rates and no "
            "counts; use split_normal, or auto"
        )
    return counted, (
        "poisson" if counted else "split_normal"
    ) if config.likelihood == "auto" else config.likelihood


def content_digest(packed: Packed, splits: np.ndarray) -> str:
    """What the data are, wherever they lie."""
    table = packed.curves[["source", "points", "bands", "reason"]].assign(split=splits).to_csv(index=False)
    digest = hashlib.blake2b(table.encode(), digest_size=16)
    for name in ("time", "observed", "rate", "error_low", "error_up"):
        digest.update(packed.fields[name])
    return digest.hexdigest()
