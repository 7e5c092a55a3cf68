"""The KV cache's tensors. It does not know sessions: who may write to which page is the page pool's business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model_worker.engine.bookkeeping.windows import WindowMap
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

    @property
    def elements(self) -> int:
        """Numbers that a token's key and value are."""
        return self.num_kv_heads * (self.key_dim + self.value_dim)


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
        self,
        shapes: Sequence[LayerShape],
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
        windows: WindowMap | None = None,
    ) -> None:
        self.shapes = shapes
        self.reaches = list(dict.fromkeys(shape.reach for shape in shapes))
        self.reach_at = [self.reaches.index(shape.reach) for shape in shapes]  # by layer, its place in `reaches`
        self._rooms = None if windows is None else np.frombuffer(windows.rooms, dtype=np.int64)  # as they change
        self.windows = windows  # where layers of limited reach have their pages; None: where all others have them
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_slots = num_pages * page_size
        self.dtype = dtype
        self.device = device

        def zeros(num_slots: int, num_heads: int, dim: int) -> Tensor:
            shape = (num_slots, num_heads, dim)
            if device.type != "cpu":
                return torch.zeros(shape, dtype=dtype, device=device)
            # numpy leaves the zeroing to the system, page by page when they are first used; torch writes them all.
            size = num_slots * num_heads * dim * dtype.itemsize
            raw = np.zeros(size + _CACHE_LINE, dtype=np.uint8)
            begin = -raw.ctypes.data % _CACHE_LINE
            return torch.from_numpy(raw[begin : begin + size]).view(dtype).view(shape)

        rooms = num_pages if windows is None else windows.num_rooms + 1
        sizes = [(rooms if shape.reach.is_limited else num_pages) * page_size for shape in shapes]
        self.keys = [zeros(size, s.num_kv_heads, s.key_dim) for size, s in zip(sizes, shapes, strict=True)]
        self.values = [zeros(size, s.num_kv_heads, s.value_dim) for size, s in zip(sizes, shapes, strict=True)]

    def to_device(self, numbers: np.ndarray) -> Tensor:
        """Returns an array on the cache's device; the host does not wait for the copy."""
        return to_device(torch.from_numpy(numbers), self.device)

    def pages_of(self, pages: np.ndarray, reach: Reach) -> np.ndarray:
        """Returns where layers of that reach have these pages, int64."""
        return pages if self._rooms is None or not reach.is_limited else self._rooms[pages]

    def slots_of(self, slots: np.ndarray, reach: Reach) -> np.ndarray:
        """Returns where layers of that reach have these slots, int64."""
        if self._rooms is None or not reach.is_limited:
            return slots
        return np.asarray(self._rooms[slots // self.page_size] * self.page_size + slots % self.page_size)

    def slots_by_reach(self, slots: Sequence[int], on_device: Tensor) -> list[Tensor]:
        """Returns where the tokens of a batch go, whose slots are given twice, in the layers of each of `reaches`."""
        if self.windows is None:
            return [on_device] * len(self.reaches)
        numbers = np.array(slots, dtype=np.int64)
        return [
            self.to_device(self.slots_of(numbers, reach)) if reach.is_limited else on_device for reach in self.reaches
        ]

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Puts keys and values, [1, kv_heads, tokens, dim], into `slots`, int64 [tokens]."""
        self.keys[layer].index_copy_(0, slots, key[0].transpose(0, 1))
        self.values[layer].index_copy_(0, slots, value[0].transpose(0, 1))

    def wipe(self, pages: Sequence[int]) -> None:
        """Zeroes pages that may hold infinities or NaN; before each step, so it does nothing for none."""
        if not pages:
            return
        for shape, *tensors in zip(self.shapes, self.keys, self.values, strict=True):
            for page in self.pages_of(np.array(pages, dtype=np.int64), shape.reach).tolist():
                for tensor in tensors:
                    tensor[page * self.page_size : (page + 1) * self.page_size] = 0

    def copy(self, pages: Mapping[int, int]) -> None:
        """Copies whole pages (to, from), all read before any is written."""
        if not pages:
            return
        numbers = np.array([list(pages), list(pages.values())], dtype=np.int64)
        places = {reach: self.to_device(self.pages_of(numbers, reach)) for reach in self.reaches}
        for shape, *tensors in zip(self.shapes, self.keys, self.values, strict=True):
            to, source = places[shape.reach]
            for tensor in tensors:
                paged = tensor.unflatten(0, (-1, self.page_size))
                paged.index_copy_(0, to, paged.index_select(0, source))


def most_keys(shapes: Sequence[LayerShape]) -> int:
    """Returns the most keys that a token sees in any layer of limited reach; 0 without such layers."""
    return max((shape.reach.most_keys for shape in shapes), default=0)
