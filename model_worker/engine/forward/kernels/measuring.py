"""One pass over the logits: the most probable token, the entropy and the token's probability of each row.

Each program reads a part of a row and keeps the maximum m, Z = sum e^(x-m) and E = sum (x-m) e^(x-m), both rescaled
when m grows (the online softmax of arXiv 1805.02867, with E carried along); a second kernel joins the parts. Then
H = log Z - E / Z and max p = 1 / Z. Nothing of the size of the vocabulary is written.
"""

# A row of 152k logits is shared among some 38 programs: one alone would read it at a hundredth of the device's
# bandwidth. Loads are 16 bytes wide only where their mask ends at a multiple of 16 entries, which a tokenizer's
# vocabulary (151,665) does not: they go on into the LM head's padding, where the storage has it, and mask afterwards.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK, _STEPS = 2048, 2


@triton.jit  # type: ignore[untyped-decorator]
def _part_kernel(  # type: ignore[no-untyped-def]
    logits, parts, row_stride, WIDTH: tl.constexpr, VOCAB: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr
):
    row, part = tl.program_id(0), tl.program_id(1)
    base = logits + row.to(tl.int64) * row_stride
    largest = tl.full([1], -float("inf"), tl.float32)
    token = tl.zeros([1], tl.int32)
    total = tl.zeros([1], tl.float32)
    weighted = tl.zeros([1], tl.float32)
    for step in range(STEPS):
        index = (part * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(base + index, mask=index < WIDTH, other=-float("inf")).to(tl.float32)
        x = tl.where(index < VOCAB, x, -float("inf"))
        peak = tl.max(x, axis=0)
        first = tl.min(tl.where(x == peak, index, VOCAB), axis=0)
        token = tl.where(peak > largest, first, token)
        grown = tl.maximum(largest, peak)
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
    one = tl.arange(0, 1)
    to = parts + (row * tl.num_programs(1) + part) * 4
    tl.store(to + one, largest)
    tl.store(to + 1 + one, total)
    tl.store(to + 2 + one, weighted)
    tl.store(to + 3 + one, token.to(tl.float32))


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _whole_kernel(parts, results, num_rows, COUNT: tl.constexpr, PADDED: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    p = tl.arange(0, PADDED)
    at = parts + (row * COUNT + p) * 4
    largest = tl.load(at, mask=p < COUNT, other=-float("inf"))
    total = tl.load(at + 1, mask=p < COUNT, other=0.0)
    weighted = tl.load(at + 2, mask=p < COUNT, other=0.0)
    token = tl.load(at + 3, mask=p < COUNT, other=0.0)
    top = tl.max(largest, axis=0)
    shift = tl.where(largest == -float("inf"), 0.0, largest - top)
    # A part of nothing but -inf weighs nothing, and a part with a NaN, whose maximum may hide it, weighs NaN.
    weight = tl.where(largest == -float("inf"), total, tl.exp(shift))
    z = tl.sum(weight * total, axis=0)
    e = tl.sum(weight * (weighted + shift * total), axis=0)
    # Ids are exact in float32 up to 2^24. Of equal maxima the first counts, as in argmax.
    chosen = tl.min(tl.where(largest == top, token, 16777216.0), axis=0)
    tl.store(results + row, chosen)
    tl.store(results + num_rows + row, tl.log(z) - e / z)
    tl.store(results + 2 * num_rows + row, 1.0 / z)


def measure_fused(logits: Tensor) -> Tensor:
    """Does what `sampling.measure` does for 16- and 32-bit logits; returns float32 [3, rows] on their device."""
    num_rows, vocab_size = logits.shape
    assert logits.stride(1) == 1, "rows that lie in one piece"
    width, stride = -(-vocab_size // 16) * 16, logits.stride(0)
    held = logits.untyped_storage().nbytes() // logits.itemsize - logits.storage_offset()
    if stride % 16 or (num_rows - 1) * stride + width > held:
        width = vocab_size
    count = -(-vocab_size // (_BLOCK * _STEPS))
    parts = torch.empty(num_rows, count, 4, dtype=torch.float32, device=logits.device)
    results = torch.empty(3, num_rows, dtype=torch.float32, device=logits.device)
    _part_kernel[(num_rows, count)](
        logits, parts, stride, WIDTH=width, VOCAB=vocab_size, BLOCK=_BLOCK, STEPS=_STEPS, num_warps=4
    )
    _whole_kernel[(num_rows,)](parts, results, num_rows, COUNT=count, PADDED=triton.next_power_of_2(count), num_warps=1)
    return results
