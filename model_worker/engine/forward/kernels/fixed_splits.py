"""Splits of a row's keys that depend on positions alone, so that a query's sums have one order in any batch.

They grow, so that the longest contexts have few: the first eight hold n keys each, the next four 2n, the next four 4n
and so on. With n = 256 they end at

    256 512 ... 2048 | 2560 3072 3584 4096 | 5120 6144 7168 8192 | ... 131072, the 32nd

No split is longer than a quarter of the keys before it, so the work of programs that take one each stays even.
"""

from __future__ import annotations

import triton
import triton.language as tl

EVEN = tl.constexpr(8)  # the first splits, of one length; half as many are there of each length after it


def num_splits(num_keys: int, keys_per_split: int) -> int:
    """Returns into how many splits so many keys fall, up to a power of two: the joining kernel is compiled for each."""
    splits, count, length, left = 0, EVEN.value, keys_per_split, num_keys
    while left > 0:
        splits += min(count, -(-left // length))
        left -= count * length
        count, length = EVEN.value // 2, 2 * length
    power: int = triton.next_power_of_2(max(1, splits))
    return power
