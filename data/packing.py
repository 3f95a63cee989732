"""What every packer needs: locks, manifests, durable blocks, the state of files."""

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from utils.mistake import Mistake

NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}  # some cluster file systems are mounted without


def sync_folder(directory: Path) -> None:
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(directory: Path, say: Callable[[str], None]) -> Iterator[None]:
    """One packing process at a time; the system takes the lock from a killed one."""
    with open(directory / "lock", "w") as file:
        said = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    say(f"another process is packing {directory}: waiting for it")
                said = True
                time.sleep(0.2)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                say(f"{directory} is on a file system without locks: start one job alone until it is packed")
                break
        yield


def read_manifest(directory: Path, version: int, damaged: Callable[[Path, str], Mistake]) -> dict | None:
    """The manifest.json of a folder, None where there is none. Raises:
    `damaged` of it, if it is not of this version.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise damaged(directory, f"manifest.json: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("version") != version:
        raise damaged(directory, f"manifest.json is not of version {version}")
    return manifest


def statuses(paths: list[str]) -> list[tuple[int, int]]:
    """(size, time of change) of each file; by many threads where a stat waits for a server,
    else they only contend.
    """
    start = time.perf_counter()
    first = [_status(path) for path in paths[:256]]
    if time.perf_counter() - start < 50e-6 * len(first):
        return first + [_status(path) for path in paths[256:]]
    with ThreadPoolExecutor(32) as threads:
        return first + list(threads.map(_status, paths[256:]))


def _status(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, 0  # gone or out of reach: the quarantine will say so
    return status.st_size, status.st_mtime_ns
