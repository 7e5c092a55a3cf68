"""One pass over the logits on CUDA: the most probable token, the entropy and the token's probability of each row.

Written for Triton: each program reads its row once, block by block, and keeps the running maximum m, Z = sum e^(x-m)
and E = sum (x-m) e^(x-m), both rescaled when m grows (the online softmax of arXiv 1805.02867, with E carried along).
Then H = log Z - E / Z and max p = 1 / Z. Nothing of the size of the vocabulary is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


@triton.jit  # type: ignore[untyped-decorator]
def _measure_kernel(logits, results, row_stride, num_rows, vocab_size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    largest = -float("inf")
    token = 0
    total = 0.0
    weighted = 0.0
    for start in range(0, vocab_size, BLOCK):
        index = start + tl.arange(0, BLOCK)
        inside = index < vocab_size
        x = tl.cast(tl.load(logits + row * row_stride + index, mask=inside, other=-float("inf")), tl.float32)
        block_largest = tl.max(x, axis=0)
        block_token = tl.min(tl.where(x == block_largest, index, vocab_size), axis=0)
        grown = tl.maximum(largest, block_largest)
        token = tl.where(block_largest > largest, block_token, token)
        # Before the first finite logit nothing has weight; -inf - -inf would be NaN.
        shift = tl.where(largest == -float("inf"), 0.0, largest - grown)
        keep = tl.where(largest == -float("inf"), 0.0, tl.exp(shift))
        weighted = keep * (weighted + shift * total)
        total = keep * total
        moved = tl.where(x == -float("inf"), x, x - grown)
        weight = tl.exp(moved)
        total += tl.sum(weight, axis=0)
        weighted += tl.sum(weight * tl.maximum(moved, -10000.0), axis=0)
        largest = grown
    log_total = tl.log(total)
    tl.store(results + row, tl.cast(token, tl.float32))
    tl.store(results + num_rows + row, log_total - weighted / total)
    tl.store(results + 2 * num_rows + row, 1.0 / total)


def measure_fused(logits: Tensor) -> Tensor:
    """Does what `sampling.measure` does; returns float32 [3, rows] on the device of `logits`."""
    num_rows, vocab_size = logits.shape
    assert logits.stride(1) == 1, "rows that lie in one piece"
    results = torch.empty(3, num_rows, dtype=torch.float32, device=logits.device)
    _measure_kernel[(num_rows,)](logits, results, logits.stride(0), num_rows, vocab_size, BLOCK=_BLOCK)
    return results
