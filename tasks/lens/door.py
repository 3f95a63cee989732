"""A trained lens finder in a notebook: arrays in, probabilities out (trained.load)."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from contract import Batch
from data.bands import usual_name
from data.cutouts.blank import refuse_blank
from data.cutouts.buckets import DOMAINS
from data.cutouts.metadata import metadata_arrays
from evaluation import calibration as calibrations
from evaluation.predictions import logit
from tasks.lens import units
from tasks.lens.asked import answer_batch
from tasks.lens.config import Config, metadata_columns
from utils.checkpoint import bands_of
from utils.config import recorded
from utils.messages import say
from utils.mistake import Mistake

Pixels = np.ndarray | Tensor


class LensFinder:
    """A network that knows its bands and its preprocessing; `predict` gives what predict.py writes.

    bands        the bands of the channels, in their order
    image_size   pixels on a side
    pixel_scale  arcsec a pixel that it was trained with, where that is known (0.2 where it is not)
    record       of the checkpoint: options, and what the training knew of its data
    """

    def __init__(self, saved: Mapping[str, Any], network: nn.Module, device: torch.device):
        self.record = saved["record"]
        self.config = recorded(Config, self.record["options"])
        self.bands = tuple(bands_of(self.record))
        self.image_size = self.config.image_size
        self.pixel_scale = units.trained_pixel_scale(self.config, self.record["data"])
        self.curves = saved.get("calibration", {}).get("probability", {})
        self.network = network
        self.device = device

    def __repr__(self) -> str:
        return (
            f"LensFinder({self.config.model}, bands {' '.join(self.bands)} ({self.config.band_mode}), "
            f"{self.image_size} x {self.image_size} pixels, on {self.device})"
        )

    def predict(
        self,
        images: Pixels | Mapping[str, Pixels],
        present: Pixels | None = None,
        calibration: Literal["none", "temperature", "vector", "isotonic"] = "none",
        tta: bool = False,
        metadata: pd.DataFrame | None = None,
        domain: str = "",
        batch_size: int = 128,
    ) -> np.ndarray:
        """[N] float32, the probability that each image is of a strong lens.

        images: [N, C, H, W], raw pixels in the physical unit of the training (those of the files: no
            stretch, no normalisation), channels in the order of `bands`; or a dict of a [N, H, W] for each
            band, by any usual name, where a band that is left out is missing; or [N, H, W] for a network of
            one band, or of single bands (--band_mode single). Of single bands [N, C, H, W] gives the mean
            over the C images of an object. Any number type; on any device.
        present: [N, C] or [C] bool, which bands were observed; None: all.
        calibration: as validation of the training gave it (predict.py --calibration).
        tta: mean over the eight symmetries of the square.
        metadata: for a network with --use_metadata, a table of N rows with the columns that it was trained
            with, in their units (docs/catalogues.md); None, an absent column or NaN: not known.
        domain: slsim or hsc for smoothing by PSF; empty: not known.
        batch_size: images at once.

        An image that shows no sky in a band (NaN, a fill value, more than --max_blank of it one value) lacks
        that band, as in predict.py; one without any band has the probability NaN. Both are counted in a line.

        Raises: Mistake for arrays of another shape or far from the unit of the training, or a calibration
            that the checkpoint has not.
        """
        if calibration != "none" and calibration not in self.curves:
            raise Mistake(
                f"calibration {calibration!r}: expected none{''.join(f', {name}' for name in self.curves)}, "
                "which this checkpoint has (best.pt of a run that ended has them)"
            )
        if domain not in ("", *DOMAINS):
            raise Mistake(f"domain {domain!r}: expected one of {', '.join(DOMAINS)}, or nothing")
        pixels, present = self.channels(images, present)
        count, channels = pixels.shape[:2]
        known = self.known_metadata(metadata, count)
        self.compare_units(pixels, present)
        place = DOMAINS.index(domain) if domain else -1
        single = self.config.band_mode == "single"
        prob = np.full((count, channels if single else 1), np.nan, np.float32)
        refused: dict[int, str] = {}
        for start in range(0, count, batch_size):
            rows = slice(start, min(start + batch_size, count))
            image, there = readable(pixels[rows], present[rows], self.config.max_blank, start, refused)
            per_example = np.nonzero(there) if single else np.nonzero(there.any(1))
            if not len(per_example[0]):
                continue
            batch = dict(
                image=image[per_example][:, None] if single else image[per_example],
                present=there[per_example][:, None] if single else there[per_example],
                domain=np.full(len(per_example[0]), place),
            )
            batch |= {name: values[rows][per_example[0]] for name, values in known.items()}
            column = per_example[1] if single else 0
            prob[start + per_example[0], column] = self.ask(batch, tta, calibration)
        self.say_refused(refused, prob, channels)
        with_any = np.isfinite(prob).any(1)
        mean = np.full(count, np.nan, np.float32)
        mean[with_any] = np.nanmean(prob[with_any], axis=1, dtype=np.float64)
        return mean

    @torch.no_grad()
    def ask(self, batch: dict[str, np.ndarray], tta: bool, calibration: str) -> np.ndarray:
        """[B] float32 probabilities of one batch."""
        moved: Batch = {name: torch.from_numpy(values).to(self.device) for name, values in batch.items()}
        prob = answer_batch(self.network, moved, (), tta)["prob"].cpu().numpy()
        if calibration == "none":
            return prob
        return calibrations.apply_calibration(self.curves[calibration], logit(prob)).astype(np.float32)

    def channels(
        self, images: Pixels | Mapping[str, Pixels], present: Pixels | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(pixels [N, C, H, W] of any number type, present [N, C] bool)."""
        if isinstance(images, Mapping):
            images, present = self.of_named_bands(images, present)
        pixels = as_array(images)
        if pixels.ndim == 3:
            pixels = pixels[:, None]
        side = self.image_size
        single = self.config.band_mode == "single"
        channels = "1 or more" if single else len(self.bands)
        fits = pixels.ndim == 4 and (pixels.shape[1] >= 1 if single else pixels.shape[1] == len(self.bands))
        if not fits or pixels.shape[2:] != (side, side):
            raise Mistake(
                f"images of shape {list(as_array(images).shape)}: expected [N, {channels}, {side}, {side}], "
                f"the channels being the bands {' '.join(self.bands)}"
            )
        if present is None:
            return pixels, np.ones(pixels.shape[:2], dtype=bool)
        given = as_array(present)
        if given.dtype != bool or given.shape not in (pixels.shape[:2], pixels.shape[1:2]):
            raise Mistake(
                f"present of {given.dtype} and shape {list(given.shape)}: expected bool of shape "
                f"{list(pixels.shape[:2])} or {list(pixels.shape[1:2])}"
            )
        return pixels, np.broadcast_to(given, pixels.shape[:2])

    def of_named_bands(
        self, images: Mapping[str, Pixels], present: Pixels | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of a dict by band."""
        if present is not None:
            raise Mistake("present with a dict of bands: leave a missing band out of the dict instead")
        ours = {usual_name(band): band for band in self.bands}
        called = {ours.get(usual_name(band), band): as_array(array) for band, array in images.items()}
        unknown = [band for band in called if band not in self.bands]
        shapes = {array.shape for array in called.values()}
        if unknown or len(called) < len(images) or len(shapes) != 1 or len(next(iter(shapes))) != 3:
            there = ", ".join(f"{band} {list(as_array(array).shape)}" for band, array in images.items())
            raise Mistake(
                f"images of the bands {there or 'none'}: expected some of {' '.join(self.bands)}, each once, "
                "as [N, H, W] of one shape"
            )
        absent = np.zeros(next(iter(shapes)), np.float32)
        stacked = np.stack([called.get(band, absent) for band in self.bands], axis=1)
        return stacked, np.array([band in called for band in self.bands])

    def known_metadata(self, table: pd.DataFrame | None, count: int) -> dict[str, np.ndarray]:
        """metadata and metadata_mask [N, M], if the network was trained with metadata."""
        if not self.config.use_metadata:
            if table is not None:
                raise Mistake("metadata: this network was trained without (--use_metadata)")
            return {}
        columns = metadata_columns(self.config)
        if table is None:
            say(f"no metadata: {' '.join(columns)} are taken as not known")
            table = pd.DataFrame(index=range(count))
        if len(table) != count:
            raise Mistake(f"metadata of {len(table)} rows: expected {count}, a row an image")
        if absent := [name for name in columns if name not in table]:
            table = table.assign(**dict.fromkeys(absent, np.nan))
        values, known = metadata_arrays(table, columns)
        return dict(metadata=values, metadata_mask=known)

    def compare_units(self, pixels: np.ndarray, present: np.ndarray) -> None:
        """Says where pixels are of another unit than in training; raises Mistake where they are far off."""
        trained = self.record["data"].get("spread")
        if not trained or not units.depends_on_unit(self.config) or not present.any():
            return
        where = np.argwhere(present)
        some = where[np.unique(np.linspace(0, len(where) - 1, min(len(where), units.SAMPLED)).astype(int))]
        spreads = pixels[some[:, 0], some[:, 1]].reshape(len(some), -1).std(axis=1, dtype=np.float64)
        if np.isfinite(spreads).any():
            typical = float(np.median(spreads[np.isfinite(spreads)]))
            for line in units.compare_unit(self.config, trained, typical, "these images"):
                say(line)

    def say_refused(self, refused: dict[int, str], prob: np.ndarray, channels: int) -> None:
        if not refused:
            return
        number, reason = next(iter(refused.items()))
        without = int((~np.isfinite(prob)).all(1).sum())
        say(
            f"{len(refused):,} of {len(prob) * channels:,} images of a band show no sky and are taken as "
            f"missing (the first: image {number // channels}, channel {number % channels}: {reason}); "
            f"{without:,} have no band left, and the probability NaN"
        )


def as_array(values: Any) -> np.ndarray:
    """Values as numpy has them; a masked pixel is NaN."""
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    if isinstance(values, np.ma.MaskedArray):
        return values.astype(np.float32).filled(np.nan)
    return np.asarray(values)


def readable(
    pixels: np.ndarray, present: np.ndarray, max_blank: float, first: int, refused: dict[int, str]
) -> tuple[np.ndarray, np.ndarray]:
    """(image [B, C, H, W] float32, present [B, C]) without the images that show no sky, which `refused` gets:
    (first + B) * C + C -> the reason.
    """
    B, C = present.shape
    with np.errstate(over="ignore"):  # beyond float32 is not finite
        image = np.array(pixels, dtype=np.float32, order="C")
    there = np.array(present)
    image[~there] = 0
    flat = image.reshape(B * C, *image.shape[2:])
    bad = {}
    infinite = np.flatnonzero(~np.isfinite(flat.reshape(B * C, -1)).all(1))
    for row in infinite.tolist():
        bad[row] = f"{int((~np.isfinite(flat[row])).sum())} of {flat[row].size} pixels are not finite"
        flat[row] = 0
    refuse_blank(flat, max_blank, bad)
    for row, reason in bad.items():
        if there.flat[row]:
            there.flat[row] = False
            refused[first * C + row] = reason
    return image, there
