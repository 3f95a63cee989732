"""Files that are there whole or not at all, among them JSON; and folders that take none."""

import contextlib
import errno
import json
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

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


def temporary_for(path: Path) -> Path:
    """Where a file is written before it has its name; nobody else's."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` in one step if the block ends well,
    and is removed if not.
    """
    temporary = temporary_for(path)
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
    temporary = temporary_for(Path(path))
    with open(temporary, "wb") as file:
        file.write(content)
        flush_to_disk(file)
    os.replace(temporary, path)


def write_json(path: Path, content: dict[str, Any], indent: int = 2) -> None:
    """The file is there whole or not at all, and strict: a number that is not finite is null.

    A number that is none of Python's own (numpy's, a tensor of one) is written as a float.
    """
    with whole(path) as temporary:
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
        if is_trouble(error):
            raise
        raise Mistake(f"--{flag} {str(path)!r}: expected a JSON file, as {writer} writes it") from error
    if not isinstance(content, dict):
        raise Mistake(f"--{flag} {str(path)!r}: expected a JSON object, as {writer} writes it")
    return content
