"""The strong gravitational lens finding challenges of the Bologna Lens Factory:
simulated cutouts in folders of bands, and a truth table.

First challenge (Metcalf et al. 2019, A&A 625, A119): Public/Band1../imageSDSS_R-100000.fits (R, I, G, U as
KiDS sees them, 101x101 at 0.2 arcsec) or Public/Band1/imageEUC_VIS-100000.fits (101x101 at 0.1 arcsec),
classifications.csv with ID, is_lens, Einstein_area, numb_pix_lensed_image, flux_lensed_image_in_sigma.
Second: EUC_VIS (200x200 at 0.1), EUC_Y, EUC_J, EUC_H (66x66 at 0.3), and a catalogue with ID, x_crit, y_crit,
    z_source, z_lens, ein_area, n_source_im, mag_eff, n_pix_source ...

The object is the ID, whatever folder a file lies in; bands are r, i, g, u of SDSS_R.. and VIS, Y, J, H of
EUC_VIS.. . The label is is_lens; where the table has no such column it is 1 if n_source_im > 0 and mag_eff >
1.6 and n_pix_source > 20, else 0, the definition that the second challenge gave to its participants. Both are
truth: confidence 1. A file without a row, or images without a table (the blind sets), have label -1.

Assumed, for lack of a written format: the ground images of the first challenge have the value 100 in masked
pixels (--masked_value; stars and defects of the real KiDS fields). Those are missing: filled by the mean of
their neighbours up to --max_masked, refused above. Pixel scales are the ones above where headers have no WCS.
"""

import os
import re
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from data.catalogues.masked import check_max_masked, filled_pixels, masked_share
from data.catalogues.planes import (
    central_pixels,
    check_finite,
    check_geometry,
    check_shape,
    common_shape,
    file_stem,
    fits_files,
    fitted_images,
    geometries,
    image_of,
    joined_bands,
    read_plane,
    shape_text,
)
from data.catalogues.sky import Place, place_on_sky
from data.catalogues.tables import is_numeric, numeric_column, read_table
from data.cutouts.fits import BadFile
from data.formats import Format
from utils.messages import first_of
from utils.mistake import Mistake

FORMATS = [
    Format(
        "Bologna lens finding challenges",
        "convert.py bologna; imageSDSS_R-100000.fits, imageEUC_VIS-100000.fits in any folders, truth with ID",
        "bands r, i, g, u and VIS, Y, J, H; label is_lens, else by n_source_im, mag_eff and "
        "n_pix_source; every number of the truth",
        "files with other names; more masked pixels (--masked_value) than --max_masked",
    ),
]
DOMAIN = "bologna"
NAME = re.compile(r"image_?([A-Za-z0-9]+?)_([A-Za-z0-9]+)-(\d+)")
SCALES = {"SDSS": 0.2, "EUC_VIS": 0.1, "EUC": 0.3}  # arcsec
CRITERIA = ("n_source_im", "mag_eff", "n_pix_source")
LOOKED_AT = 100
NOT_NUMBERS = {"id", "source_id"}


def open_source(
    input: str,
    labels: str = "",
    masked_value: float = 100.0,
    max_masked: float = 0.25,
    image_size: int = 0,
    crop: int = 0,
) -> "Bologna":
    """The images of a folder of folders. Raises: Mistake.

    labels: the truth, CSV. masked_value: of missing pixels in SDSS_* images. max_masked:
        share of them that is still filled.
    image_size, crop: pixels, 0 for none; crop is in the pixels of each band.
    """
    return Bologna(input, labels, masked_value, max_masked, image_size, crop)


class Bologna:
    """A Source (data/cutouts/source.py); the index follows from names and the truth. report:
    lines for the log.
    """

    def __init__(
        self, input: str, labels: str, masked_value: float, max_masked: float, image_size: int, crop: int
    ):
        check_geometry(image_size, crop)
        check_max_masked(max_masked)
        self.masked_value = float(masked_value)
        self.max_masked = max_masked
        self.image_size = image_size
        self.crop = crop
        self.recipe: dict[str, Any] = {
            "kind": "bologna",
            "input": os.path.abspath(input),
            "labels": labels and os.path.abspath(labels),
            "masked_value": masked_value,
            "max_masked": max_masked,
            "image_size": image_size,
            "crop": crop,
        }
        self.report: list[str] = []
        files = fits_files(input, report=self.report)
        named = [(found, path) for path in files if (found := NAME.fullmatch(file_stem(path)))]
        if not named:
            raise Mistake(
                f"--input {input!r} has no file named like imageSDSS_R-100000.fits or "
                f"imageEUC_VIS-100000.fits, the first is {os.path.basename(files[0])!r}: give the "
                "challenge's folder, or use `fits` with a table"
            )
        rows = sorted((found[3], f"{found[1]}_{found[2]}", path) for found, path in named)
        self.objects, self.cameras, self.files = (list(column) for column in zip(*rows))
        self.report.insert(0, f"{len(self.files):,} files of {len(set(self.objects)):,} objects")
        if len(named) < len(files):
            self.report.append(f"files with other names, not packed: {len(files) - len(named):,}")
        self.truth = self._truth(labels) if labels else None
        self.shape = self._shape()
        label = dict.fromkeys(self.objects, -1)
        if self.truth is not None:
            label |= {
                name: value
                for name, value in zip(self.truth.index, self._labels[0].tolist())
                if name in label
            }
        self.index = pd.DataFrame(
            {
                "path": self.files,
                "object": self.objects,
                "band": list(map(_band, self.cameras)),
                "domain": DOMAIN,
                "label": np.array([label[name] for name in self.objects], dtype=np.int8),
            }
        )

    def _truth(self, labels: str) -> pd.DataFrame:
        truth = read_table(labels, "--labels", said=self.report.append)
        key = next((name for name in truth.columns if name.lower() == "id"), None)
        if key is None:
            raise Mistake(
                f"--labels {labels!r} has no column ID: expected the challenge's truth table, it has "
                f"{', '.join(truth.columns[:6])}"
            )
        ids = truth[key].str.replace(r"\.0$", "", regex=True)
        if ids.duplicated().any():
            raise Mistake(
                f"--labels {labels!r} has ID {ids[ids.duplicated()].iloc[0]!r} twice: expected one row an "
                "object"
            )
        truth = truth.drop(columns=key).set_axis(ids, axis=0)
        known = set(self.objects)
        without_file = [name for name in truth.index if name not in known]
        without_row = [name for name in dict.fromkeys(self.objects) if name not in truth.index]
        if len(without_file) == len(truth):
            raise Mistake(
                f"--labels {labels!r}: none of its {len(truth):,} IDs is that of an image; it begins with "
                f"{ids.iloc[0]!r}, the images with {self.objects[0]!r}: give the truth of these images"
            )
        for what, names in (
            ("objects without a row, label -1", without_row),
            ("rows without a file", without_file),
        ):
            if names:
                self.report.append(f"{what}: {len(names):,} ({first_of(names)})")
        return truth

    @cached_property
    def _labels(self) -> tuple[np.ndarray, str]:
        """(int8 [rows of the truth], who says so)."""
        lower = {name.lower(): name for name in self.truth.columns}
        if "is_lens" in lower:
            values = self.truth[lower["is_lens"]].str.lower().replace({"true": "1", "false": "0"})
            values = numeric_column(pd.DataFrame({"is_lens": values}), "is_lens", "--labels")
            if not np.isin(values[np.isfinite(values)], (0, 1)).all():
                raise Mistake(
                    f"--labels: is_lens has {values[~np.isin(values, (0, 1))][0]:g}, expected 1 (lens) or 0"
                )
            return np.where(np.isfinite(values), values, -1).astype(np.int8), "bologna:is_lens"
        if missing := [name for name in CRITERIA if name not in lower]:
            raise Mistake(
                f"--labels has neither a column is_lens nor {missing[0]}: expected is_lens, or "
                f"{', '.join(CRITERIA)}"
            )
        images, magnification, size = (
            numeric_column(self.truth, lower[name], "--labels") for name in CRITERIA
        )
        known = np.isfinite(images) & np.isfinite(magnification) & np.isfinite(size)
        is_lens = (images > 0) & (magnification > 1.6) & (size > 20)
        return np.where(known, is_lens, -1).astype(
            np.int8
        ), "bologna:n_source_im>0,mag_eff>1.6,n_pix_source>20"

    def _shape(self) -> tuple[int, int]:
        first_of_camera = {camera: path for camera, path in zip(reversed(self.cameras), reversed(self.files))}
        paths = [*first_of_camera.values(), *self.files[:: max(1, len(self.files) // LOOKED_AT)]]
        shapes = geometries(
            ((path, lambda path=path: image_of(path)[1].plane_shape) for path in paths), "files"
        )
        return common_shape(shapes, self.image_size, self.crop)

    @cached_property
    def metadata(self) -> pd.DataFrame:
        first: dict[str, int] = {}
        bands: dict[str, list[str]] = {}
        for number, name in enumerate(self.objects):
            first.setdefault(name, number)
            bands.setdefault(name, []).append(_band(self.cameras[number]))
        places = [self._place(number) for number in first.values()]
        metadata = pd.DataFrame(
            {
                "object": list(first),
                "source_catalog": DOMAIN,
                "instrument": [self.cameras[number] for number in first.values()],
                "bands": [joined_bands(dict.fromkeys(names)) for names in bands.values()],
                "ra": [found.ra for found in places],
                "dec": [found.dec for found in places],
                "pixel_scale": [found.pixel_scale for found in places],
                "label_source": "",
                "label_confidence": np.nan,
            }
        )
        metadata["instrument"] = metadata["instrument"].str.replace(
            r"^EUC_.*", "Euclid (simulated)", regex=True
        )
        metadata["instrument"] = metadata["instrument"].str.replace(
            r"^SDSS_.*", "KiDS (simulated)", regex=True
        )
        if self.truth is None:
            return metadata
        rows = self.truth.index.get_indexer(list(first))
        known = rows >= 0
        labelled = known & (self._labels[0][rows] >= 0)
        metadata["label_source"] = np.where(labelled, self._labels[1], "")
        metadata["label_confidence"] = np.where(labelled, 1.0, np.nan)
        columns = {}
        for name in self.truth.columns:
            if name.lower() in NOT_NUMBERS or not is_numeric(self.truth[name]):
                continue
            values = np.where(known, numeric_column(self.truth, name, "--labels")[rows], np.nan)
            if name.lower() == "z_lens":
                # objects without a lens have 0 or less there
                metadata["redshift"] = np.where(values > 0, values, np.nan)
            columns[f"bologna_{name.lower()}"] = values.astype(np.float32)
        return pd.concat([metadata, pd.DataFrame(columns)], axis=1)

    def _place(self, number: int) -> Place:
        """Of the image, as it is stored."""
        camera = self.cameras[number]
        try:
            primary, hdu = image_of(self.files[number])
            found = place_on_sky(hdu.shape, hdu.header, primary, image_size=self.image_size, crop=self.crop)
        except (BadFile, Mistake):
            return Place()
        if not np.isnan(found.pixel_scale):
            return found
        scale = SCALES.get(camera, SCALES.get(camera.split("_")[0], np.nan))
        found = found._replace(scale_x=scale, scale_y=scale, pixel_scale=scale)
        kept = (self.crop, self.crop) if self.crop else hdu.shape[-2:]
        return found.resampled(kept, (self.image_size, self.image_size)) if self.image_size else found

    def read(self, rows: range) -> tuple[np.ndarray, dict[int, str]]:
        images = np.zeros((len(rows), *self.shape), dtype=np.float32)
        bad = {}
        for at, row in enumerate(rows):
            try:
                images[at] = self._image(row)
            except BadFile as error:
                bad[row] = str(error)
        return images, bad

    def _image(self, row: int) -> np.ndarray:
        image = read_plane(self.files[row], image_of(self.files[row])[1])
        if image.ndim != 2:
            raise BadFile(f"wrong geometry: {shape_text(image.shape)}, expected H x W")
        image = central_pixels(image, self.crop)
        check_finite(image)
        if self.cameras[row].startswith("SDSS") and (mask := image == np.float32(self.masked_value)).any():
            masked_share(mask, self.max_masked)
            image = filled_pixels(image, mask)
        image = fitted_images(image[None], self.image_size, 0)
        check_shape(image, self.shape)
        return image[0]


def _band(camera: str) -> str:
    """SDSS_R -> r, EUC_VIS -> VIS."""
    survey, band = camera.split("_", 1)
    return band.lower() if survey == "SDSS" else band
