"""What a process does about its memory: what it no longer uses goes back to the machine, and what stays is not looked
through again and again. It knows no service.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

_M_MMAP_THRESHOLD = -3
_BLOCK_BYTES = 1 << 20
# Objects that are made and stay before the youngest are looked through, and how often until the older ones are.
_COLLECT_AFTER = (5_000, 20, 20)


def return_large_blocks() -> None:
    """Gives each block of a MiB and more back as soon as it is free, where the C library is glibc; else does nothing.

    By itself glibc stops doing so after the first large one: whatever a few messages of 16 MiB took would stay taken.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)


def settle_collector() -> None:
    """Leaves whatever is there now out of Python's collections of cycles, and makes these rarer.

    Call it once all is imported: that is some hundred thousand objects that never go, and to look through them takes
    tens of milliseconds in which no answer goes on.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
