"""Small JSON files of plain numbers that one command writes and another reads."""

import json
from pathlib import Path

from utils import files
from utils.mistake import Mistake


def write(values: dict, path: Path) -> None:
    with files.whole(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


def read(path: str, flag: str) -> dict:
    """The object in the file. Raises Mistake, which names the flag, if there is none."""
    try:
        values = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise Mistake(f"--{flag} {path!r}: expected a JSON file, as ensemble.py writes it") from error
    if not isinstance(values, dict):
        raise Mistake(f"--{flag} {path!r}: expected a JSON object, as ensemble.py writes it")
    return values
