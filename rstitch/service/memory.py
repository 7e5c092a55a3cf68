"""What a process does so that memory which it no longer uses goes back to the machine. It knows no service."""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3
_BLOCK_BYTES = 1 << 20


def return_large_blocks() -> None:
    """Gives each block of a MiB and more back as soon as it is free, where the C library is glibc; else does nothing.

    By itself glibc stops doing so after the first large one: whatever a few messages of 16 MiB took would stay taken.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)
