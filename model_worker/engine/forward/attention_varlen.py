"""Paged attention by PyTorch's `varlen_attn`: one kernel for rows of any lengths, pages read through block tables.

For CUDA devices in 16-bit floats. Every row, whatever its number of new tokens, is a sequence of the one call, so that
decode rows, catch-up and chunks of prompts cost one launch a layer; and with tables of fixed shape the call can be
captured in a graph (graphs.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.kv_cache import KvCache


@dataclass(slots=True)
class Tables:
    """What the kernel is told; int32 on the device, except `slots` (any integers) and the maxima."""

    # Two rows, one of 3 new tokens after 20 and one of 1 after 33, pages of 16:
    #
    #   ends     0          3    4        row 0 has queries [0, 3), row 1 has [3, 4)
    #   lengths  23         34            keys seen by the last query of each; the one before it sees one fewer
    #   pages    [4, 5, 0]  [9, 2, 7]     columns beyond a row's last page are not read

    slots: Tensor  # [tokens], where the new keys and values go
    ends: Tensor  # [rows + 1], where each row's queries begin and the last end
    lengths: Tensor  # [rows], how many keys each row sees
    pages: Tensor  # [rows, pages of the longest context], the page table of each row
    max_queries: int
    max_keys: int


class VarlenAttention:
    """An `AttentionBackend` over `varlen_attn`. The constructor raises UnsupportedModel if that cannot do a layer."""

    name = "varlen"

    def __init__(self, cache: KvCache, context_length: int) -> None:
        self._cache = cache
        self.max_pages = -(-context_length // cache.page_size)  # columns of a captured graph's page table
        self._tables: Tables | None = None
        for shape in cache.shapes:
            if shape.softcap is not None:
                raise UnsupportedModel("varlen_attn caps no scores")
            if shape.key_dim != shape.value_dim:
                raise UnsupportedModel("varlen_attn wants keys and values of one size")

    def begin(self, batch: Batch, slots: Tensor) -> None:
        rows = batch.rows
        counts = [row.num_tokens for row in rows]
        lengths = [row.start + row.num_tokens for row in rows]
        page_size = self._cache.page_size
        width = -(-max(lengths) // page_size)
        pages = np.zeros((len(rows), width), dtype=np.int32)
        for index, row in enumerate(rows):
            held = row.run.session.pages[:width]
            pages[index, : len(held)] = held
        self.use(
            Tables(
                slots=slots,
                ends=self._cache.to_device(np.cumsum([0, *counts], dtype=np.int32)),
                lengths=self._cache.to_device(np.array(lengths, dtype=np.int32)),
                pages=self._cache.to_device(pages),
                max_queries=max(counts),
                max_keys=max(lengths),
            )
        )

    def use(self, tables: Tables) -> None:
        """Makes the next forward one of a batch with these tables."""
        self._tables = tables

    def forward(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        assert self._tables is not None, "begin() before the forward"
        tables, cache = self._tables, self._cache
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        cache.write(layer, tables.slots.long(), key, value)
        paged = (cache.num_pages, cache.page_size)
        out: Any = varlen_attn(
            query[0].transpose(0, 1),
            cache.keys[layer].unflatten(0, paged),
            cache.values[layer].unflatten(0, paged),
            tables.ends,
            None,
            tables.max_queries,
            tables.max_keys,
            scale=scaling,
            # Causal, aligned at the last query. A row's only query sees every key anyway, and without a window the
            # kernel splits the keys and packs the query heads that share a key head.
            window_size=(-1, 0) if tables.max_queries > 1 else (-1, -1),
            enable_gqa=query.shape[1] != key.shape[1],
            seqused_k=tables.lengths,
            block_table=tables.pages,
        )
        return out[None], None
