"""A folder that one process has for itself, and what --restart does with the run that was in it."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils import distributed
from utils.files import written_into
from utils.messages import say
from utils.mistake import Mistake

NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}  # some cluster file systems are mounted without
LOCK, OWNER = "lock", "owner.json"
BEAT = 5.0  # s between two signs of life where there are no locks
# s without one after which an owner is taken for dead, and for which a lock of another host is waited for: a
# server keeps the locks of a host that crashed for so long
PATIENCE = 90.0
TEMPORARY = re.compile(r"\..*\.[0-9a-f]{32}\.tmp")  # as utils/files.whole names them
ASIDE = "before_restart"  # where the run that --restart replaces waits


@contextlib.contextmanager
def owned(directory: Path, flag: str) -> Iterator[None]:
    """The folder is this process's alone until the block ends, however it ends; of several ranks, rank 0's.

    The system takes the lock from a process that is killed. Where a file system has no locks, a file names
    the owner, which renews it while it lives. flag: of the folder, for the message.
    Raises Mistake where another process has it, naming that.
    """
    if distributed.rank():
        yield
        return
    with written_into(directory, "the results"):
        directory.mkdir(parents=True, exist_ok=True)
        file = open(directory / LOCK, "a+")
    with file:
        try:
            locked = take_lock(file, directory, flag)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            locked = False
        if locked:
            file.truncate(0)
            file.write(json.dumps(this_process()))
            file.flush()
        with contextlib.nullcontext() if locked else kept_alive(directory, flag):
            sweep(directory)
            yield


def sweep(directory: Path) -> None:
    """Remove what killed processes had half written: nobody else writes here now."""
    for path in directory.glob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink()


def take_lock(file, directory: Path, flag: str) -> bool:
    """True when the lock is this process's. Raises Mistake where it stays another's, OSError where there are
    none.
    """
    until = time.monotonic() + PATIENCE
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            file.seek(0)
            owner = owner_in(file.read())
            elsewhere = owner and owner["host"] != platform.node()
            if not elsewhere or time.monotonic() > until:
                raise Mistake(taken(directory, flag, owner)) from None
            if not told:
                say(f"{directory} is in use by {shown(owner)}: waiting up to {PATIENCE:.0f} s for its end")
            told = True
            time.sleep(0.5)


@contextlib.contextmanager
def kept_alive(directory: Path, flag: str) -> Iterator[None]:
    """As `owned`, by a file of which only its content is compared: clocks of hosts differ."""
    path = directory / OWNER
    until = time.monotonic() + PATIENCE
    before = read_owner(path)
    while before and not is_dead(before):
        time.sleep(BEAT / 5)
        now = read_owner(path)
        if now and now != before:
            raise Mistake(taken(directory, flag, now))
        if time.monotonic() > until or not now:
            break
    me = this_process()
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(BEAT if count else 0):
            count += 1
            temporary = path.with_name(f".{OWNER}.{me['pid']}.tmp")
            temporary.write_text(json.dumps(me | dict(beat=count)))
            os.replace(temporary, path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)


def this_process() -> dict[str, str | int]:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return dict(host=platform.node(), pid=os.getpid(), since=f"{since} UTC")


def owner_in(text: str) -> dict | None:
    """What `this_process` wrote, None for anything else."""
    try:
        owner = json.loads(text)
    except ValueError:
        return None
    return owner if isinstance(owner, dict) and {"host", "pid", "since"} <= owner.keys() else None


def read_owner(path: Path) -> dict | None:
    try:
        return owner_in(path.read_text())
    except FileNotFoundError:
        return None


def is_dead(owner: dict) -> bool:
    """Whether it was of this host and is no more; of another host nobody knows."""
    if owner["host"] != platform.node():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return owner["pid"] == os.getpid()


def shown(owner: dict | None) -> str:
    if owner is None:
        return "another process"
    return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"


def taken(directory: Path, flag: str, owner: dict | None) -> str:
    return (
        f"--{flag} {str(directory)!r}: is in use by {shown(owner)}; wait for its end, or give another folder"
    )


@contextlib.contextmanager
def set_aside(directory: Path, written: Sequence[str], restart: bool) -> Iterator[None]:
    """With `restart` the run that is there makes room, and is back if the block ends before last.pt is there;
    rank 0 sees to it.

    written: patterns of the files of a run; nothing else in the folder is touched. What a killed process left
    half done is settled first, alike.
    """
    if distributed.rank():
        yield
        return
    aside = directory / ASIDE
    settle(directory, written)
    if restart:
        before = files_of_run(directory, written)
        if before:
            aside.mkdir()
        for path in before:
            os.replace(path, aside / path.name)
    try:
        yield
    finally:
        settle(directory, written)


def settle(directory: Path, written: Sequence[str]) -> None:
    """What was set aside goes where a checkpoint has come in its place, else it comes back."""
    aside = directory / ASIDE
    if not aside.is_dir():
        return
    if not (directory / "last.pt").exists():
        for path in files_of_run(directory, written):
            path.unlink()
        for path in aside.iterdir():
            os.replace(path, directory / path.name)
        say(f"{directory}: the run that --restart had set aside is back, as no new one reached a checkpoint")
    shutil.rmtree(aside)


def files_of_run(directory: Path, written: Sequence[str]) -> list[Path]:
    return [path for pattern in written for path in sorted(directory.glob(pattern))]
