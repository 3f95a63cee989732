"""Files that are there whole or not at all, and folders that take none."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from utils.mistake import Mistake

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
# what is a path's own fault, so that asking again would not help
OF_THE_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}


def is_trouble(error: BaseException) -> bool:
    """Whether it is the machine that gave no file: a disk, a server, too many open files, memory, permission.

    Nothing is known to be wrong with the file then, and asking again may help.
    """
    if isinstance(error, OSError):  # a library's own, of what a file contains, has no number
        return error.errno is not None and error.errno not in OF_THE_PATH
    return isinstance(error, MemoryError)


@contextlib.contextmanager
def written_into(directory: Path, what: str, needed: str = "") -> Iterator[None]:
    """A folder that is full, or may not be written into, is a Mistake;
    `needed` says how much room `what` takes.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise Mistake(
                f"{str(directory)!r} is full ({error.strerror}){needed and f': {what} needs {needed}'}; make "
                "room or choose another folder, then run the same command again"
            ) from error
        if error.errno in FORBIDDEN:
            raise Mistake(
                f"cannot write {what} into {str(directory)!r}: {error.strerror}; choose another folder"
            ) from error
        raise


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` in one step if the block ends well,
    and is removed if not.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flush_to_disk(file: BinaryIO) -> None:
    """What was written is on the disk when it returns."""
    file.flush()
    os.fsync(file.fileno())


def write_durably(path: str | os.PathLike, content: bytes) -> None:
    """The file is there whole or not at all, whenever the power goes: temporary file, fsync, rename."""
    temporary = f"{os.fspath(path)}.{uuid.uuid4().hex}.tmp"
    with open(temporary, "wb") as file:
        file.write(content)
        flush_to_disk(file)
    os.replace(temporary, path)
