"""What a person who waits at the terminal is told, apart from results, which go to stdout."""

import os
import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO

# all that moves a terminal's cursor, colours it or ends a line: C0 and C1 controls, separators, directions
CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]")


def visible(text: object) -> str:
    """In one line, what is no letter of it spelled out: a file may have any name, a header any value."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def first_of(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and that there are more: `a, b, c, ...`"""
    return ", ".join(map(visible, names[:most])) + (", ..." if len(names) > most else "")


def shortened(text: object, most: int = 200) -> str:
    """As one line of at most so many characters: what a message quotes of a file may be of any length."""
    line = visible(" ".join(str(text).split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."


def say(line: str, script: str = "") -> None:
    """One line on stderr, at once, behind the name of the script where it is given; nothing is lost with a
    stderr that nobody reads any more.
    """
    try:
        print(visible(f"{script}: {line}" if script else line), file=sys.stderr, flush=True)
    except OSError:
        pass


class Heard:
    """Standard output for as long as somebody takes it: a reader that left (`| head -1`) or a full disk ends
    what is said, not what is done.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            self.deafen(error)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self.deafen(error)

    def deafen(self, error: OSError) -> None:
        """Nothing more is said; what the stream still holds goes nowhere, so that no later flush fails."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            say(f"standard output cannot be written ({error.strerror}): going on without it")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
