"""The manifest of a folder of shards: what is in which file, and how to know that the files are those."""

import math
import re
from pathlib import Path
from typing import Any

from data.cutouts.store import COLUMNS
from data.tar_shards.members import strict_json
from data.tar_shards.records import checked_dtypes
from data.tar_shards.tar import BLOCK, open_plain
from utils.mistake import Mistake

FORMAT, VERSION = "starloop shards", 1
MOST_MANIFEST = 2**26  # bytes; a shard has 200
NAME = re.compile(r"shard-\d{6,9}\.tar")


def open_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest.json of a folder of our shards, None where there is none, or another code's. Raises:
    Mistake if it is damaged.
    """
    if not (directory / "manifest.json").exists():
        return None
    with open_plain(directory / "manifest.json") as file:
        return checked_manifest(file.read(MOST_MANIFEST + 1), str(directory))


def checked_manifest(content: bytes, where: str) -> dict[str, Any] | None:
    """A manifest of ours, every field of it as it should be; None for another code's. Raises: Mistake."""
    manifest = strict_json(content, where, "manifest.json", MOST_MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    if manifest.get("version") != VERSION:
        raise Mistake(
            f"{where}: manifest.json is of version {str(manifest.get('version'))[:20]}, this code reads "
            f"{VERSION}"
        )
    try:
        _check(manifest, f"{where}: manifest.json")
    except Mistake:
        raise
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Mistake(
            f"{where}: manifest.json is damaged or forged: its counts, names or types are not those of "
            "shards; copy it again"
        ) from None
    return manifest


def _check(manifest: dict[str, Any], where: str) -> None:
    """Raises an error unless all is of its type, and no count promises more than the files can hold."""
    shards = manifest["shards"]
    known = manifest["metadata"]
    pixels = math.prod(manifest["shape"])
    numbers = [
        manifest["samples"],
        manifest["images"],
        *manifest["shape"],
        manifest["table"]["size"],
        known["rows"] if known else 0,
    ]
    numbers += [
        value
        for shard in shards
        for value in (shard["samples"], shard["images"], *shard["rows"], shard["size"])
    ]
    texts = [manifest["digest"], manifest["table"]["sha256"], *(shard["sha256"] for shard in shards)]
    names = [shard["name"] for shard in shards]
    checked_dtypes(manifest["dtypes"], where)
    sound = [
        all(type(value) is int and 0 <= value < 2**53 for value in numbers),
        all(type(text) is str for text in texts),
        all(NAME.fullmatch(name) for name in names) and len(set(names)) == len(names),
        len(manifest["shape"]) == 2 and pixels > 0,
        all(sum(shard[count] for shard in shards) == manifest[count] for count in ("samples", "images")),
        all(shard["images"] * pixels * 4 + shard["samples"] * 2 * BLOCK <= shard["size"] for shard in shards),
        all(0 < shard["samples"] <= shard["images"] and len(shard["rows"]) == 2 for shard in shards),
        set(manifest["dtypes"]) == set(COLUMNS),
    ]
    if known:
        checked_dtypes(known["dtypes"], where)
        rest = known["without_images"]
        sound += [
            known["rows"] <= manifest["samples"] + len(rest),
            "object" in known["dtypes"],
            all(
                row.isdecimal() and int(row) < known["rows"] and isinstance(values, dict)
                for row, values in rest.items()
            ),
        ]
    if not all(sound):
        raise ValueError
