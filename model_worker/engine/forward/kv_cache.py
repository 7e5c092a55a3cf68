"""The KV cache's tensors. It does not know sessions: who may write to which page is the page pool's business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model_worker.engine.forward.reach import EVERYTHING, Reach
from model_worker.engine.forward.transfer import to_device

_CACHE_LINE = 64  # bytes


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What a layer keeps per token, and how its scores are made."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    softcap: float | None
    reach: Reach = EVERYTHING
    has_sinks: bool = False  # a logit per head, given with each call, that takes of the softmax and adds nothing


NO_ATTENTION = LayerShape(0, 0, 0, None)  # of a layer that keeps nothing per token


class KvCache:
    """Keys and values of all layers, [num_slots, num_kv_heads, dim] each.

    Zeroed: a masked slot is read all the same, and must be finite. On a CPU, what no session has used takes no memory.
    """

    # A session's pages are its page table. With pages [7, 8, 3] of 16 tokens:
    #
    #   position   0 ......... 15  16 ........ 31  32 ........ 47
    #   slot     112 ........ 127 128 ....... 143  48 ........ 63     pages[position // 16] * 16 + position % 16
    #
    # Where each page follows the one before (7, 8, 9) the slots are a range, and keys can be read in place.

    def __init__(
        self, shapes: Sequence[LayerShape], num_pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shapes = shapes
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_slots = num_pages * page_size
        self.dtype = dtype
        self.device = device

        def zeros(num_heads: int, dim: int) -> Tensor:
            shape = (self.num_slots, num_heads, dim)
            if device.type != "cpu":
                return torch.zeros(shape, dtype=dtype, device=device)
            # numpy leaves the zeroing to the system, page by page when they are first used; torch writes them all.
            size = self.num_slots * num_heads * dim * dtype.itemsize
            raw = np.zeros(size + _CACHE_LINE, dtype=np.uint8)
            begin = -raw.ctypes.data % _CACHE_LINE
            return torch.from_numpy(raw[begin : begin + size]).view(dtype).view(shape)

        self.keys = [zeros(shape.num_kv_heads, shape.key_dim) for shape in shapes]
        self.values = [zeros(shape.num_kv_heads, shape.value_dim) for shape in shapes]

    def to_device(self, numbers: np.ndarray) -> Tensor:
        """Returns an array on the cache's device; the host does not wait for the copy."""
        return to_device(torch.from_numpy(numbers), self.device)

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Puts keys and values, [1, kv_heads, tokens, dim], into `slots`, int64 [tokens]."""
        self.keys[layer].index_copy_(0, slots, key[0].transpose(0, 1))
        self.values[layer].index_copy_(0, slots, value[0].transpose(0, 1))

    def wipe(self, pages: Sequence[int]) -> None:
        """Zeroes pages that may hold infinities or NaN."""
        for page in pages:
            for tensor in (*self.keys, *self.values):
                tensor[page * self.page_size : (page + 1) * self.page_size] = 0

    def copy(self, pages: Mapping[int, int]) -> None:
        """Copies whole pages (to, from), all read before any is written."""
        if not pages:
            return
        to, source = self.to_device(np.array([list(pages), list(pages.values())], dtype=np.int64))
        for tensor in (*self.keys, *self.values):
            paged = tensor.unflatten(0, (-1, self.page_size))
            paged.index_copy_(0, to, paged.index_select(0, source))
