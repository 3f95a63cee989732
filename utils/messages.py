"""What a person who waits at the terminal is told, apart from results, which go to stdout."""

import sys
from collections.abc import Sequence


def first_of(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and that there are more: `a, b, c, ...`"""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def shortened(text: object, most: int = 200) -> str:
    """As one line of at most so many characters: what a message quotes of a file may be of any length."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def say(line: str, script: str = "") -> None:
    """One line on stderr, at once, behind the name of the script where it is given."""
    print(f"{script}: {line}" if script else line, file=sys.stderr, flush=True)
