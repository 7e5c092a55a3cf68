"""Attention through block tables: what its backends share, whichever kernel reads the pages.

Every row, whatever its number of new tokens, is a sequence of the one call, so that decode rows, catch-up and chunks of
prompts cost one launch a layer; and with tables of fixed shape the call can be captured in a graph (graphs.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.kv_cache import KvCache
from model_worker.engine.forward.reach import Reach


@dataclass(frozen=True, slots=True)
class Tables:
    """What the kernel is told; int32 on the device, except `slots` (int64) and the maxima."""

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

    def among(self, begin: int, end: int) -> Tables:
        """Returns tables for the tokens [begin, end) of the batch alone, of which a row may have none."""
        ends = self.ends.clamp(begin, end)
        lengths = self.lengths - (self.ends[1:] - ends[1:])
        return replace(self, slots=self.slots[begin:end], ends=ends - begin, lengths=lengths)


class BlockTableAttention(ABC):
    """An `AttentionBackend` that steps of fixed shape can be captured with: all it needs is in `Tables`."""

    name: str
    reads_masked = False

    def __init__(self, cache: KvCache, context_length: int) -> None:
        self.cache = cache
        self.max_pages = -(-context_length // cache.page_size)  # columns of a captured graph's page table
        # Whether layers of each of the cache's reaches have pages where only `KvCache.windows` says; all such alike.
        self._is_mapped = [reach.is_limited and cache.windows is not None for reach in cache.reaches]
        self._tables: list[Tables] = []  # by the cache's reaches

    @property
    def has_mapped(self) -> bool:
        """Whether some layers have pages elsewhere than the others."""
        return any(self._is_mapped)

    def tables_of(self, layer: int) -> Tables:
        """Returns what the kernel is told of the present forward in a layer."""
        return self._tables[self.cache.reach_at[layer]]

    def begin(self, batch: Batch, slots: Tensor) -> None:
        rows = batch.rows
        counts = [row.num_tokens for row in rows]
        lengths = [row.start + row.num_tokens for row in rows]
        width = -(-max(lengths) // self.cache.page_size)
        pages = np.zeros((len(rows), width), dtype=np.int32)
        for index, row in enumerate(rows):
            held = row.run.session.pages[:width]
            pages[index, : len(held)] = held
        tables = Tables(
            slots=slots,
            ends=self.cache.to_device(np.cumsum([0, *counts], dtype=np.int32)),
            lengths=self.cache.to_device(np.array(lengths, dtype=np.int32)),
            pages=self.cache.to_device(pages),
            max_queries=max(counts),
            max_keys=max(lengths),
        )
        if not self.has_mapped:
            self.use(tables)
            return
        own = self.cache.slots_by_reach(batch.slots, slots)[self._is_mapped.index(True)]
        self.use(tables, replace(tables, slots=own, pages=self.cache.to_device(self.mapped_pages(pages))))

    def mapped_slots(self, slots: np.ndarray) -> np.ndarray:
        """Returns where the layers that are mapped have these slots."""
        return self.cache.slots_of(slots.astype(np.int64), self._mapped_reach)

    def mapped_pages(self, pages: np.ndarray) -> np.ndarray:
        """Returns where the layers that are mapped have these pages, int32."""
        return self.cache.pages_of(pages.astype(np.int64), self._mapped_reach).astype(np.int32)

    def use(self, tables: Tables, mapped: Tables | None = None) -> None:
        """Makes the next forward one of a batch with these tables; `mapped` are those of the layers that are mapped."""
        self._tables = [mapped if is_mapped and mapped else tables for is_mapped in self._is_mapped]

    @property
    def _mapped_reach(self) -> Reach:
        return self.cache.reaches[self._is_mapped.index(True)]

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
        self.cache.write(layer, self.tables_of(layer).slots, key, value)
        return self.attend(layer, query[0].transpose(0, 1), scaling, s_aux)[None], None

    @abstractmethod
    def attend(self, layer: int, query: Tensor, scaling: float | None, sinks: Tensor | None = None) -> Tensor:
        """Lets the queries [tokens, heads, key_dim] attend to what the cache holds, the new tokens included.

        Returns [tokens, heads, value_dim]; a `scaling` of None is key_dim ** -0.5; `sinks` are [heads].
        """
