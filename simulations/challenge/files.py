"""The files of the simulated lens challenge, byte for byte of the forms of the real one.

Training: ROOT/slsim_lenses/D1_L_00000000_g.fits and so on, an empty primary HDU and a table of one row:
    the id and
`band_<b>`, 41x41 float64; beside them parameters.fits, one row an object. Blind:
ROOT/test_dataset/object_00000_g.fits, the image in the primary HDU; what they are is in ROOT/test_truth.csv.
An object's bytes are a function of (seed, bucket, number): neither the count nor the workers nor the bands
change them.
"""

import csv
import os
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from astropy.table import Table

from simulations.challenge.images import simulate_objects
from simulations.challenge.lenses import BANDS
from simulations.challenge.sky import SIZE
from utils.seeding import seed_from

BATCH = 32  # objects rendered together, always, also at the end: floats may depend on the batch
ID_WIDTH = 24  # characters, the id column's form 24A
BLOCK = 2880  # bytes of a FITS block
BLIND = "test_dataset"
DOMAIN_NUMBER = {"slsim": 1, "hsc": 2}
ID_COLUMN = {1: "Lens ID", 0: "Object ID"}
# The columns of the challenge's note (25 August 2025), section 5.1, in its order.
LENS_COLUMNS = [
    "RA",
    "Dec",
    "zlens",
    "vel disp",
    "ell_m",
    "ell_m_PA",
    "sh",
    "sh_PA",
    "Rein",
    "ell_l",
    "ell_l_PA",
    "Reff_l",
    "n_l_sers",
    *(f"mag_lens_{band}" for band in BANDS),
    "zsrc",
    "srcx",
    "srcy",
    *(f"mag_src_{band}" for band in BANDS),
    "ell_s",
    "ell_s_PA",
    "Reff_s",
    "n_s_sers",
]
OTHER_COLUMNS = ["RA", "Dec", "z_central", *(f"mag_lens_{band}" for band in BANDS)]


@dataclass(frozen=True)
class Batch:
    """The objects `first` to `first + count` of one folder: what one worker does at a time."""

    root: str
    folder: str  # a bucket's name, or BLIND
    seed: int
    first: int
    count: int  # files of as many objects are written; BATCH are rendered
    bands: tuple[str, ...]
    domains: tuple[str, ...]


def batches(
    root: Path, folder: str, seed: int, objects: int, bands: list[str], domains: list[str]
) -> list[Batch]:
    return [
        Batch(str(root), folder, seed, first, min(BATCH, objects - first), tuple(bands), tuple(domains))
        for first in range(0, objects, BATCH)
    ]


def bucket_name(domain: str, label: int) -> str:
    return f"{domain}_lenses" if label else f"{domain}_nonlenses"


def kinds_of(batch: Batch) -> tuple[list[str], list[int]]:
    """Domain and label of each of the batch's BATCH objects; blind ones are every kind once in each row of
    four.
    """
    choices = [(domain, label) for domain in batch.domains for label in (1, 0)]
    if batch.folder != BLIND:
        domain, label = next(choice for choice in choices if bucket_name(*choice) == batch.folder)
        return [domain] * BATCH, [label] * BATCH
    drawn = []
    for k in range(batch.first, batch.first + BATCH):
        row, place = divmod(k, len(choices))
        order = np.random.default_rng(seed_from(batch.seed, BLIND, "order", row)).permutation(len(choices))
        drawn.append(choices[order[place]])
    return [domain for domain, _ in drawn], [label for _, label in drawn]


def write_batch(batch: Batch) -> list[dict]:
    """Write the batch's FITS files; the row of each object for the tables.
    Files already whole are left as they are.
    """
    torch.set_num_threads(1)
    domains, labels = kinds_of(batch)
    numbers = range(batch.first, batch.first + BATCH)
    generators = [np.random.default_rng(seed_from(batch.seed, batch.folder, k)) for k in numbers]
    names = [
        object_name(batch.folder, domain, label, k) for k, domain, label in zip(numbers, domains, labels)
    ]
    folder = os.path.join(batch.root, batch.folder)
    paths = [
        [os.path.join(folder, f"{name}_{band}.fits") for band in batch.bands] for name in names[: batch.count]
    ]
    size = len(encode(batch.folder, names[0], labels[0], "g", np.zeros((SIZE, SIZE))))
    whole = all(os.path.exists(path) and os.path.getsize(path) == size for row in paths for path in row)
    images, scenes = simulate_objects(generators, domains, labels, scenes_only=whole)
    for i in range(0 if whole else batch.count):
        for band, path in zip(batch.bands, paths[i]):
            with open(path, "wb") as file:
                file.write(
                    encode(batch.folder, names[i], labels[i], band, images[i, BANDS.index(band)].numpy())
                )
    return [
        {"id": names[i], "label": labels[i], "domain": domains[i], "kind": scenes[i].kind}
        | flat(scenes[i].row)
        for i in range(batch.count)
    ]


def object_name(folder: str, domain: str, label: int, number: int) -> str:
    if folder == BLIND:
        return f"object_{number:05d}"
    letter = "L" if label else "N"
    return f"D{DOMAIN_NUMBER[domain]}_{letter}_{number:08d}"


def flat(row: dict) -> dict[str, float]:
    """The row with its magnitudes, [5] each, as five numbers, under the table's names."""
    named = {}
    for name, value in row.items():
        if np.ndim(value):
            named |= {f"{name}_{band}": float(number) for band, number in zip(BANDS, value)}
        else:
            named["vel disp" if name == "vel_disp" else name] = float(value)
    return named


def encode(folder: str, name: str, label: int, band: str, image: np.ndarray) -> bytes:
    """The bytes of one FITS file. astropy writes the header once;
    each file differs in the id and the pixels only.
    """
    pixels = image.astype(">f8").tobytes()
    if folder == BLIND:
        head = header_blind()
        data = pixels
    else:
        head = header_table(ID_COLUMN[label], band)
        data = name.encode().ljust(ID_WIDTH, b"\0") + pixels
    return head + data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


@lru_cache
def header_table(id_column: str, band: str) -> bytes:
    columns = [
        fits.Column(id_column, f"{ID_WIDTH}A", array=["x"]),
        fits.Column(
            f"band_{band}", f"{SIZE * SIZE}D", dim=f"({SIZE},{SIZE})", array=np.zeros((1, SIZE, SIZE))
        ),
    ]
    primary = fits.Header(
        [
            ("SIMPLE", True, "conforms to FITS standard"),
            ("BITPIX", 8, "array data type"),
            ("NAXIS", 0, "number of array dimensions"),
            ("EXTEND", True),
        ]
    )
    return (primary.tostring() + fits.BinTableHDU.from_columns(columns).header.tostring()).encode()


@lru_cache
def header_blind() -> bytes:
    return fits.PrimaryHDU(np.zeros((SIZE, SIZE))).header.tostring().encode()


def write_parameters(path: Path, label: int, rows: list[dict]) -> None:
    """parameters.fits of a bucket: one row an object, with the columns of the challenge's note."""
    columns = LENS_COLUMNS if label else OTHER_COLUMNS
    table = Table(
        {ID_COLUMN[label]: [row["id"] for row in rows]}
        | {name: [row[name] for row in rows] for name in columns}
    )
    buffer = BytesIO()
    table.write(buffer, format="fits")
    path.write_bytes(buffer.getvalue())


def write_table(path: Path, rows: list[dict], columns: list[str]) -> None:
    """A CSV with these columns; what a row lacks stays empty."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
