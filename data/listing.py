"""The files of a folder or manifest as a stream, however many they are, and its cuts between objects."""

import gzip
import os
import stat
import time
from collections.abc import Iterator
from itertools import islice

from data.names import NOT_CUTOUTS, SUFFIXES, check_utf8, parse_name
from utils.mistake import Mistake

LINES = 65_536  # read at once
LONGEST = 1_000  # files of one object that a shard may hold more than its size


def state_of(images: str) -> str:
    """What a second look at the input compares without reading it."""
    try:
        status = os.stat(images)
    except OSError:
        raise Mistake(
            f"--images {images!r} does not exist: expected a folder of cutouts or a manifest (one path a "
            "line)"
        ) from None
    if stat.S_ISDIR(status.st_mode):
        return "a folder"
    if images.lower().endswith(SUFFIXES):
        raise Mistake(
            f"--images {images!r} is one FITS file: expected its folder, or a manifest (one path a line)"
        )
    return f"{status.st_size} bytes of {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(status.st_mtime))} UTC"


def input_paths(images: str) -> Iterator[list[str]]:
    """The absolute paths of a folder (folder after folder, each sorted) or of a manifest, some at a time."""
    some = walked(images) if os.path.isdir(images) else listed(images)
    empty = True
    for paths in some:
        check_utf8(paths)
        if wrong := [path for path in paths if "\n" in path or "\0" in path]:
            raise Mistake(
                f"--images {images!r}: the name {wrong[0]!r} is no line of text: rename the file, or give "
                "a manifest of text"
            )
        empty = empty and not paths
        yield paths
    if empty:
        raise Mistake(
            f"--images {images!r} holds no cutout: expected files named like D1_L_00000000_g.fits, or a "
            "line for each"
        )


def listed(manifest: str) -> Iterator[list[str]]:
    home = os.path.join(os.path.dirname(os.path.abspath(manifest)), "")
    opened = gzip.open if manifest.endswith(".gz") else open
    try:
        with opened(manifest, "rt", encoding="utf-8-sig") as file:
            while lines := list(islice(file, LINES)):
                names = [name for line in lines if (name := line.strip()) and name[0] != "#"]
                yield [name if name[0] == "/" else home + name for name in names]
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise Mistake(
            f"--images {manifest!r} cannot be read as a manifest (text, one path a line): {error}"
        ) from None


def walked(top: str) -> Iterator[list[str]]:
    def unreadable(error: OSError) -> None:
        raise Mistake(f"the folder {error.filename!r} may not be read: {error.strerror}")

    seen = set()  # links in a circle end
    for folder, below, names in os.walk(os.path.abspath(top), onerror=unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below.sort()
        yield [
            os.path.join(folder, name)
            for name in sorted(names)
            if name.lower().endswith(SUFFIXES) and name not in NOT_CUTOUTS
        ]


def cut(some: Iterator[list[str]], size: int) -> Iterator[list[str]]:
    """Shards of `size` files, and as many more as the object of the last one has."""
    shard: list[str] = []
    for paths in some:
        at = 0
        while at < len(paths):
            taken = paths[at : at + max(0, size - len(shard))]
            shard += taken
            at += len(taken)
            if len(shard) >= size:
                last = parse_name(shard[-1])[0]
                while at < len(paths) and len(shard) < size + LONGEST and parse_name(paths[at])[0] == last:
                    shard.append(paths[at])
                    at += 1
                if at < len(paths):
                    yield shard
                    shard = []
    if shard:
        yield shard
