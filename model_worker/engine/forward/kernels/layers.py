"""The small kernels of a layer in Triton: root mean square norm, rotary position embedding, gated activation.

Each does in one launch what the model's own code does in three to eight, and rounds where that rounds, so that in 16
bits, too, the results are the model's own but for the order of sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Norm:
    """What a root mean square norm does beside normalizing."""

    weight: Tensor  # [width]
    eps: float
    is_offset: bool  # multiplies by 1 + weight (Gemma) and not by weight
    is_late: bool  # rounds to the input's dtype once, at the end, and not before the weight, too


@triton.jit  # type: ignore[untyped-decorator]
def _scaled(x, scale, weight, OFFSET: tl.constexpr, LATE: tl.constexpr, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    x = x * scale
    if not LATE:
        x = x.to(DTYPE).to(tl.float32)
    if OFFSET:
        weight = weight + 1.0
        if not LATE:
            weight = weight.to(DTYPE).to(tl.float32)
    return (x * weight).to(DTYPE).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _norm_kernel(  # type: ignore[no-untyped-def]
    x, weight, out, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr, LATE: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * WIDTH
    d = tl.arange(0, BLOCK)
    inside = d < WIDTH
    row = tl.load(x + at + d, mask=inside, other=0.0).to(tl.float32)
    by = tl.load(weight + d, mask=inside, other=0.0).to(tl.float32)
    scale = 1 / tl.sqrt(tl.sum(row * row, axis=0) / WIDTH + eps)
    dtype: tl.constexpr = out.dtype.element_ty
    tl.store(out + at + d, _scaled(row, scale, by, OFFSET, LATE, dtype).to(dtype), mask=inside)


def rms_norm(x: Tensor, norm: Norm) -> Tensor:
    """Returns x [..., width], normalized over the last dimension, in its dtype."""
    x = x.contiguous()
    width = x.shape[-1]
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _norm_kernel[(x.numel() // width,)](
        x, norm.weight, out, norm.eps, WIDTH=width, BLOCK=block, OFFSET=norm.is_offset, LATE=norm.is_late,
        num_warps=max(1, min(8, block // 512)),
    )  # fmt: skip
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _rope_kernel(  # type: ignore[no-untyped-def]
    q, k, v, out, keys, values, cos, sin, slots, q_weight, k_weight, eps,
    q_token, k_token, v_token, cos_token, sin_token, out_token, key_slot, key_head, value_slot, value_head,
    HEADS: tl.constexpr, DIM: tl.constexpr, ROTATED: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK: tl.constexpr,
    NORMED: tl.constexpr, OFFSET: tl.constexpr, LATE: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = tl.arange(0, BLOCK)
    inside = d < DIM
    # The other half of what is rotated: entry d turns with d + half, which turns with it the other way round.
    half: tl.constexpr = ROTATED // 2
    other = tl.where(d < half, d + half, tl.where(d < ROTATED, d - half, d))
    sign = tl.where(d < half, -1.0, 1.0)
    is_query = head < HEADS
    kv_head = head - HEADS
    if is_query:
        source, weight = q + token * q_token + head * DIM, q_weight
    else:
        source, weight = k + token * k_token + kv_head * DIM, k_weight
    dtype: tl.constexpr = out.dtype.element_ty
    x = tl.load(source + d, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(source + other, mask=inside, other=0.0).to(tl.float32)
    if NORMED:
        scale = 1 / tl.sqrt(tl.sum(x * x, axis=0) / DIM + eps)
        x = _scaled(x, scale, tl.load(weight + d, mask=inside, other=0.0).to(tl.float32), OFFSET, LATE, dtype)
        y = _scaled(y, scale, tl.load(weight + other, mask=inside, other=0.0).to(tl.float32), OFFSET, LATE, dtype)
    turns = d < ROTATED
    c = tl.load(cos + token * cos_token + d, mask=turns, other=1.0).to(tl.float32)
    s = tl.load(sin + token * sin_token + d, mask=turns, other=0.0).to(tl.float32)
    turned = (x * c).to(dtype).to(tl.float32) + (sign * y * s).to(dtype).to(tl.float32)
    turned = tl.where(turns, turned, x).to(dtype)
    if is_query:
        tl.store(out + token * out_token + head * DIM + d, turned, mask=inside)
    else:
        slot = tl.load(slots + token)
        tl.store(keys + slot * key_slot + kv_head * key_head + d, turned, mask=inside)
        value = tl.load(v + token * v_token + kv_head * VALUE_DIM + d, mask=d < VALUE_DIM, other=0.0)
        tl.store(values + slot * value_slot + kv_head * value_head + d, value, mask=d < VALUE_DIM)


def rope_and_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotation: tuple[Tensor, Tensor],
    cache: tuple[Tensor, Tensor],
    slots: Tensor,
    norms: tuple[Norm, Norm] | None = None,
) -> Tensor:
    """Rotates queries and keys, and puts keys and values into their slots; returns the queries [tokens, heads, dim].

    q, k, v: [tokens, heads * dim], each head in one piece; `rotation`: cosines and sines [1 or tokens, rotated], of
    which both halves are given, as transformers makes them; `cache`: keys and values [slots, kv_heads, dim]; `slots`:
    int64 [tokens]; `norms`: of each query's and key's head before it is rotated.
    """
    (cos, sin), (keys, values), num_tokens = rotation, cache, q.shape[0]
    num_kv_heads, dim = keys.shape[1:]
    num_heads, value_dim = q.shape[1] // dim, values.shape[2]
    out = torch.empty(num_tokens, num_heads, dim, dtype=q.dtype, device=q.device)
    norm = norms[0] if norms is not None else None
    _rope_kernel[(num_tokens, num_heads + num_kv_heads)](
        q, k, v, out, keys, values, cos, sin, slots,
        norms[0].weight if norms else q, norms[1].weight if norms else q, norm.eps if norm else 0.0,
        q.stride(0), k.stride(0), v.stride(0), _step(cos), _step(sin), out.stride(0),
        keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
        HEADS=num_heads, DIM=dim, ROTATED=cos.shape[-1], VALUE_DIM=value_dim,
        BLOCK=triton.next_power_of_2(max(dim, value_dim)),
        NORMED=norm is not None, OFFSET=bool(norm and norm.is_offset), LATE=bool(norm and norm.is_late),
        num_warps=1,
    )  # fmt: skip
    return out


def _step(rows: Tensor) -> int:
    return rows.stride(0) if rows.shape[0] > 1 else 0


@triton.jit  # type: ignore[untyped-decorator]
def _gate_kernel(x, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < WIDTH
    gate = tl.load(x + row * 2 * WIDTH + d, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * WIDTH + WIDTH + d, mask=inside, other=0.0).to(tl.float32)
    if GELU:  # by tanh: 0.5 x (1 + tanh y) = x / (1 + e^-2y)
        y = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gate = gate / (1 + tl.exp(-2 * y))
    else:
        gate = gate / (1 + tl.exp(-gate))
    dtype: tl.constexpr = out.dtype.element_ty
    tl.store(out + row * WIDTH + d, (gate.to(dtype).to(tl.float32) * up).to(dtype), mask=inside)


def gated(x: Tensor, is_gelu: bool) -> Tensor:
    """Returns act(gate) * up, [..., width], of gates and ups side by side, [..., 2 * width] in one piece.

    The activation is SiLU, or GELU by its tanh approximation.
    """
    x = x.contiguous()
    width = x.shape[-1] // 2
    out = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
    _gate_kernel[(x.numel() // (2 * width), triton.cdiv(width, 1024))](
        x, out, WIDTH=width, BLOCK=1024, GELU=is_gelu, num_warps=4
    )
    return out
