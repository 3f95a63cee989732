"""data/cutouts/fits.py and data/cutouts/fits_blocks.py beside astropy and fitsio:
files a second on one core, and whether the pixels are equal.

    python benchmarks/fits_speed.py --files 1024 --repeats 7

Cutouts of 41x41 in the page cache, each side to float32 arrays. Ours are read_cutouts, which fills the array
of a block as packing does, and read_cutout, with all of their checks; the peers are told where the image is
and check nothing. The sides take turns in one process; the least process time of the repeats counts.
With "own headers" each file has another OBJECT.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import astropy  # noqa: E402  the path above comes first
import numpy as np  # noqa: E402
from astropy.io import fits  # noqa: E402

from data.cutouts.fits import read_cutout  # noqa: E402
from data.cutouts.fits_blocks import read_cutouts  # noqa: E402
from simulations.challenge import files as challenge  # noqa: E402
from table import Row, show  # noqa: E402
from utils import config  # noqa: E402

try:
    import fitsio
except ImportError:
    fitsio = None
    print(
        "fits_speed.py: fitsio is not installed: pip install -r requirements-benchmarks.txt", file=sys.stderr
    )

SHAPE, BAND = (41, 41), "band_g"
PEERS = {
    "astropy": f"astropy {astropy.__version__}",
    "fitsio": f"fitsio {fitsio.__version__}" if fitsio else "fitsio",
}
# of images and of tables
AIMS = {False: {"astropy": 40.0, "fitsio": 4.5}, True: {"astropy": 60.0, "fitsio": 3.0}}


@dataclass(frozen=True)
class Config:
    files: int = 1024  # of each form, as many as packing reads at once
    repeats: int = 7  # turns of each side; the fastest counts
    seed: int = 0  # of the pixels
    json: str = ""  # also write the rows to this file


def by_astropy_image(path: str, hdu: int) -> np.ndarray:
    with fits.open(path, memmap=False) as hdus:
        return np.array(hdus[hdu].data, dtype=np.float32)


def by_astropy_table(path: str, hdu: int) -> np.ndarray:
    with fits.open(path, memmap=False) as hdus:
        return np.array(hdus[hdu].data.field(BAND)[0], dtype=np.float32)


def by_fitsio_image(path: str, hdu: int) -> np.ndarray:
    return fitsio.read(path, ext=hdu).astype(np.float32)


def by_fitsio_table(path: str, hdu: int) -> np.ndarray:
    return fitsio.read(path, ext=hdu, columns=BAND)[0].astype(np.float32)


def of_images(
    kind: str, extension: bool = False, own: bool = False
) -> Callable[[Path, int, np.ndarray], None]:
    def write(path: Path, number: int, image: np.ndarray) -> None:
        hdus = (
            [fits.PrimaryHDU(), fits.ImageHDU(image.astype(kind))]
            if extension
            else [fits.PrimaryHDU(image.astype(kind))]
        )
        if own:
            hdus[0].header["OBJECT"] = f"object_{number:08d}"
        fits.HDUList(hdus).writeto(path)

    return write


def of_challenge(folder: str) -> Callable[[Path, int, np.ndarray], None]:
    def write(path: Path, number: int, image: np.ndarray) -> None:
        path.write_bytes(challenge.encode(folder, f"D1_L_{number:08d}", 1, "g", image))

    return write


def of_vectors(path: Path, number: int, image: np.ndarray) -> None:
    column = fits.Column(BAND, f"{image.size}E", array=image.reshape(1, -1))
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([column])]).writeto(path)


FORMS = {  # name: (writer, HDU of the image, is a table)
    "primary float32": (of_images("f4"), 0, False),
    "primary float32, own headers": (of_images("f4", own=True), 0, False),
    "primary float64 (challenge, blind)": (of_challenge(challenge.BLIND), 0, False),
    "extension float32": (of_images("f4", extension=True), 1, False),
    "table 24A + 1681D (challenge)": (of_challenge("slsim_lenses"), 1, True),
    "table 1681E": (of_vectors, 1, True),
}


def each(read: Callable, paths: list[str], *arguments: int) -> None:
    for path in paths:
        read(path, *arguments)


def seconds(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Process time of each side, the least of its turns."""
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(repeats):
        for side, read in sides.items():
            start = time.process_time()
            read()
            best[side] = min(best[side], time.process_time() - start)
    return best


def measure_form(name: str, options: Config) -> list[Row]:
    write, hdu, table = FORMS[name]
    generator = np.random.default_rng(options.seed)
    peers = {"astropy": by_astropy_table if table else by_astropy_image}
    if fitsio:
        peers["fitsio"] = by_fitsio_table if table else by_fitsio_image
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{number}.fits" for number in range(options.files)]
        for number, path in enumerate(paths):
            write(Path(path), number, generator.normal(size=SHAPE))
        pixels = read_cutouts(paths, SHAPE)[0]
        wrong = sum(
            len(
                {
                    image.tobytes(),
                    read_cutout(path).tobytes(),
                    *(read(path, hdu).tobytes() for read in peers.values()),
                }
            )
            > 1
            for path, image in zip(paths, pixels)
        )
        sides = {
            "a block": lambda: read_cutouts(paths, SHAPE),
            "one at a time": lambda: each(read_cutout, paths),
        }
        for peer, read in peers.items():
            sides[peer] = lambda read=read: each(read, paths, hdu)
        spent = seconds(sides, options.repeats)
    equal = f"{wrong} of {options.files} differ" if wrong else f"{options.files} files to the bit, all sides"
    return [
        Row(
            f"{name}, {ours}",
            "files/s",
            options.files / spent[ours],
            PEERS[peer],
            options.files / spent[peer] if peer in spent else None,
            aim=AIMS[table][peer] if ours == "a block" else None,
            equal=equal,
        )
        for ours in ("a block", "one at a time")
        for peer in PEERS
    ]


def measure(options: Config) -> list[Row]:
    return [row for name in FORMS for row in measure_form(name, options)]


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
