"""data/fits.py beside astropy and fitsio: files a second on one core, one file at a time, and whether the pixels are equal.

    python benchmarks/fits_speed.py --files 400 --repeats 7

Cutouts of 41x41 in the page cache, each side to a float32 array. Ours is read_cutout with all of its checks; the peers are
told where the image is and check nothing. The sides take turns in one process; the least process time of the repeats counts.
The form "own headers" has a header of its own in each file, so that nothing is remembered from one file to the next.
"""
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import fitsio  # noqa: E402  the path above comes first
import numpy as np  # noqa: E402
from astropy.io import fits  # noqa: E402

from data import challenge  # noqa: E402
from data.fits import read_cutout  # noqa: E402
from utils import config  # noqa: E402

BAND = "band_g"


@dataclass(frozen=True)
class Config:
    files: int = 400     # of each form
    repeats: int = 7     # turns of each side; the fastest counts
    seed: int = 0        # of the pixels


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


def of_images(kind: str, extension: bool = False, own: bool = False) -> Callable[[Path, int, np.ndarray], None]:
    def write(path: Path, number: int, image: np.ndarray) -> None:
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(image.astype(kind))] if extension else [fits.PrimaryHDU(image.astype(kind))]
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


def main(argv: list[str]) -> None:
    options, = config.read(argv, Config)
    generator = np.random.default_rng(options.seed)
    print(f"files a second, process time, the fastest of {options.repeats} turns over {options.files} files")
    print(f"{'':36}{'ours':>9}{'astropy':>9}{'fitsio':>9}{'/astropy':>10}{'/fitsio':>9}   bit-equal")
    for name, (write, hdu, table) in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            paths = [f"{folder}/{number}.fits" for number in range(options.files)]
            for number, path in enumerate(paths):
                write(Path(path), number, generator.normal(size=(41, 41)))
            sides = {"ours": read_cutout,
                     "astropy": lambda path, hdu=hdu, read=by_astropy_table if table else by_astropy_image: read(path, hdu),
                     "fitsio": lambda path, hdu=hdu, read=by_fitsio_table if table else by_fitsio_image: read(path, hdu)}
            equal = all(len({side(path).tobytes() for side in sides.values()}) == 1 for path in paths)
            best = dict.fromkeys(sides, float("inf"))
            for _ in range(options.repeats):
                for side, read in sides.items():
                    start = time.process_time()
                    for path in paths:
                        read(path)
                    best[side] = min(best[side], time.process_time() - start)
        ours, astropy, peer = (options.files / best[side] for side in sides)
        print(f"{name:36}{ours:9,.0f}{astropy:9,.0f}{peer:9,.0f}{ours / astropy:10.1f}{ours / peer:9.1f}   {'yes' if equal else 'NO'}", flush=True)


if __name__ == "__main__":
    config.run(main)
