"""What every packer needs: one process at a time, a manifest written last, the state of files.

A pack is a folder that its manifest.json vouches for. It is made under partial_<...>/ in that folder,
block by block, each there whole or not at all; then its files are moved up, and the manifest is written.
So whatever is killed, the same call goes on where it was, and a folder with a manifest is whole.
"""

import errno
import fcntl
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.workers import WorkerLost
from utils.files import flush_to_disk, is_trouble, whole, write_durably, written_into
from utils.messages import visible
from utils.mistake import Mistake

NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}  # some cluster file systems are mounted without
MANIFEST = "manifest.json"


@contextmanager
def locked(directory: Path, say: Callable[[str], None], doing: str = "packing") -> Iterator[None]:
    """One process at a time; the system takes the lock from a killed one. say: where lines for people go."""
    with open(directory / "lock", "w") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    say(f"another process is {doing} {directory}: waiting for it")
                told = True
                time.sleep(0.2)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                say(f"{directory} is on a file system without locks: start one job alone until it is packed")
                break
        yield


@contextmanager
def locked_for_writing(
    directory: Path, what: str, say: Callable[[str], None], doing: str = "packing", needed: str = ""
) -> Iterator[None]:
    """As `locked`, the folder made first; one that is full, or may not be written into, is a Mistake.
    what: is written into it; needed: the room that it takes.
    """
    with written_into(directory, what, needed):
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory, say, doing):
            yield


@dataclass(frozen=True)
class PackKind:
    """What all packs of a kind have in common: their version, and what errors call them."""

    version: int
    noun: str  # "store"
    subject: str  # of the sentence that one is damaged: "the store {} is"
    anew: str  # what happens when it is removed: "it is packed anew from the FITS files"

    def damaged(self, directory: Path, what: str) -> Mistake:
        return Mistake(
            f"{self.subject.format(repr(str(directory)))} damaged or foreign: {what}; remove the folder and "
            f"run again, {self.anew}"
        )

    def read_manifest(self, directory: Path) -> dict[str, Any] | None:
        """The manifest.json of a folder, None where there is none. Raises:
        Mistake if it is damaged, or of another version.
        """
        try:
            manifest = json.loads((directory / MANIFEST).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise self.damaged(directory, f"{MANIFEST}: {error}") from error
        version = manifest.get("version") if isinstance(manifest, dict) else None
        if not isinstance(version, int):
            raise self.damaged(directory, f"{MANIFEST} states no version")
        if version != self.version:
            raise Mistake(
                f"{self.subject.format(repr(str(directory)))} of version {version}, and this code reads "
                f"version {self.version}: give another folder, or the code that wrote this one"
            )
        return manifest

    def open_manifest(self, directory: Path) -> dict[str, Any]:
        """As `read_manifest`. Raises: Mistake also where there is none."""
        manifest = self.read_manifest(directory)
        if manifest is None:
            raise Mistake(
                f"{str(directory)!r} holds no complete {self.noun} (no {MANIFEST}): run the packing command "
                "again, it goes on where it was interrupted"
            )
        return manifest

    def holds(self, directory: Path, digest: str) -> bool:
        """Whether a folder holds a complete pack of what `digest` stands for."""
        manifest = self.read_manifest(directory)
        return manifest is not None and manifest["inventory"] == digest

    def read_checked(self, directory: Path, name: str, digest: str) -> bytes:
        """A file of a pack. Raises: Mistake if it is gone, or not of this `content_digest`."""
        try:
            content = (directory / name).read_bytes()
        except OSError as error:
            if is_trouble(error):
                raise
            raise self.damaged(directory, str(error)) from error
        if content_digest(content) != digest:
            raise self.damaged(directory, f"{name} differs from its checksum")
        return content


def pack_once(
    kind: PackKind,
    directory: Path,
    digest: str,
    pack: Callable[[], None],
    what: str,
    say: Callable[[str], None],
    needed: str = "",
) -> None:
    """Calls `pack` unless the folder holds what `digest` stands for, one process at a time.

    Raises: Mistake as `locked_for_writing`, and for a lost worker; OSError for trouble of the machine.
    """
    if kind.holds(directory, digest):
        return
    try:
        with locked_for_writing(directory, what, say, needed=needed):
            if not kind.holds(directory, digest):  # another process may have packed while this one waited
                pack()
    except WorkerLost as error:
        raise Mistake(
            f"{error}; what is packed stays in {str(directory)!r}: run the same command again, with fewer "
            "workers if memory was short"
        ) from error
    except OSError:
        # without locks another node may have finished the very same pack under our hands
        if not kind.holds(directory, digest):
            raise


def publish_pack(
    partial: Path, names: Sequence[str], manifest: dict[str, Any], outdated: Sequence[str] = ()
) -> None:
    """Moves the files of a partial folder up, and then writes the manifest that vouches for them.

    names: of the files, all of them durable. outdated: those of an older pack, which ends here.
    """
    directory = partial.parent
    for name in outdated:
        (directory / name).unlink(missing_ok=True)
    for name in names:
        os.replace(partial / name, directory / name)
    sync_folder(directory)  # the renames before the manifest
    publish_file(directory / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False).encode())
    remove_partials(directory)


def content_digest(content: bytes) -> str:
    """What a manifest says of a file, to know it by."""
    return blake2b(content, digest_size=16).hexdigest()


def parquet_bytes(table: pd.DataFrame) -> bytes:
    content = io.BytesIO()
    table.to_parquet(content, index=False, compression="zstd")
    return content.getvalue()


def quarantine_lines(quarantined: pd.DataFrame, most: int) -> list[str]:
    """Lines for the log: the first so many of the refused files, by name and reason, and how many more.

    quarantined: columns path, reason.
    """
    first = quarantined[["path", "reason"]].head(most).itertuples(index=False)
    lines = [f"  {visible(path)}: {visible(reason)}" for path, reason in first]
    more = len(quarantined) - most
    return lines + ([f"  and {more:,} more"] if more > 0 else [])


def first_reasons(quarantined: pd.DataFrame) -> str:
    """The same in one line, for an error: three of them."""
    first = quarantined[["path", "reason"]].head(3).itertuples(index=False)
    return visible("; ".join(f"{path}: {reason}" for path, reason in first))


def publish_file(path: Path, content: bytes) -> None:
    """Durable when it returns: the file's bytes, and its name."""
    write_durably(path, content)
    sync_folder(path.parent)


def write_arrays_durably(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz that is there whole or not at all, and durable before it has its name."""
    with whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
        flush_to_disk(file)


def sync_folder(directory: Path) -> None:
    """The names in a folder are on the disk when it returns."""
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_partials(directory: Path, but: Path | None = None) -> None:
    """Removes what is left of packing into a folder; `but` stays."""
    for partial in directory.glob("partial_*"):
        if partial != but:
            shutil.rmtree(partial, ignore_errors=True)


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
