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

import torch

from model_worker.engine.bookkeeping.runs import Row
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.kv_cache import KvCache
from model_worker.engine.forward.state_store import StateStore
from model_worker.engine.forward.transfer import Later, to_device, to_host


def find_spoilt(cache: KvCache, layer: int, batch: Batch, *, everything: bool) -> Later[list[Row]]:
    """Returns, once the device is done, the rows that left what is not finite, of those of which no distribution tells.

    `layer` is the last one; with `everything` all keys and values count, and else steps in which every row asks, as
    decode steps do, are not made longer.
    """
    layer = max((number for number in range(layer + 1) if cache.shapes[number].num_kv_heads), default=layer)
    looked_at = batch.placed if everything else batch.unasked
    if not looked_at:
        return list
    places = [place for first, row in looked_at for place in range(first, first + row.num_tokens)]
    slots = to_device(torch.tensor([batch.slots[place] for place in places]), cache.device)
    kept = [*cache.keys[: layer + 1], *cache.values[: layer + 1]] if everything else [cache.values[layer]]
    exact = torch.promote_types(cache.dtype, torch.float32)
    total = to_host(torch.stack([tensor.index_select(0, slots).sum(dtype=exact) for tensor in kept]).sum())

    def read() -> list[Row]:
        if bool(total.isfinite()):
            return []
        finite = torch.stack([tensor.index_select(0, slots).isfinite().flatten(1).all(1) for tensor in kept]).all(0)
        parts = finite.split([row.num_tokens for _, row in looked_at])
        return [row for (_, row), part in zip(looked_at, parts, strict=True) if not bool(part.all())]

    return read


def find_spoilt_states(states: StateStore, batch: Batch) -> Later[list[Row]]:
    """Returns, once the device is done, the rows that left states that are not finite and ask for no distribution."""
    rows = [row for _, row in batch.unasked]
    if not rows:
        return list
    sums = to_host(states.sums(rows))
    return lambda: [row for row, total in zip(rows, sums.tolist(), strict=True) if not math.isfinite(total)]


def either(some: Later[list[Row]], others: Later[list[Row]]) -> Later[list[Row]]:
    """Returns, once the device is done, the rows that one or the other has found."""
    return lambda: [*some(), *others()]
