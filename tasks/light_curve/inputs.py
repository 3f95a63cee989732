"""The curves of the light-curve task: read, split by source, made into examples."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data import split
from data.light_curves.bands import are_named
from data.light_curves.curve import Reading
from data.light_curves.packed import LightCurves, Packed, list_light_curves, pack_light_curves
from data.light_curves.units import LEAST, MOST, RAISED, unit_conflict
from tasks.light_curve.config import Config
from tasks.light_curve.scores import Noise
from utils.mistake import Mistake

FEW_BELOW = 0.005  # of rates below zero by three errors, a share that outliers may have
TOGETHER = 5  # points that all bands have, below which statistics over all bands say nothing
FEW_IN_TURN = 0.05  # of the curves, that may have fewer
OTHER_UNIT = 1e4  # times brighter or fainter than in training, which a sample by itself hardly is
MANY = 2**20  # points that are looked at to say what a pack is like


def read_curves(config: Config, workers: int, bands: Sequence[str] = ()) -> Packed:
    """bands: those of a network; none: all that the files have."""
    if not config.data:
        raise Mistake(
            "--data is missing: give a folder of light curves, a file, or a manifest (.txt, one path a line)"
        )
    reading = Reading(**{name: getattr(config, name) for name in Reading.__dataclass_fields__})
    packed = pack_light_curves(
        list_light_curves(config.data), reading, config.store_dir, max(1, workers), bands
    )
    refuse_unstorable(packed)
    refuse_raised_and_others(packed)
    return packed


def curves_for(bands: Sequence[str], config: Config, workers: int) -> tuple[Packed, list[str]]:
    """The curves in the bands of a trained network, by name, and what is to be said of that.

    Raises: Mistake where they have none of these.
    """
    packed = read_curves(config, workers)
    there = packed.bands
    if there == tuple(bands):
        return packed, packed.summary()
    shown = f"--data {config.data}: bands {' '.join(there)}"
    unnamed = len(there) == len(bands) and not (are_named(there) and are_named(bands))
    if not set(bands) & set(there) and not unnamed:
        raise Mistake(f"{shown}, but the network was trained with {' '.join(bands)}: expected some of these")
    lines = [f"{shown}, the network's are {' '.join(bands)}"]
    packed = read_curves(config, workers, bands)
    absent, unknown = ([band for band in a if band not in b] for a, b in ((bands, there), (there, bands)))
    if unnamed and len(absent) == len(bands):
        lines.append("they are taken in their order, as one side does not name them")
    else:
        lines += [f"not observed: {' '.join(absent)}"] if absent else []
        lines += [f"not known to the network and left out: {' '.join(unknown)}"] if unknown else []
    return packed, ["; ".join(lines), *packed.summary()]


def split_curves(packed: Packed, config: Config) -> np.ndarray:
    """[N] the split of each curve by a hash of its source; "" for those that are refused or too short."""
    splits = split.split_of(packed.curves["source"], config, blind=False)
    return np.where(packed.good & (packed.points >= config.min_points), splits, "")


def make_examples(packed: Packed, chosen: np.ndarray, config: Config) -> LightCurves:
    return LightCurves(packed, np.flatnonzero(chosen), config.max_points)


def noise_of(config: Config, packed: Packed) -> Noise:
    """How the curves of a pack are noisy, and the likelihood to use."""
    good = packed.good
    counted = bool(packed.has_counts[good].all())
    if config.likelihood == "poisson" and not counted:
        raise Mistake(
            f"--likelihood poisson: {int((good & ~packed.has_counts).sum())} curves have rates and no "
            "counts; use scaled_poisson, student_t, or auto"
        )
    below, lowest = (0.0, 0.0) if counted else share_below_zero(packed)
    signed = below > FEW_BELOW if config.signed == "auto" else config.signed == "yes"
    if signed and config.likelihood in ("poisson", "scaled_poisson"):
        raise Mistake(
            f"--likelihood {config.likelihood}: {100 * below:.3g} % of the rates lie below zero by more than "
            f"three errors (the lowest is {lowest:.4g}), as those of differences of images do, and counts "
            "cannot; use student_t or auto, or --signed no if these are bad data"
        )
    kind = "counts" if counted else "signed" if signed else "rates"
    automatic = {"counts": "poisson", "rates": "scaled_poisson", "signed": "student_t"}[kind]
    return Noise(kind, automatic if config.likelihood == "auto" else config.likelihood)


def noise_to_judge(recorded: Mapping[str, Any], config: Config, packed: Packed) -> tuple[Noise, list[str]]:
    """The noise that a trained network's record names, as far as these curves have it, and what to say."""
    counted = bool(packed.has_counts[packed.good].all())
    kind = recorded.get("kind", "counts" if recorded["likelihood"] == "poisson" and counted else "normal")
    noise = Noise(kind, recorded["likelihood"], tuple(recorded.get("unit", ())))
    if "counts" in kind or noise.likelihood == "poisson":
        if not counted:
            without = int((packed.good & ~packed.has_counts).sum())
            line = f"{without} curves have rates and no counts, which the network was trained with: all are "
            return Noise("rates", "scaled_poisson"), [
                line + "judged by the counts that rates are equivalent to"
            ]
    notes = []
    if kind != "signed" and not counted:
        below, lowest = share_below_zero(packed)
        if below > FEW_BELOW:
            notes = [
                f"{100 * below:.3g} % of the rates lie below zero by more than three errors (the lowest is "
                f"{lowest:.4g}), which the network was not trained for"
            ]
    return noise, notes


def bands_in_turn(packed: Packed, chosen: np.ndarray, config: Config) -> str:
    """A line where too few points of the curves `chosen` have all bands for statistics over all of them."""
    if len(packed.bands) == 1:
        return ""
    number = np.concatenate([[0], np.cumsum(packed.fields["observed"].all(1))])
    together = number[packed.first + packed.points] - number[packed.first]
    few = chosen & (together < np.minimum(packed.points, max(config.min_points, TOGETHER)))
    if few.sum() <= FEW_IN_TURN * chosen.sum():
        return ""
    return (
        f"{int(few.sum()):,} of {int(chosen.sum()):,} curves have their bands observed in turn (fewer than "
        f"{TOGETHER} points of all): statistics by hand are each band's own, hardness is of common windows"
    )


def line_of_another_unit(packed: Packed, typical: list[float]) -> str:
    """A line where the rates are of quite another size than those [C] of training."""
    rate, observed = some_of(packed.fields["rate"]), some_of(packed.fields["observed"])
    for band, usual, sizes, there in zip(packed.bands, typical, rate.T, observed.T):
        known = np.abs(sizes[there & (sizes != 0)])
        here = float(np.median(known)) if len(known) else usual
        if not 1 / OTHER_UNIT < here / usual < OTHER_UNIT:
            return (
                f"rates in band {band} are of about {here:.3g}, those of training of {usual:.3g}: is the "
                "unit another? the network is told of it as of brightness"
            )
    return ""


def line_of_long_curves(packed: Packed, chosen: np.ndarray, config: Config) -> str:
    """What is done to curves longer than `max_points`, or nothing."""
    points = packed.points[chosen]
    long = points > config.max_points
    if not long.any():
        return ""
    return (
        f"{int(long.sum()):,} of {len(points):,} curves have more than {config.max_points:,} points (up to "
        f"{points.max():,}): neighbouring points are joined, counts added up; --max_points takes more"
    )


def share_below_zero(packed: Packed) -> tuple[float, float]:
    """The share of (at most some million) rates that lie below zero by more than three errors;
    the lowest of all.
    """
    rate, error, observed = (some_of(packed.fields[name]) for name in ("rate", "error_up", "observed"))
    below = observed & (rate < -3 * error)
    lowest = rate.min(initial=0.0, where=observed)
    return float(below.sum() / max(observed.sum(), 1)), float(lowest)


def some_of(field: np.ndarray) -> np.ndarray:
    """Of [P, C] points evenly some million."""
    return np.asarray(field[:: 1 + len(field) // MANY])


def refuse_unstorable(packed: Packed) -> None:
    """Refuses rates that float32, in which they are stored, cannot hold: those of 1e-42 have four digits,
    and their errors none.
    """
    rate, error, observed = (some_of(packed.fields[name]) for name in ("rate", "error_up", "observed"))
    sizes = np.abs(rate[observed & (rate != 0)])
    typical = float(np.median(sizes)) if len(sizes) else 1.0
    without = observed & ~((error > 0) & np.isfinite(error) & np.isfinite(rate))
    if LEAST < typical < MOST and not without.any():
        return
    where = (
        f"{int(without.sum()):,} of {int(observed.sum()):,} have an error of {error[without][0]:.3g}"
        if without.any()
        else f"expected {LEAST:g} to {MOST:g}"
    )
    raise Mistake(
        f"--data: the rates are of about {typical:.3g} (median), which float32 does not hold with their "
        f"errors ({where}): multiply rates and errors by one factor, such as that of a smaller unit (nJy, "
        "1e-17 erg/s/cm2), and give these"
    )


def refuse_raised_and_others(packed: Packed) -> None:
    """Refuses curves of which some were too small for float32 as they stood and others not: one unit is
    wanted of all.
    """
    units = packed.curves.loc[packed.good, "unit"]
    raised = units.str.startswith(tuple(f"{size:g} " for size in RAISED)).to_numpy(bool)
    if raised.any() and units.nunique() > 1:
        example, other = units[raised].iloc[0], (units[units != units[raised].iloc[0]].iloc[0] or "no unit")
        raise Mistake(
            f"--data: {int(raised.sum()):,} of {len(units):,} curves are stored in {example}, as 32-bit "
            f"numbers do not hold their rates, and others in {other}: multiply all rates and errors by one "
            "factor, such as that of a smaller unit, and give these"
        )


def refuse_another_unit(packed: Packed, trained: Sequence[str]) -> None:
    """Raises: Mistake where rates are in a unit that the training had none of, and that is not converted."""
    if line := unit_conflict(trained, packed.units):
        raise Mistake(f"--data: {line}: give the rates in that unit, or train on these")


def content_digest(packed: Packed, splits: np.ndarray) -> str:
    """What the data are, wherever they lie."""
    table = packed.curves[["source", "points", "bands", "reason"]].assign(split=splits).to_csv(index=False)
    digest = hashlib.blake2b(table.encode(), digest_size=16)
    for name in ("time", "observed", "rate", "error_low", "error_up"):
        digest.update(packed.fields[name])
    return digest.hexdigest()
