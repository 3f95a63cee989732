"""Every real FITS image at hand through the source that is made for it,
as a table (docs/catalogues.md shows it).

    python benchmarks/real_files.py --root ../shared/data/lens

Values are compared with astropy's, positions with astropy.wcs's: the last columns are the largest
differences.
"""

import argparse
import csv
import math
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.catalogues.planes import read_hdus  # noqa: E402
from data.cutouts.source import Source, open_source  # noqa: E402


MAX_MASKED = 0.05  # of the pixels of a survey's stamp: VICS82 has holes, PS1's z stamp has lost a third


class Entry(NamedTuple):
    """One file; differences in the units of the pixels, in arcsec, in arcsec a pixel."""

    file: str
    source: str
    shape: str
    images: int
    bands: str
    ra: float  # of the first object, deg
    dec: float
    pixel_scale: float  # arcsec
    finite: float  # fraction of the pixels
    refused: int  # images
    difference: float
    apart: float
    scale_apart: float


def real_images(root: Path) -> list[Path]:
    """The FITS files that hold images, not tables alone."""
    return [path for path in sorted(root.rglob("*.fits")) if any(hdu.shape for hdu in read_hdus(path))]


def source_of(path: Path, scratch: Path) -> Source:
    """The source of one real file, alone in a folder; images as they are,
    those of one file that differ cropped to the smallest.
    """
    folder = scratch / "_".join(path.parts[-3:-1]) / path.stem
    folder.mkdir(parents=True)
    (folder / path.name).symlink_to(path.resolve())
    if "slacs_hst" in path.parts and path.parent.name != "psf":
        return open_source({"kind": "hst", "input": str(folder), "catalog": "slacs"})
    if path.parent.name == "galaxy_zoo_decals":
        return open_source({"kind": "galaxy_zoo", "images": str(folder)})
    found = [hdu for hdu in read_hdus(path) if hdu.shape]
    rows = [{"file": path.name}]
    if len(found) > 1:
        rows = [
            {"file": path.name, "object": f"{path.stem}-{hdu.number}", "hdu": hdu.number} for hdu in found
        ]
    elif len(found[0].shape) == 3:
        rows = [
            {"file": path.name, "object": f"des-{plane}", "plane": plane, "band": path.stem}
            for plane in range(found[0].shape[0])
        ]
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    sides = {side for hdu in found for side in hdu.plane_shape}
    crop = min(sides) if len({hdu.plane_shape for hdu in found}) > 1 else 0
    return open_source(
        {
            "kind": "survey_fits",
            "input": str(folder),
            "table": str(folder / "table.csv"),
            "crop": crop,
            "max_masked": MAX_MASKED,
        }
    )


def entry(path: Path, root: Path, scratch: Path) -> Entry:
    warnings.simplefilter("ignore")  # astropy's, of old spellings
    source = source_of(path, scratch)
    images, bad = source.read(range(len(source.index)))
    with fits.open(path) as found:
        with_pixels = [hdu for hdu in found if hdu.is_image and hdu.shape]
        first, theirs = (
            with_pixels[0],
            np.concatenate([_middle(hdu.data, source.shape) for hdu in with_pixels]),
        )
        used = np.isfinite(theirs) & np.isin(np.arange(len(theirs)), list(bad), invert=True)[:, None, None]
        difference = float(np.abs(images - theirs)[used].max()) if used.any() else math.nan
        known = source.metadata.iloc[0]
        wcs = WCS(first.header, naxis=2)
        apart = scale_apart = math.nan
        if wcs.has_celestial:
            ra, dec = wcs.all_pix2world((first.shape[-1] - 1) / 2, (first.shape[-2] - 1) / 2, 0)
            apart = float(np.hypot((known["ra"] - ra) * np.cos(np.radians(dec)), known["dec"] - dec) * 3600)
            scale_apart = float(
                abs(known["pixel_scale"] - np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600)
            )
    return Entry(
        str(path.relative_to(root)),
        source.recipe["kind"],
        "x".join(map(str, first.shape)),
        len(source.index),
        known["bands"],
        known["ra"],
        known["dec"],
        known["pixel_scale"],
        float(np.isfinite(theirs).mean()),
        len(bad),
        difference,
        apart,
        scale_apart,
    )


def _middle(data: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """float32 [planes, *shape]"""
    planes = data.reshape(-1, *data.shape[-2:]).astype(np.float32)
    top, left = ((have - want) // 2 for have, want in zip(planes.shape[-2:], shape))
    return planes[:, top : top + shape[0], left : left + shape[1]]


def entries(root: Path) -> list[Entry]:
    with tempfile.TemporaryDirectory() as scratch:
        return [entry(path, root, Path(scratch)) for path in real_images(root)]


def markdown(rows: list[Entry]) -> str:
    lines = [
        "| file | source | shape | images | bands | RA | Dec | arcsec/pixel | finite | refused | values | "
        "position | scale |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def text(value: float, form: str) -> str:
        return "" if math.isnan(value) else format(value, form)

    for row in rows:
        cells = [
            row.file,
            row.source,
            row.shape,
            row.images,
            row.bands,
            text(row.ra, ".5f"),
            text(row.dec, ".5f"),
            text(row.pixel_scale, ".4f"),
            f"{row.finite:.4g}",
            row.refused or "",
            text(row.difference, ".1g"),
            text(row.apart, ".1g"),
            text(row.scale_apart, ".1g"),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("../shared/data/lens"))
    print(markdown(entries(parser.parse_args().root)))


if __name__ == "__main__":
    main()
