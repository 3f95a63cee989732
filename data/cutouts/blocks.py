"""Blocks of a store: some thousand cutouts read and written by one process,
durable before they are called done.
"""

import json
import zlib
from functools import lru_cache

import numpy as np

from data.cutouts.blank import refuse_blank
from data.cutouts.fits_blocks import read_cutouts
from data.cutouts.source import Source, open_source
from utils.files import flush_to_disk, write_durably


def pack_block(
    record: str,
    pixels: str,
    offset: int,
    first: int,
    count: int,
    shape: list[int],
    max_blank: float,
    source: list[str] | dict,
) -> None:
    """Reads the cutouts of a block, writes them into the pixel file,
    and then the record that says they are on disk.

    record: JSON file to write: first row, count, crc32 of the bytes, {row:
        reason} of refused files (pixels zero).
    pixels: existing file; offset: byte of row `first` in it.
    max_blank: share of pixels of one value beyond which an image shows no sky (data/cutouts/blank.py).
    source: the FITS files, or the recipe of a source (data/cutouts/source.py) whose rows these are.
    Raises: OSError for a full disk or trouble of the machine.
    """
    if isinstance(source, dict):
        images, bad = _opened(json.dumps(source)).read(range(first, first + count))
    else:
        images, refused = read_cutouts(source, tuple(shape))
        bad = {first + row: reason for row, reason in refused.items()}
    refuse_blank(images, max_blank, bad, first)
    block = np.ascontiguousarray(images, dtype="<f4")
    with open(pixels, "r+b") as file:  # written, not mapped: a full disk is then an error and not a SIGBUS
        file.seek(offset)
        file.write(block.data)
        flush_to_disk(file)
    done = {"first": first, "count": count, "crc32": zlib.crc32(block.data), "bad": dict(sorted(bad.items()))}
    write_durably(record, json.dumps(done).encode())


def files_of_block(job: dict) -> str:
    """What a block is of, in words; `job` holds the arguments of `pack_block`."""
    source = job["source"]
    if isinstance(source, dict):
        return f"rows {job['first']} to {job['first'] + job['count'] - 1}"
    return f"files {source[0]} to {source[-1]}"


@lru_cache(maxsize=1)
def _opened(recipe: str) -> Source:
    """The source of a recipe, kept for the next block."""
    return open_source(json.loads(recipe))
