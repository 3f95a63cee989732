"""Which texts are tables of observations, and not manifests, notes or logs."""

import os
import re

from data.cutouts.fits import BadFile
from data.light_curves.tables.cells import as_utf8, file_bytes, find_dialect, is_number, split_line

HEAD = 2**16  # bytes of a file that are looked at
ROWS = 50
NAME_OF_FILE = re.compile(r".*\.[a-z]\w{1,6}(\.(gz|bz2|fz))?", re.IGNORECASE)


def is_table(path: str | os.PathLike) -> bool:
    """Whether a text has rows of two numbers and more: a manifest has paths, notes have words."""
    try:
        raw = file_bytes(path, HEAD)
        text = as_utf8(raw[: raw.rfind(b"\n") + 1] or raw)
        start = text[:2000].lstrip().lower()
        if start.startswith((b"# %ecsv", b"\\", b"|", b"<?xml", b"<votable")):
            return True
        dialect = find_dialect(text)
    except (BadFile, OSError, ValueError):
        return False
    lines = [line for line in text[dialect.begin :].decode().splitlines() if line.strip()][:ROWS]
    if 2 * sum(NAME_OF_FILE.fullmatch(line.strip()) is not None for line in lines) > len(lines):
        return False
    rows = [split_line(line, dialect.delimiter) for line in lines]
    numeric = sum(sum(is_number(field) for field in row if field) >= 2 for row in rows)
    return 0 < len(rows) <= 2 * numeric
