"""Hidden states in half precision, as consultations carry them: one conversion for all who write any."""

from __future__ import annotations

import numpy as np

_LARGEST = np.float32(np.finfo(np.float16).max)


def to_half(numbers: bytes) -> bytes:
    """Rounds float32 to IEEE 754 half precision, both little-endian; what is larger than that has is its largest."""
    return np.frombuffer(numbers, "<f4").clip(-_LARGEST, _LARGEST).astype("<f2").tobytes()
