"""All randomness of a step follows from (seed, rank, step), so no generator state is ever saved."""

import hashlib

import torch


def seed_from(*parts: int | str) -> int:
    """A 63-bit seed that is a function of `parts` alone, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seed the global generators for one step of one rank.

    As torch.manual_seed does, but not for kinds of devices that are not in use: for each of those it notes a
    stack trace for later, 0.5 ms a step.
    """
    value = seed_from(seed, rank, step)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
