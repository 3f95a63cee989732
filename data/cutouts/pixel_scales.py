"""Pixel scales of a set of images, told apart."""

from collections import Counter

SAME = 0.02  # relative difference of pixel scales that are called one


def distinct_scales(scales: Counter) -> dict[float, int]:
    """Pixel scales and how often each is, the commonest first; those within SAME of each other are one."""
    found: dict[float, int] = {}
    for scale, count in scales.most_common():
        near = next((other for other in found if is_same_scale(scale, other)), scale)
        found[near] = found.get(near, 0) + count
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def is_same_scale(scale: float, other: float) -> bool:
    return abs(scale / other - 1) <= SAME
