"""Ending a run early and cleanly: signals and a time budget.

Exit codes, for run sheets: 0 finished; 75 stopped by SIGTERM, SIGUSR1 or --max_time with a checkpoint, run
the same command again (EX_TEMPFAIL of sysexits.h); 130 stopped by Ctrl-C, likewise;
2 a mistake that a person can mend.
"""

import re
import signal
import time

from utils.mistake import Mistake

EXIT_AGAIN = 75
EXIT_INTERRUPTED = 130
REASONS = ["", "--max_time is over", "SIGUSR1", "SIGTERM", "Ctrl-C"]  # by rising priority


class Stop:
    """`asked` is 0 until a signal or the end of the budget asks to stop, then the index of a reason."""

    def __init__(self, max_time: str):
        self.signalled = 0
        self.deadline = time.monotonic() + seconds_of(max_time) if max_time else None

    def on_signals(self) -> "Stop":
        """Also where the process is told to; only the main thread of a program may ask for that."""
        for number, reason in ((signal.SIGUSR1, 2), (signal.SIGTERM, 3), (signal.SIGINT, 4)):
            signal.signal(number, lambda _number, _frame, reason=reason: self.ask(reason))
        return self

    def ask(self, reason: int) -> None:
        if reason == 4 and self.signalled == 4:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self.signalled = max(self.signalled, reason)

    @property
    def asked(self) -> int:
        if not self.signalled and self.deadline is not None and time.monotonic() > self.deadline:
            return 1
        return self.signalled


def exit_code(reason: int) -> int:
    return EXIT_INTERRUPTED if reason == 4 else EXIT_AGAIN


def seconds_of(text: str) -> float:
    """`71:50:00` or `2-00:00:00` (days) or `90` (minutes), as schedulers write a wall time, in seconds."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)|(\d+(?:\.\d+)?)", text)
    if not match:
        raise Mistake(f"--max_time: got {text!r}, expected [days-]hours:minutes:seconds or minutes")
    days, hours, minutes, seconds, plain = (float(part or 0) for part in match.groups())
    return 60 * plain + seconds + 60 * (minutes + 60 * (hours + 24 * days))
