"""What a person who waits at the terminal is told, apart from results, which go to stdout."""

import sys


def say(line: str, script: str = "") -> None:
    """One line on stderr, at once, behind the name of the script where it is given."""
    print(f"{script}: {line}" if script else line, file=sys.stderr, flush=True)
