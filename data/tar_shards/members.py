"""What the members of a sample say: npy arrays, JSON, labels as text. No member can run a program, take
memory that it does not bring, or be two things at once; what is wrong is refused in one line that names the
file, the member, and what was expected.
"""

import json
import math
import re
from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from data.tar_shards.tar import refused

HEAD = 1024  # bytes in which an npy header must end; numpy's has 128
MOST_JSON = 2**20  # bytes of a sample's JSON
MOST_TEXT = 64  # ... of a label's text
DEEPEST = 16  # levels of lists and objects
LONGEST_SIDE = 2**15
DTYPES = re.compile(r"([<>|=]?)(f[248]|[iu][1248]|b1)")
NPY = re.compile(
    rb"\{'descr': '([^'\\]{1,16})', 'fortran_order': (True|False), 'shape': \(([\d, ]{0,64})\), ?\} *\n?"
)
INTEGER = re.compile(rb"[+-]?\d{1,18}")
# an unclosed text is a match too, or it would be tried from each quote
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
BRACKET = re.compile(rb"[\[\]{}]")


class Layout(NamedTuple):
    """How the numbers of an npy member lie: of `shape`, from its byte `start` on."""

    dtype: np.dtype
    fortran: bool
    shape: tuple[int, ...]
    start: int
    channels_last: bool = False

    @property
    def planes(self) -> tuple[int, int, int]:
        """[C, H, W] of what `npy_planes` gives."""
        if len(self.shape) == 2:
            return 1, *self.shape
        return (self.shape[2], *self.shape[:2]) if self.channels_last else self.shape


def npy_layout(head: bytes, size: int, where: str, name: str) -> Layout:
    """The layout of an npy member of `size` bytes that begins with `head`; nothing is allocated.

    Raises: Mistake unless it is [H, W], [C, H, W] or [H, W, C] of plain numbers whose bytes are all there
    and no more.
    """
    found = _layout(
        head[: 10 + int.from_bytes(head[8:10], "little")]
        if head[6:8] == b"\1\0"
        else head[: 12 + int.from_bytes(head[8:12], "little")]
    )
    if isinstance(found, str):
        raise refused(where, name, found)
    expected = found.start + math.prod(found.shape) * found.dtype.itemsize
    if expected != size:
        raise refused(
            where,
            name,
            f"has {size:,} bytes, but its header promises {expected:,} ({found.dtype} {list(found.shape)})",
        )
    return found


@lru_cache(1024)
def _layout(header: bytes) -> Layout | str:
    """The layout, or what is wrong."""
    if is_pickle(header):
        return "is a pickle, which can run any program: expected an npy array"
    if header[:6] != b"\x93NUMPY" or header[6:8] not in (b"\1\0", b"\2\0"):
        return f"begins with {header[:8]!r}: expected an npy array of version 1 or 2"
    start = 10 if header[6:8] == b"\1\0" else 12
    start += int.from_bytes(header[8:start], "little")
    if start > HEAD or len(header) < start:
        return f"has an npy header of {start:,} bytes: expected at most {HEAD}, all there"
    match = NPY.fullmatch(header[10 if header[6:8] == b"\1\0" else 12 :])
    if not match:
        return (
            "has another npy header than numpy writes for an array of plain numbers (arrays of objects are "
            "pickles)"
        )
    dtype = match[1].decode("latin-1")
    if not DTYPES.fullmatch(dtype):
        return f"is an array of {dtype!r}: expected plain numbers (f2 to f8, i1 to u8, b1), never objects"
    sides = [side.strip() for side in match[3].decode().removesuffix(",").split(",")]
    if not (2 <= len(sides) <= 3 and all(side.isdecimal() and len(side) <= 9 for side in sides)):
        return f"is of shape ({match[3].decode()}): expected [H, W] or [C, H, W]"
    shape = tuple(map(int, sides))
    if not all(1 <= side <= LONGEST_SIDE for side in shape):
        return f"is of shape {list(shape)}: expected sides of 1 to {LONGEST_SIDE:,}"
    return Layout(np.dtype(dtype), match[2] == b"True", shape, start)


def npy_planes(content: bytes | memoryview, layout: Layout) -> np.ndarray:
    """[C, H, W] of an npy member as it is, a view of `content`."""
    array = np.frombuffer(content, layout.dtype, math.prod(layout.shape), layout.start).reshape(
        layout.shape, order="F" if layout.fortran else "C"
    )
    if array.ndim == 2:
        return array[None]
    return np.moveaxis(array, -1, 0) if layout.channels_last else array


def strict_json(content: bytes, where: str, name: str, most: int = MOST_JSON) -> Any:
    """JSON as its standard has it: UTF-8, no NaN or Infinity, no key twice, no number that overflows.

    Raises: Mistake also for more than `most` bytes or DEEPEST levels.
    """
    if len(content) > most:
        raise refused(where, name, f"has {len(content):,} bytes: expected at most {most:,} of JSON")
    if is_pickle(content):
        raise refused(where, name, "is a pickle, which can run any program: expected JSON")
    if content.count(b"{") + content.count(b"[") > DEEPEST:
        _check_depth(content, where, name)
    try:
        return DECODER.decode(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise refused(where, name, f"is no strict JSON: {str(error)[:120]}") from None


def _check_depth(content: bytes, where: str, name: str) -> None:
    depth = 0
    for bracket in BRACKET.finditer(STRING.sub(b"", content)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > DEEPEST:
            raise refused(where, name, f"is nested more than {DEEPEST} levels deep")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(fields := dict(pairs)) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return fields


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text[:40]} overflows")
    return value


def _token(text: str) -> None:
    raise ValueError(f"{text} is no JSON: expected null")


DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=_number, parse_constant=_token)


def integer(content: bytes, where: str, name: str) -> int:
    """The whole number of a .cls, .label or .txt member."""
    if len(content) > MOST_TEXT or not INTEGER.fullmatch(content.strip()):
        raise refused(
            where, name, f"holds {content[:40]!r}: expected a whole number, a label (--no_labelled)"
        )
    return int(content)


def is_pickle(content: bytes) -> bool:
    """Whether this begins as pickles since protocol 2 do;
    older ones begin as no array, JSON or number does.
    """
    return content[:1] == b"\x80" and content[1:2] in (b"\2", b"\3", b"\4", b"\5")
