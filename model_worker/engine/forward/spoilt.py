"""Finds rows that have left infinities or NaN in the cache where no distribution tells of it.

A row that asks for a distribution shows by that whether all it has read and written is finite. Of the others, catch-up
and chunks of prompts, the values of the last layer are looked at: what is not finite below stays so in the residual
stream, and is found there. Keys alone may be not finite and show nowhere, in the last layer or where no score makes use
of them. That harms nobody where a session's own slots alone are read. Where others are read, too, and masked
afterwards, every row's keys and values are looked at. States are read by their own session only: those that such rows
leave are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from model_worker.engine.bookkeeping.runs import Row
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.kv_cache import KvCache
from model_worker.engine.forward.state_store import StateStore
from model_worker.engine.forward.transfer import Later, to_host

Agree = Callable[[Tensor], Tensor]  # on a sum: that of all who have a part of the cache, the same to each of them


def find_spoilt(
    cache: KvCache,
    states: StateStore | None,
    layer: int,
    batch: Batch,
    agree: Agree | None = None,
    *,
    everything: bool,
) -> Later[list[Row]]:
    """Returns, once the device is done, the rows that left what is not finite, of those of which no distribution tells.

    `layer` is the last one; with `everything` all keys and values count, and else steps in which every row asks, as
    decode steps do, are not made longer. Where others have a part of the cache, which rows spoilt theirs is not seen
    here: then it may be any.
    """
    in_cache = _in_cache(cache, layer, batch, agree, everything=everything)
    if states is None or not batch.unasked:
        return in_cache
    in_states = _in_states(states, [row for _, row in batch.unasked])
    return lambda: [*in_cache(), *in_states()]


def _in_states(states: StateStore, rows: list[Row]) -> Later[list[Row]]:
    sums = to_host(states.sums(rows))
    return lambda: [row for row, total in zip(rows, sums.tolist(), strict=True) if not math.isfinite(total)]


def _in_cache(cache: KvCache, layer: int, batch: Batch, agree: Agree | None, *, everything: bool) -> Later[list[Row]]:
    looked_at = batch.placed if everything else batch.unasked
    if not looked_at:
        return list
    layer = max((number for number in range(layer + 1) if cache.shapes[number].num_kv_heads), default=layer)
    places = [place for first, row in looked_at for place in range(first, first + row.num_tokens)]
    numbers = np.array([batch.slots[place] for place in places], dtype=np.int64)
    slots = {reach: cache.to_device(cache.slots_of(numbers, reach)) for reach in cache.reaches}
    reaches = [shape.reach for shape in cache.shapes]
    kept = [(reaches[layer], cache.values[layer])]
    if everything:
        kept = [(reaches[at], each[at]) for each in (cache.keys, cache.values) for at in range(layer + 1)]
    exact = torch.promote_types(cache.dtype, torch.float32)
    own = torch.stack([tensor.index_select(0, slots[reach]).sum(dtype=exact) for reach, tensor in kept]).sum()
    total = to_host(own if agree is None else agree(own))

    def read() -> list[Row]:
        if bool(total.isfinite()):
            return []
        each = [tensor.index_select(0, slots[reach]).isfinite().flatten(1).all(1) for reach, tensor in kept]
        parts = torch.stack(each).all(0).split([row.num_tokens for _, row in looked_at])
        found = [row for (_, row), part in zip(looked_at, parts, strict=True) if not bool(part.all())]
        return found if found or agree is None else [row for _, row in looked_at]

    return read
