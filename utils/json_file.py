"""JSON files that one command writes, and another or a person reads."""

import json
import math
from pathlib import Path
from typing import Any

from utils import files
from utils.mistake import Mistake


def write_json(path: Path, content: dict[str, Any], indent: int = 2) -> None:
    """The file is there whole or not at all, and strict: a number that is not finite is null.

    A number that is none of Python's own (numpy's, a tensor of one) is written as a float.
    """
    with files.whole(path) as temporary:
        temporary.write_text(json.dumps(strict(content), indent=indent, allow_nan=False) + "\n")


def strict(node: Any) -> Any:
    """`node` of what JSON has a word for."""
    if isinstance(node, dict):
        return {name: strict(value) for name, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [strict(value) for value in node]
    if node is None or isinstance(node, (str, int)):
        return node
    return float(node) if math.isfinite(node) else None


def read_json(path: str | Path, flag: str, writer: str) -> dict[str, Any]:
    """The object in the file. Raises Mistake, which names the flag and the script that writes such a file,
    if there is none.
    """
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        if files.is_trouble(error):
            raise
        raise Mistake(f"--{flag} {str(path)!r}: expected a JSON file, as {writer} writes it") from error
    if not isinstance(content, dict):
        raise Mistake(f"--{flag} {str(path)!r}: expected a JSON object, as {writer} writes it")
    return content
