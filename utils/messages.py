"""What a person who waits at the terminal is told, apart from results, which go to stdout."""

import sys
from collections.abc import Sequence


def first_of(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and that there are more: `a, b, c, ...`"""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def say(line: str, script: str = "") -> None:
    """One line on stderr, at once, behind the name of the script where it is given."""
    print(f"{script}: {line}" if script else line, file=sys.stderr, flush=True)
