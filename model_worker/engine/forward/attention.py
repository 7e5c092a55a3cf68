"""Paged attention by `scaled_dot_product_attention`, on any device: the backend for CPUs and for what no other can do.

No step copies the cache where it can be helped. The pages of a session mostly lie side by side: a row then reads a
view of the cache, and rows at equal distances read one strided view together. Only a session whose pages are scattered
is gathered first. (A CUDA device reads pages through block tables instead: attention_tables.py.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model_worker.engine.bookkeeping.runs import Row
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.kv_cache import KvCache
from model_worker.engine.forward.reach import EVERYTHING, Reach

# Rows of up to so many tokens attend with the query heads that share a key head side by side. For longer rows the
# mask, repeated for each of these heads, would be too big.
SHORT_EXTEND = 16


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that attend together: same number of queries, read as far as the longest context."""

    # Rows of a batch (batch.py's order) and the groups that they make, each one call of the kernel:
    #
    #   rows     one token, in one piece   | one token, scattered | several tokens
    #            s0   s1   s2   s3         | s4   s5              | s6         | s7
    #   groups   [ one strided view ]      | [ gathered ]         | [ alone ]  | [ alone ]
    #
    # The strided view of s0..s3, where the sessions begin at equal distances in the cache:
    #
    #   slots    |0 0 0 . . . . .|1 1 . . . . . .|2 2 2 . . . . .|3 . . .    num_keys = 3; of s1 and s3 the rest is
    #             first           first + distance                           masked

    queries: slice  # of the flattened batch: num_rows * num_queries tokens in order
    num_rows: int
    num_queries: int  # more than one only where there is one row
    num_keys: int
    first: int = 0  # without `slots`, row i's keys are in the slots from first + i * distance on
    distance: int = 0
    slots: Tensor | None = None  # int64 [num_rows * num_keys], where the keys are; padding repeats a written slot
    mask: Tensor | None = None  # additive, [num_rows, 1, num_queries, num_keys]; None: every query sees every key
    is_causal: bool = False  # as many keys as queries, and query i sees the first i + 1 of them; without a mask


class PagedAttention:
    """An `AttentionBackend` that reads the cache in place where pages lie side by side; with `in_place` off, never."""

    def __init__(self, cache: KvCache, *, in_place: bool = True) -> None:
        self._cache = cache
        self._in_place = in_place
        # Layers whose scores are made by hand, which torch's kernel cannot make.
        self._by_hand = [shape.softcap is not None or shape.has_sinks for shape in cache.shapes]
        self.name = "in-place" if in_place else "gather"
        self.reads_masked = in_place
        self._groups: list[list[Group]] = [[] for _ in cache.reaches]
        self._write_slots: list[Tensor] = []

    def begin(self, batch: Batch, slots: Tensor) -> None:
        rows = batch.rows
        self._write_slots = self._cache.slots_by_reach(batch.slots, slots)
        num_single = sum(row.num_tokens == 1 for row in rows)
        for reach, groups in zip(self._cache.reaches, self._groups, strict=True):
            groups.clear()
            at = 0
            while at < num_single:
                groups.append(self._single(rows, at, num_single, reach))
                at += groups[-1].num_rows
        at = num_single
        for row in rows[num_single:]:
            self.add_extend(row, at)
            at += row.num_tokens

    def forward(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        s_aux: Tensor | None = None,
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        at = self._cache.reach_at[layer]
        self._cache.write(layer, self._write_slots[at], key, value)
        if query.shape[2] == 1 and not self._by_hand[layer]:
            return self._attend_alone(query, scaling, layer), None
        outputs = [self._attend(group, query[0], scaling, layer, s_aux) for group in self._groups[at]]
        return (outputs[0].contiguous() if len(outputs) == 1 else torch.cat(outputs))[None], None

    def attend_into(
        self, out: Tensor, query: Tensor, scaling: float | None, layer: int, sinks: Tensor | None = None
    ) -> None:
        """Attends for the rows that were added, into their part of `out` [tokens, heads, value_dim]."""
        for group in self._groups[self._cache.reach_at[layer]]:
            out[group.queries] = self._attend(group, query, scaling, layer, sinks)

    def _attend_alone(self, query: Tensor, scaling: float | None, layer: int) -> Tensor:
        """Attends for a batch of one token, [1, 1, heads, value_dim]: without other sessions every call counts."""
        shape = self._cache.shapes[layer]
        group, num_heads = self._groups[self._cache.reach_at[layer]][0], query.shape[1]
        k, v = self._read(group, self._cache.keys[layer]), self._read(group, self._cache.values[layer])
        q = query.view(1, shape.num_kv_heads, num_heads // shape.num_kv_heads, shape.key_dim)
        out = nn.functional.scaled_dot_product_attention(q, k, v, scale=scaling)
        return out.reshape(1, 1, num_heads, shape.value_dim)

    def _attend(self, group: Group, query: Tensor, scaling: float | None, layer: int, sinks: Tensor | None) -> Tensor:
        """Returns the group's outputs, [tokens of the group, heads, value_dim]; query: [heads, tokens, key_dim]."""
        shape = self._cache.shapes[layer]
        k, v = self._read(group, self._cache.keys[layer]), self._read(group, self._cache.values[layer])
        num_heads, num_kv_heads = query.shape[0], shape.num_kv_heads
        q = query[:, group.queries]
        mask, repeated = group.mask, num_heads // num_kv_heads
        if group.num_queries == 1:
            # The query heads that share a key head become that many queries of it: [rows, kv_heads, repeated, dim].
            q = q.view(num_kv_heads, repeated, group.num_rows, q.shape[2]).permute(2, 0, 1, 3)
        elif repeated > 1 and group.num_queries <= SHORT_EXTEND:
            q = q.reshape(1, num_kv_heads, repeated * group.num_queries, -1)
            mask = mask.repeat(1, 1, repeated, 1) if mask is not None else None
        else:
            q = q[None]
        if not self._by_hand[layer]:
            out: Tensor = nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=group.is_causal, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
        else:
            if sinks is not None:  # as the query heads lie in `q`
                own = sinks.view(q.shape[1], -1)
                sinks = own.repeat_interleave(q.shape[2] // own.shape[1], dim=1)[:, :, None]
            out = by_hand(q, k, v, mask, scaling, shape.softcap, sinks)
        if group.num_queries == 1:
            return out.flatten(1, 2)
        return out.reshape(num_heads, group.num_queries, -1).transpose(0, 1)

    def _read(self, group: Group, tensor: Tensor) -> Tensor:
        """Returns keys or values, [rows, kv_heads, num_keys, dim]: a view unless the pages are scattered."""
        if group.slots is not None:
            size = (group.num_rows, group.num_keys, *tensor.shape[1:])
            return tensor.index_select(0, group.slots).view(size).transpose(1, 2)
        width, dim = tensor.stride(0), tensor.shape[2]
        return tensor.as_strided(
            (group.num_rows, tensor.shape[1], group.num_keys, dim),
            (group.distance * width, dim, width, 1),
            group.first * width,
        )

    def _single(self, rows: Sequence[Row], at: int, end: int, reach: Reach) -> Group:
        """Returns a group of rows of one token, from `rows[at]` on."""
        page_size = self._cache.page_size
        session = rows[at].run.session
        if reach.is_limited:
            # Rows see windows that begin anywhere: a lone one reads its own in place.
            in_place = end == at + 1 and self._lies_in_place(rows[at], reach)
            return self._viewed(rows[at], at, reach) if in_place else self._gathered(rows[at:end], at, reach)
        longest = rows[at].start + 1
        if not (session.contiguous and self._in_place):
            until = at + 1
            while until < end and not (rows[until].run.session.contiguous and self._in_place):
                until += 1
            return self._gathered(rows[at:until], at, reach)
        first = session.pages[0]
        distance = count = total = 0
        for row in rows[at:end]:
            if not row.run.session.contiguous:
                break
            # Pages between this row and the one before; the second row sets the group's distance.
            step = row.run.session.pages[0] - first - distance * max(0, count - 1)
            if count == 1:
                distance = step
            # A row joins if it is as far from the one before as the others are, if no row is read into the next one or
            # beyond the cache, and if not more padding than keys is read.
            padded = max(longest, row.start + 1)
            end_of_reading = row.run.session.pages[0] * page_size + padded
            too_padded = padded * (count + 1) > 2 * (total + row.start + 1)
            if count and (
                step != distance
                or padded > distance * page_size
                or end_of_reading > self._cache.num_slots
                or too_padded
            ):
                break
            longest, count, total = padded, count + 1, total + row.start + 1
        lengths = [row.start + 1 for row in rows[at : at + count]]
        mask = self._length_mask(np.array(lengths), longest) if count > 1 else None
        queries = slice(at, at + count)
        return Group(queries, count, 1, longest, first * page_size, distance * page_size, mask=mask)

    def _viewed(self, row: Row, at: int, reach: Reach) -> Group:
        """Returns the group of one row of one token that reads what it sees in place."""
        begin = reach.first(row.start)
        first = row.run.session.pages[0] * self._cache.page_size + begin
        return Group(slice(at, at + 1), 1, 1, row.start + 1 - begin, first)

    def _gathered(self, rows: Sequence[Row], at: int, reach: Reach) -> Group:
        """Returns the group of rows of one token that is copied: their pages are scattered, or windows of them read."""
        all_slots = [self._slots(row, reach) for row in rows]
        lengths = np.array([len(slots) for slots in all_slots])
        padded = np.empty((len(rows), int(lengths.max())), dtype=np.int64)
        for index, slots in enumerate(all_slots):
            padded[index, : len(slots)] = slots
            padded[index, len(slots) :] = slots[0]
        mask = self._length_mask(lengths, padded.shape[1])
        queries = slice(at, at + len(rows))
        return Group(queries, len(rows), 1, padded.shape[1], slots=self._cache.to_device(padded.ravel()), mask=mask)

    def add_extend(self, row: Row, at: int) -> None:
        """Adds a row of several tokens, from `at` on: query i stands at start + i and sees the keys up to itself."""
        session, end = row.run.session, row.start + row.num_tokens
        positions = np.arange(row.start, end)
        for reach, groups in zip(self._cache.reaches, self._groups, strict=True):
            begin = reach.first(row.start)
            is_whole = row.start == 0 and reach.within(end) == EVERYTHING
            is_causal = is_whole and row.num_tokens > SHORT_EXTEND and not any(self._by_hand)
            mask = None
            if not is_causal:
                keys = np.arange(begin, end)[None, :]
                seen = keys <= positions[:, None]
                if reach.is_limited:
                    seen &= keys >= reach.firsts(positions)[:, None]
                mask = self._additive(seen)[None, None]
            groups.append(
                Group(
                    slice(at, at + row.num_tokens),
                    1,
                    row.num_tokens,
                    end - begin,
                    first=session.pages[0] * self._cache.page_size + begin,
                    slots=None if self._lies_in_place(row, reach) else self._cache.to_device(self._slots(row, reach)),
                    mask=mask,
                    is_causal=is_causal,
                )
            )

    def _lies_in_place(self, row: Row, reach: Reach) -> bool:
        """Says whether layers of that reach have a row's keys side by side."""
        is_mapped = self._cache.windows is not None and reach.is_limited
        return self._in_place and row.run.session.contiguous and not is_mapped

    def _slots(self, row: Row, reach: Reach) -> np.ndarray:
        """Returns the slots of the tokens that a row sees, up to its end, int64."""
        page_size, begin = self._cache.page_size, reach.first(row.start)
        pages = self._cache.pages_of(np.array(row.run.session.pages[begin // page_size :], dtype=np.int64), reach)
        slots = (pages[:, None] * page_size + np.arange(page_size)).ravel()
        return slots[begin % page_size :][: row.start + row.num_tokens - begin]

    def _length_mask(self, lengths: np.ndarray, longest: int) -> Tensor | None:
        if (lengths == longest).all():
            return None
        return self._additive(np.arange(longest)[None, :] < lengths[:, None])[:, None, None]

    def _additive(self, seen: np.ndarray) -> Tensor:
        """Returns a mask of 0 where seen and -inf elsewhere, made once a step and not once a layer."""
        mask = torch.zeros(seen.shape, dtype=self._cache.dtype)
        mask.masked_fill_(torch.from_numpy(~seen), float("-inf"))
        return mask.to(self._cache.device, non_blocking=True)


def by_hand(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention whose scores s become softcap * tanh(s / softcap) (Gemma 2), or whose softmax has sinks (gpt-oss).

    A sink is a score like that of a key whose value is zero; `sinks` [heads, queries or 1, 1] are those of q's heads.
    """
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    scores = (q @ k.transpose(-1, -2)) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1).to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(torch.float32, q.dtype)).to(q.dtype)
    return (weights if sinks is None else weights[..., :-1]) @ v
