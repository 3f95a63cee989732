"""Tar files of samples, as WebDataset has them, written alike to the byte and read with suspicion.

A sample is a run of members `<key>.<suffix>`; the key ends at the first dot of the file name. Nothing is ever
unpacked to disk and no content is interpreted here: `samples` says where in the file each member lies. A tar
file can name any path, point outside itself by links, promise sizes that it does not have and say two things
of one member; whatever WebDataset does not write is refused in one line, before it is used.

Fields that nobody here uses (owner, mode, times) are not judged. Format: POSIX.1-1988 ustar, POSIX.1-2001
pax, GNU long names.
"""

import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from utils.files import is_trouble
from utils.mistake import Mistake

BLOCK, RECORD = 512, 10240  # bytes; a tar file is blocks, its end is filled up to a record
ZERO = bytes(BLOCK)
USTAR, GNU = b"ustar\x0000", b"ustar  \x00"
MOST_MEMBER = 2**30  # bytes of a member
MOST_MEMBERS = 2_000_000  # of a file
MOST_EXTENDED = 2**16  # bytes of an extended header; ours and WebDataset's have none, tar's a few hundred
MOST_NAME = 1024  # characters
MOST_PADDING = 2**20  # zero bytes after the end
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}
KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
    b"K": "a link",
    b"S": "a sparse file",
    b"M": "a part of another volume",
    b"V": "a volume label",
}
PICKLES = {"pkl", "pickle", "pyd", "pth", "pt", "joblib", "dill"}
OCTAL = re.compile(rb" *[0-7]{1,12}[ \0]*")
DIGITS = re.compile(rb"\d{1,18}")
PAX_LENGTH = re.compile(rb"([1-9]\d{0,5}) ")
UTF8 = b"ISO-IR 10646 2000 UTF-8"


class Member(NamedTuple):
    """A file within a tar file: its content is `size` bytes from byte `start` on."""

    name: str
    start: int
    size: int


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member: an ASCII name of at most 100 characters, mode 644, owner 0, time 0."""
    block = b"%s%s%011o\0%011o\0        0%s%s%s" % (
        name.encode("ascii").ljust(100, b"\0"),
        b"0000644\x000000000\x000000000\x00",
        size,
        0,
        bytes(100),
        USTAR,
        bytes(247),
    )
    return b"%s%06o\0 %s" % (block[:148], sum(block), block[156:])


def padding(size: int) -> bytes:
    """The zeros after a member of `size` bytes."""
    return bytes(-size % BLOCK)


def ending(size: int) -> bytes:
    """The zeros that end a file of `size` bytes so far."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)


def open_plain(path: str | os.PathLike) -> BinaryIO:
    """A file of this machine, opened for reading. Raises: Mistake for a URL, a command,
    or what is no plain file.
    """
    text = os.fspath(path)
    if re.match(r"[A-Za-z][\w+.-]*:", text):
        raise Mistake(f"{clean(text)}: expected a path; commands (pipe:) and URLs are not opened here")
    try:
        # O_NONBLOCK: a pipe would wait for its writer
        file = open(os.open(text, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        if is_trouble(error):
            raise
        raise Mistake(f"{clean(text)}: cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Mistake(f"{clean(text)}: expected a plain file, not a pipe, socket or device")
    return file


def samples(
    file: BinaryIO, size: int, where: str, passed_over: list[str] | None = None
) -> Iterator[tuple[str, dict[str, Member]]]:
    """(key, {suffix in lower case: member}) of each sample of a tar file of `size` bytes, in order.

    Members without a suffix, hidden ones and `__meta__` are passed over, as WebDataset does; `passed_over`
    gets their names.
    Raises: Mistake that names `where`, the member, and what was expected.
    """
    key = None
    parts = {}
    keys = set()
    for member in members(file, size, where):
        folder, slash, base = member.name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        if not stem or not dot or re.match(r"__[^/]*__($|/)", member.name):
            if passed_over is not None:
                passed_over.append(member.name)
            continue
        suffix = suffix.lower()
        if PICKLES & set(suffix.split(".")):
            raise refused(
                where, member.name, "is a pickle, which can run any program: expected npy, json and text"
            )
        if folder + slash + stem != key:
            if key is not None:
                yield key, parts
            key = folder + slash + stem
            parts = {}
            if key in keys:
                raise refused(
                    where,
                    member.name,
                    "its key was there before: expected the members of a sample side by side, and a key once",
                )
            keys.add(key)
        if suffix in parts:
            raise refused(where, member.name, "is there twice: expected each member of a sample once")
        parts[suffix] = member
    if key is not None:
        yield key, parts


def members(file: BinaryIO, size: int, where: str) -> Iterator[Member]:
    """The plain files of a tar file of `size` bytes, in order. Raises: Mistake as `samples`."""
    at = 0
    told = {}
    count = 0
    while True:
        file.seek(at)
        block = file.read(BLOCK)
        if block == ZERO:
            _check_end(file, size - at - BLOCK, told, where)
            return
        kind, length = _checked(block, at, where)
        length = int(told.pop("size", length)) if kind in b"0\0" else length
        at += BLOCK
        if at + length > size:
            raise Mistake(
                f"{where}: the member at byte {at - BLOCK} has {length:,} bytes, but the file ends "
                f"{max(size - at, 0):,} after its header: it is truncated or forged"
            )
        if kind in b"xgL":
            if length > MOST_EXTENDED or told:
                second = " and follows another" if told else ""
                raise Mistake(
                    f"{where}: the extended header at byte {at - BLOCK} has {length:,} bytes{second}: "
                    f"expected at most {MOST_EXTENDED:,}, one a member"
                )
            told = (
                _long_name(file.read(length), where)
                if kind == b"L"
                else _pax(file.read(length), where, kind == b"g")
            )
        else:
            name = _name(block, told.pop("path", None), where)
            if kind == b"5" or name.endswith("/"):
                if length or kind != b"5":
                    raise refused(where, name, "is a folder with content: expected plain files")
            else:
                if length > MOST_MEMBER:
                    raise refused(where, name, f"has {length:,} bytes: expected at most {MOST_MEMBER:,}")
                yield Member(name, at, length)
        count += 1
        if count > MOST_MEMBERS:
            raise Mistake(f"{where}: has more than {MOST_MEMBERS:,} members: cut it into shards")
        at += length + -length % BLOCK


def _checked(block: bytes, at: int, where: str) -> tuple[bytes, int]:
    """(kind, bytes of content) of a header block that is sound."""
    if len(block) < BLOCK:
        raise Mistake(
            f"{where}: ends at byte {at + len(block)} without the zero blocks that end a tar file: it is "
            "truncated"
        )
    if block[257:265] not in (USTAR, GNU):
        packed = COMPRESSED.get(block[:2]) if at == 0 else None
        raise Mistake(
            f"{where}: is {packed}-compressed: unpack it, a shard is a plain tar file"
            if packed
            else f"{where}: no tar header (ustar, pax or GNU) at byte {at}: it is no tar file, or damaged"
        )
    kind = block[156:157]
    if _octal(block[148:156], "checksum", at, where) != sum(block) - sum(block[148:156]) + 8 * 32:
        raise Mistake(f"{where}: the header at byte {at} differs from its checksum: the file is damaged")
    if kind not in b"0\0x5gL":
        name = clean(block[:100].split(b"\0")[0].decode("latin-1"))
        raise Mistake(
            f"{where}: member {name}: is {KINDS.get(kind, f'of the unknown kind {kind!r}')}: expected plain "
            "files"
        )
    return kind, _octal(block[124:136], "size", at, where)


def _octal(field: bytes, what: str, at: int, where: str) -> int:
    if not OCTAL.fullmatch(field):  # also the binary and negative numbers of GNU tar: no member is of 8 GiB
        raise Mistake(f"{where}: the {what} in the header at byte {at} is {field!r}: expected octal digits")
    return int(field.rstrip(b" \0"), 8)


def _check_end(file: BinaryIO, left: int, told: dict, where: str) -> None:
    if told:
        raise Mistake(f"{where}: ends after an extended header: expected its member")
    if not BLOCK <= left <= MOST_PADDING or file.read(left).strip(b"\0"):
        raise Mistake(
            f"{where}: {left:,} bytes follow the first zero block: expected {BLOCK} to {MOST_PADDING:,}, all "
            "zero; it is truncated, or something is hidden after its end"
        )


def _name(block: bytes, long: bytes | None, where: str) -> str:
    """The name of a member, which is harmless."""
    raw = long
    if long is None:
        raw, _, rest = block[:100].partition(b"\0")
        prefix, _, rest_of_prefix = (
            block[345:500].partition(b"\0") if block[257:265] == USTAR else (b"", b"", b"")
        )
        if (rest + rest_of_prefix).strip(b"\0"):
            raise refused(where, raw.decode("latin-1"), "has a name that goes on after a zero byte")
        raw = prefix + b"/" + raw if prefix else raw
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise refused(where, raw.decode("latin-1"), "has a name that is no UTF-8") from None
    name = name.removeprefix("./")
    if not 0 < len(name) <= MOST_NAME and raw != b"./":
        raise refused(where, name, f"has a name of {len(name):,} characters: expected 1 to {MOST_NAME}")
    if not name.isprintable() or "\\" in name:
        raise refused(where, name, "has control characters or a backslash in its name")
    if (
        name.startswith("/")
        or re.match("[A-Za-z]:", name)
        or {"..", "."} & set(name.split("/"))
        or "//" in name
    ):
        raise refused(where, name, "has a name that leaves the folder: expected a plain relative path")
    return name or "./"


def _long_name(content: bytes, where: str) -> dict[str, bytes]:
    name, _, rest = content.partition(b"\0")
    if rest.strip(b"\0"):
        raise refused(where, name.decode("latin-1"), "has a name that goes on after a zero byte")
    return {"path": name}


def _pax(content: bytes, where: str, for_all: bool) -> dict[str, bytes]:
    """path and size as an extended header tells them; for all members it may tell neither."""
    fields = {}
    at = 0
    while at < len(content):
        length = PAX_LENGTH.match(content, at)
        end = at + int(length[1]) if length else 0
        key, equals, value = content[length.end() : end - 1].partition(b"=") if length else (b"", b"", b"")
        if not equals or end > len(content) or content[end - 1 : end] != b"\n":
            raise Mistake(
                f"{where}: an extended header holds {content[at : at + 40]!r}: expected '<length> "
                "<key>=<value>' lines"
            )
        at = end
        if key.startswith(b"GNU.sparse") or key == b"linkpath":
            raise Mistake(
                f"{where}: an extended header tells {clean(key.decode('latin-1'))}: expected plain files, no "
                "sparse ones or links"
            )
        if key == b"hdrcharset" and value != UTF8:
            raise Mistake(f"{where}: an extended header has names in {value[:40]!r}: expected UTF-8")
        if key in (b"path", b"size"):
            if (
                for_all
                or key.decode() in fields
                or (key == b"size" and not DIGITS.fullmatch(value))
                or b"\0" in value
            ):
                raise Mistake(
                    f"{where}: an extended header tells {key.decode()} {value[:40]!r}: expected it once, of "
                    "one member, a name or a number"
                )
            fields[key.decode()] = value
    return fields


def refused(where: str, name: str, what: str) -> Mistake:
    return Mistake(f"{where}: member {clean(name)}: {what}")


def clean(text: str) -> str:
    """Text of strangers for a terminal: quoted, without control characters, short."""
    return ascii(text if len(text) <= 120 else text[:117] + "...")
