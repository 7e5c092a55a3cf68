"""Coins that anybody tosses alike: a uniform number from a seed and a position, without a state."""

from __future__ import annotations

import struct
from hashlib import blake2b


def uniform(seed: int, position: int, purpose: bytes = b"") -> float:
    """Gives the number in [0, 1) of a position; other purposes (at most 16 bytes) have other numbers."""
    # 56 bits make a float64 exactly, so every process tosses the same coin.
    digest = blake2b(struct.pack("<QQ", seed, position), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest[:7], "little") * 2.0**-56
