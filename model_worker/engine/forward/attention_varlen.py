"""Paged attention by PyTorch's `varlen_attn`, for CUDA devices in 16-bit floats.

torch 2.13's reads pages through block tables; that of 2.11 does not, and attention_triton.py takes its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.attention_tables import BlockTableAttention
from model_worker.engine.forward.kv_cache import KvCache, LayerShape


def why_not(shapes: Sequence[LayerShape]) -> str:
    """Returns why `varlen_attn` cannot do these layers through block tables; empty if, by its signature, it can."""
    if "block_table" not in inspect.signature(varlen_attn).parameters:
        return "this torch's varlen_attn takes no block tables"
    if any(shape.softcap is not None for shape in shapes):
        return "varlen_attn caps no scores"
    if any(shape.key_dim != shape.value_dim for shape in shapes):
        return "varlen_attn wants keys and values of one size"
    if any(shape.has_sinks or shape.reach.chunk for shape in shapes):
        return "varlen_attn knows no sinks and no chunks"
    return ""


class VarlenAttention(BlockTableAttention):
    """Attention by torch's own kernel. The constructor raises UnsupportedModel if that cannot do a layer."""

    name = "varlen"

    def __init__(self, cache: KvCache, context_length: int) -> None:
        super().__init__(cache, context_length)
        if reason := why_not(cache.shapes):
            raise UnsupportedModel(reason)

    def attend(self, layer: int, query: Tensor, scaling: float | None, sinks: Tensor | None = None) -> Tensor:
        tables, cache = self.tables_of(layer), self.cache
        window = cache.shapes[layer].reach.window
        paged = (-1, cache.page_size)
        out: Any = varlen_attn(
            query,
            cache.keys[layer].unflatten(0, paged),
            cache.values[layer].unflatten(0, paged),
            tables.ends,
            None,
            tables.max_queries,
            tables.max_keys,
            scale=scaling,
            # Causal, aligned at the last query. A row's only query sees every key anyway, and without a window the
            # kernel splits the keys and packs the query heads that share a key head.
            window_size=(window - 1, 0) if window else (-1, 0) if tables.max_queries > 1 else (-1, -1),
            enable_gqa=query.shape[1] != cache.shapes[layer].num_kv_heads,
            seqused_k=tables.lengths,
            block_table=tables.pages,
        )
        attended: Tensor = out
        return attended
