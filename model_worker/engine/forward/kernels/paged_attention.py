"""Paged attention in Triton: rows of any numbers of queries and keys in one call, keys read through page tables.

Causal, aligned at the last query: query i of a row with n queries and k keys sees the first k - n + i + 1 keys, with a
window only the last `window` of these, with chunks only those from the last multiple of `chunk` on. The online softmax
is that of FlashAttention-2 (arXiv 2307.08691), the sharing of keys among programs that of Flash-Decoding; a sink
(gpt-oss) is a logit per head that joins the denominator alone.
"""

# A program takes a tile of queries that share a key head: the query heads of a group side by side, so that keys are
# loaded once for the group. A row of 3 queries, groups of 2, tiles of 4 rows:
#
#   tile 0   q0.h0 q0.h1 q1.h0 q1.h1      tile 1   q2.h0 q2.h1  x  x
#
# Where there are few tiles, the keys that a tile sees are shared out among programs by their real number, not by the
# longest context, and a second kernel joins the parts. No slot beyond a row's keys is read.
# With fixed splits a key's split depends on its position alone (fixed_splits.py).

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_worker.engine.forward.attention_tables import Tables
from model_worker.engine.forward.kernels.availability import interprets
from model_worker.engine.forward.kernels.fixed_splits import EVEN, num_splits

_MIN_KEYS = 128  # of a split: less costs more to join than it saves
_MAX_SPLITS = 32
_JOINED = 16  # splits that are joined at once; in a fixed number, so that the order of sums depends on the row alone
_MOST_PART_BYTES = 64 << 20  # of parts at once; with fixed splits, a call of more is made for some tokens at a time
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["num_rows", "pages_row", "window", "chunk", "keys_per_split"],
    do_not_specialize_on_alignment=["ends", "lengths", "pages"],
)
def _attend_kernel(  # type: ignore[no-untyped-def]
    q, keys, values, out, parts, sums, sinks, ends, lengths, pages,
    scale, softcap, window, chunk, keys_per_split, num_rows,
    q_token, q_head, key_slot, key_head, value_slot, value_head, out_token, out_head, pages_row,
    GROUP: tl.constexpr, KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, KEY_PAD: tl.constexpr, VALUE_PAD: tl.constexpr,
    PAGE: tl.constexpr, QUERIES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MIN_KEYS: tl.constexpr,
    SPLIT: tl.constexpr, FIXED: tl.constexpr, DECODE: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    CHUNKED: tl.constexpr, SINKS: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    block, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if DECODE:  # each row is one token
        row = block
        offset = 0
    else:  # row r has the blocks from ends[r] // QUERIES + r on: enough for its tokens, and known without a look at it
        low, high = 0, num_rows - 1
        while low < high:
            middle = (low + high + 1) // 2
            if tl.load(ends + middle) // QUERIES + middle <= block:
                low = middle
            else:
                high = middle - 1
        row = low
        offset = (block - (tl.load(ends + row) // QUERIES + row)) * QUERIES
    begin = tl.load(ends + row)
    count = tl.load(ends + row + 1) - begin
    if offset < count:
        start = tl.load(lengths + row) - count
        seen = start + tl.minimum(offset + QUERIES, count)  # keys that the tile's last query sees
        first = 0
        if WINDOWED:  # from the first key that the tile's first query sees
            first = tl.maximum(start + offset + 1 - window, 0) // BLOCK_N * BLOCK_N
        if CHUNKED:
            first = (start + offset) // chunk * chunk // BLOCK_N * BLOCK_N
        last = seen
        if SPLIT:
            if FIXED:
                begins, length = split * keys_per_split, keys_per_split
                if split >= EVEN:
                    doubled = (split - EVEN) // (EVEN // 2)
                    begins = (EVEN * keys_per_split) << doubled
                    length = (2 * keys_per_split) << doubled
                    begins += (split - EVEN) % (EVEN // 2) * length
                first = tl.maximum(first, begins)
                last = tl.minimum(last, begins + length)
            else:
                share = tl.cdiv(tl.cdiv(seen - first, tl.num_programs(2)), BLOCK_N) * BLOCK_N
                first += split * tl.maximum(share, MIN_KEYS)
                last = tl.minimum(last, first + tl.maximum(share, MIN_KEYS))

        m = tl.arange(0, BLOCK_M)
        query = offset + m // GROUP
        head = kv_head * GROUP + m % GROUP
        is_query = (m < QUERIES * GROUP) & (query < count)
        d_k, d_v = tl.arange(0, KEY_PAD), tl.arange(0, VALUE_PAD)
        at_query = (begin + query).to(tl.int64) * q_token + head * q_head
        x = tl.load(q + at_query[:, None] + d_k[None, :], mask=is_query[:, None] & (d_k < KEY_DIM)[None, :], other=0.0)
        if WIDEN:
            x = x.to(tl.float32)

        largest = tl.full([BLOCK_M], -float("inf"), tl.float32)  # of the scores, in units of log 2, as they all are
        total = tl.zeros([BLOCK_M], tl.float32)
        if SINKS:  # noqa: SIM102 - the compiler decides this one
            if split == 0:
                largest = tl.load(sinks + head, mask=is_query, other=0.0).to(tl.float32) * _LOG2_E
                total += 1.0
        acc = tl.zeros([BLOCK_M, VALUE_PAD], tl.float32)
        n = tl.arange(0, BLOCK_N)
        table = pages + row.to(tl.int64) * pages_row
        for at in range(first, last, BLOCK_N):
            key = at + n
            is_key = key < last
            if PAGE % BLOCK_N == 0:  # the block lies in one page
                slot = tl.load(table + at // PAGE).to(tl.int64) * PAGE + at % PAGE + n
            else:
                slot = tl.load(table + key // PAGE, mask=is_key, other=0).to(tl.int64) * PAGE + key % PAGE
            k = tl.load(
                keys + slot[:, None] * key_slot + kv_head * key_head + d_k[None, :],
                mask=is_key[:, None] & (d_k < KEY_DIM)[None, :], other=0.0,
            )  # fmt: skip
            if WIDEN:
                k = k.to(tl.float32)
            s = tl.dot(x, tl.trans(k), input_precision=PRECISION)
            if CAPPED:  # cap * tanh(s / cap)
                s = softcap * (2 / (1 + tl.exp2(s * scale * (-2 * _LOG2_E) / softcap)) - 1) * _LOG2_E
            else:
                s = s * (scale * _LOG2_E)
            position = (start + query)[:, None]
            sees = (key[None, :] <= position) & is_key[None, :]
            if WINDOWED:
                sees = sees & (key[None, :] > position - window)
            if CHUNKED:
                sees = sees & (key[None, :] >= position // chunk * chunk)
            s = tl.where(sees, s, -float("inf"))
            grown = tl.maximum(largest, tl.max(s, axis=1))
            base = tl.where(grown == -float("inf"), 0.0, grown)  # -inf - -inf would be NaN
            weight = tl.exp2(s - base[:, None])
            keep = tl.exp2(largest - base)
            total = total * keep + tl.sum(weight, axis=1)
            v = tl.load(
                values + slot[:, None] * value_slot + kv_head * value_head + d_v[None, :],
                mask=is_key[:, None] & (d_v < VALUE_DIM)[None, :], other=0.0,
            )  # fmt: skip
            weight = weight.to(v.dtype)
            if WIDEN:
                v = v.to(tl.float32)
                weight = weight.to(tl.float32)
            acc = tl.dot(weight, v, acc * keep[:, None], input_precision=PRECISION)
            largest = grown

        if SPLIT:
            place = ((begin + query).to(tl.int64) * (tl.num_programs(1) * GROUP) + head) * tl.num_programs(2) + split
            tl.store(sums + place * 2, largest, mask=is_query)
            if (first < last) | SINKS & (split == 0):  # otherwise the join sees that there is nothing
                tl.store(sums + place * 2 + 1, total, mask=is_query)
                tl.store(
                    parts + place[:, None] * VALUE_DIM + d_v[None, :],
                    acc, mask=is_query[:, None] & (d_v < VALUE_DIM)[None, :],
                )  # fmt: skip
        else:
            to = (begin + query).to(tl.int64) * out_token + head * out_head
            tl.store(
                out + to[:, None] + d_v[None, :],
                (acc / total[:, None]).to(out.dtype.element_ty),
                mask=is_query[:, None] & (d_v < VALUE_DIM)[None, :],
            )


@triton.jit  # type: ignore[untyped-decorator]
def _join_kernel(  # type: ignore[no-untyped-def]
    parts, sums, out, out_token, out_head,
    VALUE_DIM: tl.constexpr, VALUE_PAD: tl.constexpr, SPLITS: tl.constexpr, JOINED: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0), tl.program_id(1)
    place = (token.to(tl.int64) * tl.num_programs(1) + head) * SPLITS
    d = tl.arange(0, VALUE_PAD)
    largest = tl.full([1], -float("inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([VALUE_PAD], tl.float32)
    for begin in tl.static_range(0, SPLITS, JOINED):
        s = begin + tl.arange(0, JOINED)
        peak = tl.load(sums + (place + s) * 2, mask=s < SPLITS, other=-float("inf"))
        is_live = peak > -float("inf")  # a split without keys left the rest of its place as it was
        grown = tl.maximum(largest, tl.max(peak, axis=0))
        base = tl.where(grown == -float("inf"), 0.0, grown)
        weight = tl.exp2(peak - base)
        keep = tl.exp2(largest - base)
        sum_ = tl.load(sums + (place + s) * 2 + 1, mask=is_live, other=0.0)
        part = tl.load(
            parts + (place + s)[:, None] * VALUE_DIM + d[None, :],
            mask=is_live[:, None] & (d < VALUE_DIM)[None, :], other=0.0,
        )  # fmt: skip
        total = total * keep + tl.sum(weight * sum_, axis=0)
        acc = acc * keep + tl.sum(part * weight[:, None], axis=0)
        largest = grown
    to = out + token.to(tl.int64) * out_token + head * out_head + d
    tl.store(to, (acc / total).to(out.dtype.element_ty), mask=d < VALUE_DIM)


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a call is cut into programs."""

    queries: int  # of a tile
    block_m: int  # rows of a tile: queries times heads of a group, up to a power of two of at least 16
    block_n: int  # keys that are loaded at once
    num_blocks: int
    splits: int
    num_warps: int
    num_stages: int


def paged_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tables,
    page_size: int,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    chunk: int | None = None,
    sinks: Tensor | None = None,
    keys_per_split: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Returns [tokens, heads, value_dim] of queries [tokens, heads, key_dim] in bfloat16, float16 or float32.

    keys and values: [slots, kv_heads, dim], of which the tables name pages; `sinks`: [heads]; `scale` of None is
    key_dim ** -0.5; `keys_per_split` (a multiple of 64) fixes which keys are summed together, so many in the first
    splits, and in tiles of which shape, so that a query's result depends on its own keys alone. The result goes to
    `out` if that is given.
    """
    num_tokens, num_heads, key_dim = query.shape
    num_kv_heads, value_dim = values.shape[1:]
    group = num_heads // num_kv_heads
    assert query.stride(2) == keys.stride(2) == values.stride(2) == 1, "heads that lie in one piece"
    assert keys_per_split is None or keys_per_split % 64 == 0, "splits of whole blocks of keys"
    tiles = choose_tiles(query, num_kv_heads, max(key_dim, value_dim), tables, keys_per_split)
    if out is None:
        out = torch.empty(num_tokens, num_heads, value_dim, dtype=query.dtype, device=query.device)
    at_once = max(1, _MOST_PART_BYTES // (num_heads * tiles.splits * (value_dim + 2) * 4))
    if keys_per_split is not None and num_tokens > at_once:
        for begin in range(0, num_tokens, at_once):
            end = min(begin + at_once, num_tokens)
            paged_attention(
                query[begin:end], keys, values, tables.among(begin, end), page_size,
                scale=scale, softcap=softcap, window=window, chunk=chunk, sinks=sinks, keys_per_split=keys_per_split,
                out=out[begin:end],
            )  # fmt: skip
        return out
    parts = sums = out  # not touched without splits
    if tiles.splits > 1:
        parts = torch.empty(num_tokens, num_heads, tiles.splits, value_dim, dtype=torch.float32, device=query.device)
        sums = torch.empty(num_tokens, num_heads, tiles.splits, 2, dtype=torch.float32, device=query.device)
    value_pad = max(16, triton.next_power_of_2(value_dim))
    _attend_kernel[(tiles.num_blocks, num_kv_heads, tiles.splits)](
        query, keys, values, out, parts, sums, out if sinks is None else sinks,
        tables.ends, tables.lengths, tables.pages,
        key_dim**-0.5 if scale is None else scale, softcap or 0.0, window or 0, chunk or 0, keys_per_split or 0,
        tables.lengths.shape[0],
        query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
        out.stride(0), out.stride(1), tables.pages.stride(0),
        GROUP=group, KEY_DIM=key_dim, VALUE_DIM=value_dim,
        KEY_PAD=max(16, triton.next_power_of_2(key_dim)), VALUE_PAD=value_pad,
        PAGE=page_size, QUERIES=tiles.queries, BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, MIN_KEYS=_MIN_KEYS,
        SPLIT=tiles.splits > 1, FIXED=keys_per_split is not None, DECODE=tables.max_queries == 1,
        CAPPED=softcap is not None, WINDOWED=window is not None,
        CHUNKED=chunk is not None, SINKS=sinks is not None,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        WIDEN=query.dtype == torch.bfloat16 and interprets(),  # whose dots know no bfloat16
        num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    if tiles.splits > 1:
        _join_kernel[(num_tokens, num_heads)](
            parts, sums, out, out.stride(0), out.stride(1),
            VALUE_DIM=value_dim, VALUE_PAD=value_pad, SPLITS=tiles.splits, JOINED=_JOINED, num_warps=2,
        )  # fmt: skip
    return out


def choose_tiles(
    query: Tensor, num_kv_heads: int, dim: int, tables: Tables, keys_per_split: int | None = None
) -> Tiles:
    """Returns tiles for queries [tokens, heads, dim]: large ones for prompts, many programs for few rows."""
    num_tokens, group = query.shape[0], query.shape[1] // num_kv_heads
    is_decode, is_exact = tables.max_queries == 1, query.dtype == torch.float32
    # float32, which is there for comparisons, has no room for larger tiles.
    is_wide = tables.max_queries * group > 32 and not is_exact and keys_per_split is None
    block_m = max(64 if is_wide else 16, triton.next_power_of_2(group))
    queries = 1 if is_decode else block_m // group
    num_rows = tables.lengths.shape[0]
    num_blocks = num_rows if is_decode else num_tokens // queries + num_rows
    if keys_per_split is not None:
        splits = num_splits(tables.max_keys, keys_per_split)
    else:  # as many programs as keep the device busy
        wanted = -(-2 * _num_processors(query.device) // (num_blocks * num_kv_heads))
        splits = min(_MAX_SPLITS, triton.next_power_of_2(max(1, min(wanted, -(-tables.max_keys // _MIN_KEYS)))))
    return Tiles(
        queries=queries,
        block_m=block_m,
        block_n=32 if is_exact or dim > 128 else 64,
        num_blocks=num_blocks,
        splits=splits,
        num_warps=8 if dim > 128 and (is_wide or is_exact) else 4,
        # Triton shares the stages between the load of a page's number and that of its keys: with five, two blocks of
        # keys are on their way while a third is multiplied. Large tiles have no room for that, nor as much need.
        num_stages=2 if is_exact or (is_wide and dim > 128) else 3 if is_wide else 5,
    )


@functools.cache
def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
