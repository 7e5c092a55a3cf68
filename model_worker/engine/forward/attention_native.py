"""Paged attention on a CPU by a kernel of our own: all rows of few tokens, and the cache write, in one call a layer.

torch's kernel for CPUs works in blocks of 32 queries and costs a decode row much of that. Here each token is a query
of its own, read through its session's page table, so that neither padding nor scattered pages cost anything, and what
a token gets depends on its own session alone. Rows of many tokens, where blocks pay, go the way of `PagedAttention`.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.attention import SHORT_EXTEND, PagedAttention
from model_worker.engine.forward.batch import Batch
from model_worker.engine.forward.kv_cache import KvCache
from model_worker.engine.forward.native import REORDERED_SUMS, BuildFailed, load_native

_SOURCE = Path(__file__).with_name("paged_attention.cpp")
_ENTRIES = {
    torch.float32: "attend_float32",
    torch.float64: "attend_float64",
    torch.bfloat16: "attend_bfloat16",
}


class _Step(ctypes.Structure):
    _fields_ = [
        ("num_tokens", ctypes.c_int64),
        ("slots", ctypes.c_void_p),
        ("num_queries", ctypes.c_int64),
        ("tokens", ctypes.c_void_p),
        ("page_table", ctypes.c_void_p),
        ("firsts", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("pages", ctypes.c_void_p),
        ("width", ctypes.c_int64),
        ("page_size", ctypes.c_int64),
        ("num_threads", ctypes.c_int64),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("num_heads", ctypes.c_int64),
        ("num_kv_heads", ctypes.c_int64),
        ("key_dim", ctypes.c_int64),
        ("value_dim", ctypes.c_int64),
        ("scale", ctypes.c_double),
        ("softcap", ctypes.c_double),
        ("sinks", ctypes.c_void_p),
    ]


class _View(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("head_stride", ctypes.c_int64),
        ("token_stride", ctypes.c_int64),
    ]


class NativeAttention:
    """An `AttentionBackend` over the kernel. The constructor raises UnsupportedModel where that is not to be had."""

    name = "native"
    reads_masked = False

    def __init__(self, cache: KvCache) -> None:
        if cache.device.type != "cpu" or cache.dtype not in _ENTRIES:
            raise UnsupportedModel(f"native attention is for CPUs, not for {cache.dtype} on {cache.device}")
        try:
            self._kernel = getattr(load_native(_SOURCE, REORDERED_SUMS), _ENTRIES[cache.dtype])
        except BuildFailed as error:
            raise UnsupportedModel(f"native attention does not build here: {error}") from error
        self._cache = cache
        self._long = PagedAttention(cache)  # for rows of many tokens
        self._layers: dict[int, _Layer] = {}
        self._steps: list[_Step] = []  # by the cache's reaches
        self._held: tuple[Any, ...] = ()  # the arrays that `_steps` point to

    def begin(self, batch: Batch, slots: Tensor) -> None:
        tokens: list[int] = []
        page_table: list[int] = []
        positions: list[int] = []
        tables: list[list[int]] = []
        self._long.begin(Batch([]), slots)
        at = 0
        for row in batch.rows:
            end = at + row.num_tokens
            if row.num_tokens > SHORT_EXTEND:
                self._long.add_extend(row, at)
            else:
                tokens.extend(range(at, end))
                page_table.extend([len(tables)] * row.num_tokens)
                positions.extend(range(row.start, row.start + row.num_tokens))
                tables.append(row.run.session.pages)
            at = end
        width = max(map(len, tables), default=0)
        pages = np.zeros((len(tables), width), dtype=np.int64)
        for index, table in enumerate(tables):
            pages[index, : len(table)] = table
        lengths, reaches = [position + 1 for position in positions], self._cache.reaches
        firsts = [[reach.first(position) for position in positions] for reach in reaches]
        numbers = np.array((tokens, page_table, lengths, *firsts), dtype=np.int64)
        all_slots = self._cache.slots_by_reach(batch.slots, slots)
        all_pages = [self._cache.pages_of(pages, reach) for reach in reaches]
        self._held = (all_slots, all_pages, numbers)
        each, row_bytes, num_threads = numbers.ctypes.data, len(tokens) * numbers.itemsize, torch.get_num_threads()
        self._steps = [
            _Step(
                num_tokens=at,
                slots=all_slots[index].data_ptr(),
                num_queries=len(tokens),
                tokens=each,
                page_table=each + row_bytes,
                firsts=each + (3 + index) * row_bytes,
                lengths=each + 2 * row_bytes,
                pages=all_pages[index].ctypes.data,
                width=width,
                page_size=self._cache.page_size,
                num_threads=num_threads,
            )
            for index in range(len(reaches))
        ]

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
        index = int(module.layer_idx)  # type: ignore[arg-type]
        num_heads, num_tokens = query.shape[1:3]
        layer = self._layers.get(index)
        if layer is None:
            layer = self._layers[index] = self._layer(index, num_heads, scaling)
        if s_aux is not None:
            sinks = s_aux.to(self._cache.dtype).contiguous()  # kept, too, until the kernel is done
            layer.sinks = sinks.data_ptr()
        # Kept until the kernel is done: a view whose last dimension is not in one piece becomes a copy.
        views = [tensor if tensor.stride(3) == 1 else tensor.contiguous() for tensor in (query, key, value)]
        q, k, v = (_View(view.data_ptr(), view.stride(1), view.stride(2)) for view in views)
        out = query.new_empty((1, num_tokens, num_heads, value.shape[3]))
        self._kernel(
            ctypes.byref(self._steps[self._cache.reach_at[index]]),
            ctypes.byref(layer),
            ctypes.byref(q),
            ctypes.byref(k),
            ctypes.byref(v),
            ctypes.c_void_p(out.data_ptr()),
        )
        self._long.attend_into(out[0], query[0], scaling, index, s_aux)
        return out, None

    def _layer(self, index: int, num_heads: int, scaling: float | None) -> _Layer:
        shape = self._cache.shapes[index]
        return _Layer(
            keys=self._cache.keys[index].data_ptr(),
            values=self._cache.values[index].data_ptr(),
            num_heads=num_heads,
            num_kv_heads=shape.num_kv_heads,
            key_dim=shape.key_dim,
            value_dim=shape.value_dim,
            scale=scaling if scaling is not None else shape.key_dim**-0.5,
            softcap=shape.softcap or 0.0,
        )
