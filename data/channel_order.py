"""Whether the bands of an array [a, b, c] are its first axis or its last, as far as its shape says it."""

from collections import Counter
from collections.abc import Sequence

from utils.mistake import Mistake

ORDERS = ("auto", "first", "last")


def channel_order(shape: Sequence[int], count: int = 0) -> str:
    """ "first" of [C, H, W], "last" of [H, W, C], "" where the shape leaves it open.

    shape: three sides. count: how many bands there are, 0 where nobody says it; without it the bands are the
        side that is shorter than both others.
    """
    first, middle, last = shape
    if count and (first == count) != (last == count):
        return "first" if first == count else "last"
    if first < last and first < middle:
        return "first"
    if last < first and last < middle:
        return "last"
    return ""


def checked_order(channels: str) -> str:
    """Raises: Mistake for another --channels than there are."""
    if channels not in ORDERS:
        raise Mistake(f"--channels {channels!r}: expected {', '.join(ORDERS[:-1])} or {ORDERS[-1]}")
    return channels


def both_readings(shape: Sequence[int]) -> str:
    """What an array would be either way: `[C, H, W] (3 bands of 3x5) or [H, W, C] (5 bands of 3x3)`"""
    first, middle, last = shape
    return (
        f"[C, H, W] ({_bands(first)} of {middle}x{last}) or [H, W, C] ({_bands(last)} of {first}x{middle}): "
        "say --channels first or --channels last"
    )


def order_line(shape: Sequence[int], order: str, what: str) -> str:
    """What was taken, and how to have it otherwise."""
    first, middle, last = shape
    one = f"[C, H, W], {_bands(first)} of {middle}x{last}"
    other = f"[H, W, C], {_bands(last)} of {first}x{middle}"
    taken, instead = (one, other) if order == "first" else (other, one)
    flag = "last" if order == "first" else "first"
    return f"{what} of shape {list(shape)} are taken as {taken} (--channels {flag}: {instead})"


def order_lines(taken: Counter, what: str, most: int = 3) -> list[str]:
    """Lines on {(shape, order): how many arrays}, the most frequent ones."""
    lines = [
        order_line(shape, order, f"{count:,} {what}") for (shape, order), count in taken.most_common(most)
    ]
    more = len(taken) - most
    return lines + ([f"... and {what} of {more:,} more shapes"] if more > 0 else [])


def _bands(count: int) -> str:
    return "1 band" if count == 1 else f"{count:,} bands"
