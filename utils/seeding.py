"""All randomness of a step follows from (seed, rank, step), so no generator state is ever saved."""
import hashlib

import torch


def seed_from(*parts: int | str) -> int:
    """A 63-bit seed that is a function of `parts` alone, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seed every device's global generator for one step of one rank."""
    torch.manual_seed(seed_from(seed, rank, step))
