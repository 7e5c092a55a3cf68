"""Finds rows that have left infinities or NaN in the cache where no distribution tells of it.

A row that asks for a distribution shows by that whether all it has read and written is finite. Of the others, catch-up
and chunks of prompts, the values of the last layer are looked at: what is not finite below stays so in the residual
stream, and is found there.
"""

from __future__ import annotations

import torch

from model_worker.engine.bookkeeping.scheduler import Row
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.kv_cache import KvCache
from model_worker.engine.forward.transfer import Later, to_device, to_host


def find_spoilt(cache: KvCache, layer: int, batch: Batch) -> Later[list[Row]]:
    """Returns, once the device is done, the rows that ask for nothing and left what is not finite; `layer` is the last.

    Steps in which every row asks, as decode steps do, are not made longer.
    """
    if not batch.unasked:
        return list
    values = cache.values[layer]
    places = [place for first, row in batch.unasked for place in range(first, first + row.num_tokens)]
    slots = to_device(torch.tensor([batch.slots[place] for place in places]), cache.device)
    written = values.index_select(0, slots)
    total = to_host(written.sum(dtype=torch.promote_types(cache.dtype, torch.float32)))

    def read() -> list[Row]:
        if bool(total.isfinite()):
            return []
        parts = written.split([row.num_tokens for _, row in batch.unasked])
        return [row for (_, row), part in zip(batch.unasked, parts, strict=True) if not bool(part.isfinite().all())]

    return read
