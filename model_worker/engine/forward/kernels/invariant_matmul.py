"""A matrix product in Triton whose order of sums depends on the weight's shape alone, never on the number of rows.

Tiles and instructions are fixed, and so is the number of parts that the inner dimension is cut into: each part is
summed by itself, in blocks, then the parts in turn. Who sums the parts varies: with few rows each part is a program's,
so that enough programs read the weight at once, and a second kernel adds up; with many rows one program does all parts
of its tile. Both add the same numbers in the same order.
"""

# The fixed configuration is the idea of "Defeating Nondeterminism in LLM Inference" (Thinking Machines Lab, 2025). A
# cut inner dimension makes one row fast: without it a layer 3,584 wide has 56 tiles for a device's 132 processors.
#
#   x [rows, in]   | part 0 | part 1 | part 2 |      out = ((part 0 + part 1) + part 2) + bias, rounded once
#                   blocks of _BLOCK_K each

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_worker.engine.forward.kernels.availability import interprets

_BLOCK_M, _BLOCK_N, _BLOCK_K = 32, 64, 64
_PROGRAMS = 264  # that parts are made for: two for each processor of a large device, on whatever device it runs
_MAX_PARTS = 8
_FEW_ROWS = 64  # up to so many rows, each part is a program's


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _product_kernel(  # type: ignore[no-untyped-def]
    x, weight, bias, out, parts,
    num_rows, out_features, in_features, part_size, x_row, weight_row,
    PARTS: tl.constexpr, APART: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # Tiles of the same columns follow one another: they read the same weights.
    row_tiles = tl.cdiv(num_rows, BLOCK_M)
    tile = tl.program_id(0)
    m = tile % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile // row_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    at_x = x + m.to(tl.int64)[:, None] * x_row
    at_weight = weight + n.to(tl.int64)[None, :] * weight_row
    whole = (m < num_rows)[:, None] & (n < out_features)[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    first = tl.program_id(1) if APART else 0
    for part in range(first, first + 1 if APART else PARTS):
        begin = part * part_size
        end = tl.minimum(begin + part_size, in_features)
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for at in range(begin, end, BLOCK_K):
            inside = at + k < end
            a = tl.load(at_x + (at + k)[None, :], mask=(m < num_rows)[:, None] & inside[None, :], other=0.0)
            b = tl.load(at_weight + (at + k)[:, None], mask=inside[:, None] & (n < out_features)[None, :], other=0.0)
            if WIDEN:
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        total += acc
    place = m.to(tl.int64)[:, None] * out_features + n[None, :]
    if APART:
        size = num_rows.to(tl.int64) * out_features
        tl.store(parts + first * size + place, total, mask=whole)
    else:
        if BIAS:
            total += tl.load(bias + n, mask=n < out_features, other=0.0).to(tl.float32)[None, :]
        tl.store(out + place, total.to(out.dtype.element_ty), mask=whole)


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _join_kernel(  # type: ignore[no-untyped-def]
    parts, bias, out, num_rows, out_features, PARTS: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = tl.program_id(0).to(tl.int64) * out_features + n
    size = num_rows.to(tl.int64) * out_features
    total = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(parts + part * size + place, mask=n < out_features, other=0.0)
    if BIAS:
        total += tl.load(bias + n, mask=n < out_features, other=0.0).to(tl.float32)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=n < out_features)


def num_parts(out_features: int, in_features: int) -> int:
    """Returns into how many parts the inner dimension is cut; a function of the weight's shape alone."""
    tiles, blocks = triton.cdiv(out_features, _BLOCK_N), triton.cdiv(in_features, _BLOCK_K)
    return int(max(1, min(_MAX_PARTS, _PROGRAMS // tiles, blocks // 4)))


def invariant_matmul(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns x [rows, in] times the transpose of `weight` [out, in], plus `bias` [out], in x's dtype.

    Sums are in float32, rounded once. Each row's bits are the same whatever rows, and however many, are beside it.
    """
    num_rows, in_features = x.shape
    out_features = weight.shape[0]
    assert weight.shape[1] == in_features, "as many columns of the weight as of x"
    assert weight.stride(1) == 1, "a weight that lies in rows"
    x = x.contiguous()
    out = torch.empty(num_rows, out_features, dtype=x.dtype, device=x.device)
    parts = num_parts(out_features, in_features)
    apart = parts > 1 and num_rows <= _FEW_ROWS
    sums = torch.empty(parts, num_rows, out_features, dtype=torch.float32, device=x.device) if apart else out
    part_size = triton.cdiv(triton.cdiv(in_features, _BLOCK_K), parts) * _BLOCK_K
    tiles = triton.cdiv(num_rows, _BLOCK_M) * triton.cdiv(out_features, _BLOCK_N)
    given = out if bias is None else bias
    _product_kernel[(tiles, parts if apart else 1)](
        x, weight, given, out, sums,
        num_rows, out_features, in_features, part_size, x.stride(0), weight.stride(0),
        PARTS=parts, APART=apart, BIAS=bias is not None,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
        WIDEN=x.dtype == torch.bfloat16 and interprets(),  # whose dots know no bfloat16
        BLOCK_M=_BLOCK_M, BLOCK_N=_BLOCK_N, BLOCK_K=_BLOCK_K, num_warps=4, num_stages=4,
    )  # fmt: skip
    if apart:
        block = 256
        _join_kernel[(num_rows, triton.cdiv(out_features, block))](
            sums, given, out, num_rows, out_features, PARTS=parts, BIAS=bias is not None, BLOCK=block, num_warps=2
        )
    return out
