"""Spoils FITS files in a hundred thousand ways and counts what our readers do wrong with them:
everything should be 0.

    python benchmarks/fuzz_fits.py --mutations 100000

    crashes           anything is raised but BadFile
    hangs             more than 50 ms of process time for a file
    wrong geometry    an array that is not float32 41x41, or one of a file whose headers plainly declare
                      another geometry
    disagreements     our own reader takes the file and its pixels are not, to the bit,
                      those of astropy for it
    accepted alone    our own reader takes a file that the astropy path refuses
    memory            tracemalloc's peak is over twice the file's size, unpacked, and 64 kB;
                      1 MB if astropy's objects come in
    block differs     read_cutouts, which meets the file among others and after sound ones,
                      gives other pixels or another reason than read_cutout

A slow read is tried again, so that what the machine or a first import takes is not the file's fault.
"""

import gzip
import io
import resource
import shutil
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np  # noqa: E402  the path above comes first
from astropy.io import fits  # noqa: E402

from data.cutouts.fits import BadFile, by_astropy, fits_bytes, read_cutout  # noqa: E402
from data.cutouts.fits_blocks import read_cutouts  # noqa: E402
from data.cutouts.fits_layout import BLOCK, CARD, KNOWN, find_image, padded, plain_pixels  # noqa: E402
from simulations.challenge import files as challenge  # noqa: E402
from table import Row, show  # noqa: E402
from utils import config  # noqa: E402

SHAPE = (41, 41)
AT_ONCE = 100  # spoiled files in a block
WRONG = ("crashes", "hangs", "wrong geometry", "disagreements", "accepted alone", "memory", "block differs")
LONGEST_READ = 0.05  # s
OWN_OBJECTS = 2**16  # bytes that do not grow with the file: cards as Python objects, the window of gzip
ASTROPY_OBJECTS = 2**20  # ... of astropy: headers and columns
NUMBERS = [
    0,
    1,
    -1,
    2,
    8,
    16,
    -32,
    -64,
    40,
    42,
    1681,
    999,
    1000,
    2**31 - 1,
    2**31,
    2**40,
    2**63,
    10**18,
    10**30,
]
EXTENSIONS = [b"IMAGE", b"BINTABLE", b"TABLE", b"A3DTABLE", b"IUEIMAGE", b"FOREIGN", b"FITS", b"", b"image"]
CARDS = [
    b"BSCALE  =                  2.0",
    b"BZERO   =                32768",
    b"BLANK   =                    0",
    b"BSCALE  = 'two     '",
    b"TNULL1  =                    0",
    b"TSCAL1  =                  2.0",
    b"TSCAL2  =                  2.0",
    b"TZERO2  =                  1.0",
    b"TDIM2   = '(1681,1)'",
    b"TDIM1   = '(41,41)'",
    b"TFORM2  = '1681E   '",
    b"TTYPE1  = 'band_g  '",
    b"TTYPE2  = 'image   '",
    b"HIERARCH BSCALE = 2.0",
    b"HIERARCH NAXIS1 = 3",
    b"GROUPS  =                    T",
    b"PCOUNT  =                 2880",
    b"GCOUNT  =                    2",
    b"ZIMAGE  =                    T",
    b"THEAP   =                  100",
    b"EXTEND  =                    F",
    b"EXTEND  = maybe",
    b"NAXIS3  =                    7",
    b"NAXIS   =                    3",
    b"BITPIX  =                  -64",
    b"XTENSION= 'IMAGE   '",
    b"SIMPLE  =                    F",
    b"END",
    b"END     junk",
    b"CONTINUE  'more'",
    b"LONG    = 'text&'",
    b"bscale  =                  2.0",
    b" BSCALE =                  2.0",
    b"BSCALE= 2.0",
    b"OBJECT  = 'unclosed",
    b"DP1     = 'BSCALE: 2'",
]


@dataclass(frozen=True)
class Config:
    mutations: int = 100_000  # files to spoil and read
    seed: int = 0  # of the files and of what is done to them
    json: str = ""  # also write the rows to this file


def valid_files(rng: np.random.Generator) -> list[bytes]:
    """One of each form that the challenge and its like come in."""
    image = rng.normal(size=SHAPE)

    def column(name, letter, dim=None):
        return fits.Column(
            name, f"{image.size}{letter}", dim=dim, array=image.reshape(1, *(SHAPE if dim else [-1]))
        )

    def content(*hdus):
        stream = io.BytesIO()
        fits.HDUList(list(hdus)).writeto(stream)
        return stream.getvalue()

    scalars = [
        fits.Column(name, form, array=[1]) for name, form in (("mag", "E"), ("class", "I"), ("lens", "L"))
    ]
    return [
        content(fits.PrimaryHDU(image.astype("f4"))),
        challenge.encode(challenge.BLIND, "object", 1, "g", image),
        content(fits.PrimaryHDU((image * 100).astype("i2"), fits.Header([("HISTORY", "x" * 70)] * 80))),
        content(fits.PrimaryHDU(), fits.ImageHDU(image.astype("f4")), fits.ImageHDU(image)),
        challenge.encode("slsim_lenses", "D1_L_00000007", 1, "r", image),
        content(fits.PrimaryHDU(), fits.BinTableHDU.from_columns([column("image", "E")])),
        content(
            fits.PrimaryHDU(), fits.BinTableHDU.from_columns([*scalars, column("pixels", "D", "(41,41)")])
        ),
        content(fits.PrimaryHDU((image * 100).astype("u2"))),
    ]


def header_bytes(raw: bytes) -> int:
    """As far as headers go, about: the first three blocks of which most are text."""
    return min(len(raw), BLOCK * (2 if raw[BLOCK : BLOCK + 8] == b"XTENSION" else 1))


def spoil_text(rng, raw):
    spoiled = bytearray(raw)
    for _ in range(rng.integers(1, 5)):
        spoiled[rng.integers(0, header_bytes(raw))] = rng.integers(32, 127)
    return bytes(spoiled)


def spoil_bytes(rng, raw):
    spoiled = bytearray(raw)
    for _ in range(rng.integers(1, 5)):
        spoiled[rng.integers(0, header_bytes(raw))] = rng.integers(0, 256)
    return bytes(spoiled)


def spoil_data(rng, raw):
    spoiled = bytearray(raw)
    spoiled[rng.integers(header_bytes(raw), len(raw))] ^= 1 << int(rng.integers(8))
    return bytes(spoiled)


def truncate(rng, raw):
    return raw[: rng.integers(0, len(raw))] + bytes(int(rng.choice([0, 0, 1, 100, BLOCK])))


def spoil_number(rng, raw):
    at = [
        at
        for at in range(0, header_bytes(raw), CARD)
        if raw[at + 8 : at + 10] == b"= " and raw[at + 29 : at + 30].isdigit()
    ]
    at = int(rng.choice(at))
    return raw[: at + 10] + str(NUMBERS[rng.integers(len(NUMBERS))]).rjust(20).encode()[:70] + raw[at + 30 :]


def spoil_extension(rng, raw):
    name = EXTENSIONS[rng.integers(len(EXTENSIONS))].ljust(8)
    at = raw.find(b"XTENSION= '")
    return raw[: at + 11] + name + raw[at + 19 :] if at > 0 else name + raw[8:]


def spoil_cards(rng, raw):
    """Inserts, deletes, swaps or doubles cards of a header."""
    start = BLOCK * int(rng.integers(header_bytes(raw) // BLOCK))
    cards = [raw[at : at + CARD] for at in range(start, start + BLOCK, CARD)]
    one, other = (int(place) for place in rng.integers(0, 14, 2))
    how = rng.integers(5)
    if how < 2:
        cards[one:one] = [CARDS[rng.integers(len(CARDS))].ljust(CARD)]
    elif how == 2:
        del cards[one]
    elif how == 3:
        cards[one], cards[other] = cards[other], cards[one]
    else:
        cards[one:one] = [cards[other]]
    return raw[:start] + b"".join(cards).ljust(BLOCK)[:BLOCK] + raw[start + BLOCK :]


def spoil_blocks(rng, raw):
    blocks = [raw[at : at + BLOCK] for at in range(0, len(raw), BLOCK)]
    one, other = rng.integers(0, len(blocks), 2)
    how = rng.integers(4)
    if how == 0:
        blocks[one:one] = [blocks[other]] * int(rng.integers(1, 20))
    elif how == 1:
        del blocks[one]
    elif how == 2:
        blocks[one], blocks[other] = blocks[other], blocks[one]
    else:
        blocks += blocks[1:] * int(rng.integers(1, 10))
    return b"".join(blocks)


def random_bytes(rng, raw):
    start = rng.choice([0, 9, 80, 400, 640])
    return raw[:start] + rng.bytes(int(rng.integers(0, len(raw))))


def spoil_gzip(rng, raw):
    packed = bytearray(gzip.compress(spoil_text(rng, raw) if rng.integers(2) else raw, 1))
    if rng.integers(2):
        packed[rng.integers(len(packed))] ^= 1 << int(rng.integers(8))
    return bytes(packed)


@cache
def wrong_geometries() -> list[bytes]:
    """Sound files of as many pixels or nearly, in other geometries."""
    files, generator = [], np.random.default_rng(0)
    for shape, kind in product(
        [(1681,), (1, 41, 41), (41, 41, 1), (40, 41), (41, 42), (1681, 1), (1, 1681), (82, 41), (41, 82)],
        "fdh",
    ):
        image = generator.normal(size=shape, scale=100).astype(kind)
        sides, letter = ",".join(map(str, shape[::-1])), {"f": "E", "d": "D", "h": "I"}[kind]
        dim = f"({sides})" if len(shape) > 1 else "(1681,1)"
        column = fits.Column("image", f"{image.size}{letter}", dim=dim, array=image[None])
        for hdus in (
            [fits.PrimaryHDU(image)],
            [fits.PrimaryHDU(), fits.ImageHDU(image)],
            [fits.PrimaryHDU(), fits.BinTableHDU.from_columns([column])],
        ):
            stream = io.BytesIO()
            fits.HDUList(hdus).writeto(stream)
            files.append(stream.getvalue())
    return files


def other_geometry(rng, raw):
    return wrong_geometries()[rng.integers(len(wrong_geometries()))]


MUTATIONS: list[Callable] = [
    spoil_text,
    spoil_bytes,
    spoil_data,
    truncate,
    spoil_number,
    spoil_extension,
    spoil_cards,
    spoil_blocks,
    random_bytes,
    spoil_gzip,
    other_geometry,
]


def same_as_astropy(raw: bytes, pixels: np.ndarray) -> str:
    headers, layout = find_image(raw, SHAPE)
    try:  # what follows the image is nobody's business: only check_counts looks at it
        theirs = by_astropy(raw[: len(headers) + padded(layout.size)], SHAPE)
    except BadFile:
        return "accepted alone"
    with np.errstate(all="ignore"):
        return "" if np.asarray(theirs).astype(np.float32).tobytes() == pixels.tobytes() else "disagreements"


def seconds_to_read(path: Path) -> float:
    start = time.process_time()
    with suppress(Exception):
        read_cutout(path, SHAPE, finite=False)
    return time.process_time() - start


def judge(path: Path, mutation: Callable, traced: bool, worst: dict[str, float]) -> tuple[str, str]:
    """Reads a file. Returns: who read it ("own", "astropy" or "refused"), and what is wrong,
    "" if nothing is.
    """
    size = path.stat().st_size
    if traced:
        tracemalloc.start()
    start, pixels, wrong = time.process_time(), None, ""
    try:
        pixels = read_cutout(path, SHAPE, finite=False)
    except BadFile:
        pass
    except Exception as error:
        wrong = f"crashes ({type(error).__name__})"
    spent, peak = time.process_time() - start, 0
    if traced:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    own = False
    if pixels is not None:
        raw = fits_bytes(path, 2**26)
        size = max(size, len(raw))
        own = plain_pixels(raw, SHAPE) is not None
        if pixels.shape != SHAPE or pixels.dtype != np.float32 or mutation is other_geometry:
            wrong = "wrong geometry"
        elif own:
            wrong = same_as_astropy(raw, pixels)
    reader = "refused" if pixels is None else "own" if own else "astropy"
    excess = peak - 2 * size
    worst[reader] = max(worst[reader], excess)
    if not traced:
        if spent > LONGEST_READ:
            spent = min(spent, seconds_to_read(path))
        worst["time"] = max(worst["time"], spent)
        wrong = wrong or ("hangs" if spent > LONGEST_READ else "")
    return reader, wrong or ("memory" if excess > (OWN_OBJECTS if own else ASTROPY_OBJECTS) else "")


def different_in_a_block(paths: list[Path]) -> list[int]:
    """The rows in which read_cutouts and read_cutout are not of one mind, as packing asks them;
    what was known is forgotten before.
    """
    KNOWN.clear()
    images, reasons = read_cutouts(paths, SHAPE)
    rows = []
    for row, path in enumerate(paths):
        try:
            expected, reason = read_cutout(path, SHAPE), None
        except BadFile as error:
            expected, reason = np.zeros(SHAPE, np.float32), str(error)
        if images[row].tobytes() != expected.tobytes() or reasons.get(row) != reason:
            rows.append(row)
    return rows


def fuzz(mutations: int, seed: int, folder: str) -> tuple[Counter, Counter, dict[str, float]]:
    """Returns: counts by (mutation, who read it), counts of what is wrong,
    the worst of memory (bytes over twice the file) and time (s).
    """
    rng = np.random.default_rng(seed)
    files = valid_files(rng)
    sound = [Path(folder) / f"sound_{row}.fits" for row in range(len(files))]
    for path, raw in zip(sound, files):
        path.write_bytes(raw)
    done, wrong = Counter(), Counter()
    worst = dict.fromkeys(("own", "astropy", "refused"), float("-inf")) | {"time": 0.0}

    def note(what: str, number: int, path: Path) -> None:
        wrong[what] += 1
        shutil.copy(path, Path(folder) / f"{what.split()[0]}_{number}.fits")

    for first in range(0, mutations, AT_ONCE):
        paths = [Path(folder) / f"spoiled_{row}.fits" for row in range(min(AT_ONCE, mutations - first))]
        for number, path in enumerate(paths, first):
            mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
            path.write_bytes(mutation(rng, files[rng.integers(len(files))]))
            reader, what = judge(path, mutation, number % 20 == 19, worst)  # tracing makes astropy slow
            done[mutation.__name__, reader] += 1
            if what:
                note(what, number, path)
        block = [*sound, *paths]
        for row in different_in_a_block(block):
            note("block differs", first + row - len(sound), block[row])
    return done, wrong, worst


def measure(options: Config) -> list[Row]:
    folder = tempfile.mkdtemp(prefix="fuzz_fits_")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done, wrong, worst = fuzz(options.mutations, options.seed, folder)
    print(f"{'':18}{'own reader':>12}{'astropy':>10}{'refused':>10}")
    for mutation in MUTATIONS:
        print(
            f"{mutation.__name__:18}"
            + "".join(
                f"{done[mutation.__name__, reader]:>{width},}"
                for reader, width in (("own", 12), ("astropy", 10), ("refused", 10))
            )
        )
    print(f"{options.mutations:,} files in {time.process_time() - start:.0f} s")
    if wrong:
        print(f"{dict(wrong)}: these files are in {folder}")
    else:
        shutil.rmtree(folder)
    rows = [
        Row(
            f"spoiled FITS files: {what}",
            "files",
            sum(count for name, count in wrong.items() if name.startswith(what)),
            limit=0,
            equal=f"of {options.mutations:,}",
        )
        for what in WRONG
    ]
    rows.append(
        Row("spoiled FITS files: the slowest read", "ms", worst["time"] * 1e3, limit=LONGEST_READ * 1e3)
    )
    rows += [
        Row(
            f"spoiled FITS files: peak memory beyond twice the file's size, {reader}",
            "kB",
            worst[reader] / 1e3,
            limit=most / 1e3,
        )
        for reader, most in (("own", OWN_OBJECTS), ("astropy", ASTROPY_OBJECTS), ("refused", ASTROPY_OBJECTS))
    ]
    return [
        *rows,
        Row(
            "spoiled FITS files: growth of the resident set",
            "MB",
            (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3,
        ),
    ]


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
