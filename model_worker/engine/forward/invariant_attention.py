"""Paged attention in which a query's sums have one order, alone and beside others: for `--batch-invariant` on a CPU.

Every query is an item of its own in a call of `scaled_dot_product_attention`, whether it decodes, verifies a draft or
is one of a prompt's, and reads its keys in whole blocks of a fixed size, the rest masked. The call's shape for an item
is then a function of the query's position alone; what else is in the batch changes only how many items there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model_worker.engine.bookkeeping.runs import Row
from model_worker.engine.forward.attention import by_hand
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.kv_cache import KvCache
from model_worker.engine.forward.reach import Reach

KEY_BLOCK = 32  # a query reads a multiple of so many keys; a multiple of the width of any vector unit
# Of so many queries to a key head, where torch has threads: the kernel's buffers are then whole cache lines for every
# thread. The BLAS sums 32-bit numbers in another order where they begin elsewhere, and it is chance which thread takes
# an item.
_QUERIES = 8
# Rows of one token that lie anywhere in the cache are copied to lie side by side if they read at most so many keys;
# beyond that the copies cost more than a call for each row.
_MAX_COPIED = 512


@dataclass(slots=True)
class Plan:
    """How the queries of a batch attend in layers of one reach."""

    items: list[Items]
    order: Tensor | None = None  # int64 [tokens], which token of the batch each item is; None: all in turn
    back: Tensor | None = None  # its inverse


@dataclass(frozen=True, slots=True)
class Items:
    """Queries that attend in one call: each reads as many keys, and they lie at equal distances in the cache."""

    #   a prompt's tokens 30..33, blocks of 32 keys      decode rows of three sessions, 40, 35 and 50 tokens long
    #
    #   items   [30, 31] read 32 keys of one session     [40, 35, 50] read 64 keys each, from `first`, `first` +
    #           [32, 33] read 64, distance 0             `distance` ... on, or through `slots`

    begin: int  # in the order of `InvariantAttention`: by keys read
    end: int
    num_keys: int
    mask: Tensor  # additive, [items, 1, 1, num_keys]
    first: int = 0
    distance: int = 0  # slots between the keys of one item and the next
    slots: Tensor | None = None  # int64 [items * num_keys], or [num_keys] where the distance is 0; None: read in place


class InvariantAttention:
    """An `AttentionBackend` whose results for a token are the same in any batch; with `in_place` off it only copies."""

    def __init__(self, cache: KvCache, *, in_place: bool = True) -> None:
        self._cache = cache
        self._in_place = in_place
        self._threaded = cache.device.type == "cpu" and torch.get_num_threads() > 1
        self.name = "batch-invariant" if in_place else "batch-invariant gather"
        self.reads_masked = True
        self._plans: list[Plan] = []  # by the cache's reaches
        self._write_slots: list[Tensor] = []

    def begin(self, batch: Batch, slots: Tensor) -> None:
        self._write_slots = self._cache.slots_by_reach(batch.slots, slots)
        self._plans = [self._plan(batch, reach) for reach in self._cache.reaches]

    def _plan(self, batch: Batch, reach: Reach) -> Plan:
        positions = np.array(batch.positions)
        # Blocks begin at multiples of their size, whatever the reach, so that what is summed together is.
        begins = reach.firsts(positions) // KEY_BLOCK * KEY_BLOCK
        num_keys = -(-(positions + 1) // KEY_BLOCK) * KEY_BLOCK - begins
        order = np.argsort(num_keys, kind="stable")
        plan = Plan([])
        if (order[1:] < order[:-1]).any():
            plan.order = self._cache.to_device(order)
            plan.back = self._cache.to_device(np.argsort(order))
        rows = [row for row in batch.rows for _ in range(row.num_tokens)]
        for begin, end in _equal(num_keys[order]):
            tokens = order[begin:end]
            members = [_Member(rows[token], int(positions[token]), int(begins[token])) for token in tokens]
            self._add(plan, members, begin, int(num_keys[order[begin]]), reach)
        return plan

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
        shape, at = self._cache.shapes[layer], self._cache.reach_at[layer]
        self._cache.write(layer, self._write_slots[at], key, value)
        # One layout, whatever the model made it in: [tokens, kv_heads, query heads that share one, dim].
        q = query[0].transpose(0, 1).contiguous()
        plan = self._plans[at]
        if plan.order is not None:
            q = q.index_select(0, plan.order)
        q = q.view(q.shape[0], shape.num_kv_heads, -1, shape.key_dim)
        num_shared = q.shape[2]
        if self._threaded and q.dtype.itemsize > 2 and (missing := -num_shared % _QUERIES):
            q = nn.functional.pad(q, (0, 0, 0, missing))
        sinks = None
        if s_aux is not None:  # of the query heads as they lie in `q`; what is padded has one of nobody
            sinks = s_aux.view(shape.num_kv_heads, num_shared)
            sinks = nn.functional.pad(sinks, (0, q.shape[2] - num_shared))[:, :, None]
        outputs = []
        for items in plan.items:
            k, v = self._read(items, self._cache.keys[layer]), self._read(items, self._cache.values[layer])
            own, mask = q[items.begin : items.end], items.mask
            if self._threaded and own.shape[0] * own.shape[1] == 1:
                # All others are each one thread's work; a lone one would be shared out among the threads.
                own, k, v, mask = (tensor.expand(2, -1, -1, -1) for tensor in (own, k, v, mask))
            if shape.softcap is not None or sinks is not None:
                out = by_hand(own, k, v, mask, scaling, shape.softcap, sinks)
            else:
                out = nn.functional.scaled_dot_product_attention(own, k, v, attn_mask=mask, scale=scaling)
            num_items = items.end - items.begin
            outputs.append(out[:num_items, :, :num_shared].reshape(num_items, query.shape[1], shape.value_dim))
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        if plan.back is not None:
            joined = joined.index_select(0, plan.back)
        return joined[None], None

    def _read(self, items: Items, tensor: Tensor) -> Tensor:
        """Returns keys or values, [items, kv_heads, num_keys, dim]."""
        num_heads, dim = tensor.shape[1:]
        width, num_items = num_heads * dim, items.end - items.begin
        first, distance = items.first, items.distance
        if items.slots is not None:
            tensor = tensor.index_select(0, items.slots)
        shape = (num_items, num_heads, items.num_keys, dim)
        return tensor.as_strided(shape, (distance * width, dim, width, 1), first * width)

    def _add(self, plan: Plan, members: Sequence[_Member], begin: int, num_keys: int, reach: Reach) -> None:
        """Adds the items of `members` (one per token) that read `num_keys` keys, in as few calls as can be."""
        positions, begins = (np.array([getattr(each, name) for each in members]) for name in ("position", "begin"))
        keys = begins[:, None] + np.arange(num_keys)[None, :]
        masked = keys > positions[:, None]
        if reach.is_limited:
            masked |= keys < reach.firsts(positions)[:, None]
        at = 0
        while at < len(members):
            end, first = at + 1, members[at]
            while end < len(members) and members[end].row is first.row and members[end].begin == first.begin:
                end += 1
            if end > at + 1:  # several tokens of one session: they read the same keys
                place, slots = self._place(first, num_keys, reach)
                self._append(plan, begin, at, end, masked, place, 0, slots)
                at = end
                continue
            while end < len(members) and members[end].row.num_tokens == 1:
                end += 1
            self._add_single(plan, members[at:end], begin, at, masked, reach)
            at = end

    def _add_single(
        self, plan: Plan, members: Sequence[_Member], begin: int, at: int, masked: np.ndarray, reach: Reach
    ) -> None:
        """Adds rows of one item each: as one view, as one copy, or one by one."""
        num_keys = masked.shape[1]
        places = [self._place(member, num_keys, reach) for member in members]
        if all(slots is None for _, slots in places):
            firsts = [first for first, _ in places]
            distances = {after - before for before, after in itertools.pairwise(firsts)}
            distance = next(iter(distances), 0)
            # One view, where each begins as far from the one before; a view cannot go backwards.
            if len(distances) <= 1 and distance >= 0:
                self._append(plan, begin, at, at + len(members), masked, firsts[0], distance, None)
                return
        if len(members) > 1 and num_keys <= _MAX_COPIED:
            copied = np.concatenate([self._slots(member, num_keys, reach) for member in members])
            self._append(plan, begin, at, at + len(members), masked, 0, num_keys, self._cache.to_device(copied))
            return
        for index, (first, slots) in enumerate(places, at):
            self._append(plan, begin, index, index + 1, masked, first, 0, slots)

    def _append(
        self,
        plan: Plan,
        begin: int,
        at: int,
        end: int,
        masked: np.ndarray,
        first: int,
        distance: int,
        slots: Tensor | None,
    ) -> None:
        mask = torch.zeros(end - at, masked.shape[1], dtype=self._cache.dtype)
        mask.masked_fill_(torch.from_numpy(masked[at:end]), float("-inf"))
        mask = mask[:, None, None].to(self._cache.device, non_blocking=True)
        plan.items.append(Items(begin + at, begin + end, masked.shape[1], mask, first, distance, slots))

    def _place(self, member: _Member, num_keys: int, reach: Reach) -> tuple[int, Tensor | None]:
        """Returns where a token's keys begin in the cache, or in what its slots bring together."""
        session, is_mapped = member.row.run.session, self._cache.windows is not None and reach.is_limited
        first = session.pages[0] * self._cache.page_size + member.begin
        if self._in_place and session.contiguous and not is_mapped and first + num_keys <= self._cache.num_slots:
            return first, None
        return 0, self._cache.to_device(self._slots(member, num_keys, reach))

    def _slots(self, member: _Member, num_keys: int, reach: Reach) -> np.ndarray:
        """Returns the slots of `num_keys` positions from its first on, int64; those beyond its pages repeat one."""
        page_size, end = self._cache.page_size, member.begin + num_keys
        own = member.row.run.session.pages[member.begin // page_size : -(-end // page_size)]
        pages = self._cache.pages_of(np.array(own, dtype=np.int64), reach)
        held = (pages[:, None] * page_size + np.arange(page_size)).ravel()[member.begin % page_size :][:num_keys]
        slots = np.full(num_keys, held[0])
        slots[: len(held)] = held
        return slots


@dataclass(frozen=True, slots=True)
class _Member:
    """A token that is an item of a call."""

    row: Row
    position: int
    begin: int  # the position of the first key that it reads


def _equal(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields begin and end of each stretch of equal numbers."""
    borders = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(numbers)]
    yield from itertools.pairwise(borders)
