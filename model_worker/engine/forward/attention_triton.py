"""Paged attention by a kernel of our own (kernels/paged_attention.py), for CUDA devices in 16 or 32 bits.

It does what `varlen_attn` does and needs nothing of torch's: any page size, score caps, and float32, in which the laws
can be held on a device.
"""

from __future__ import annotations

from torch import Tensor

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.attention_tables import BlockTableAttention
from model_worker.engine.forward.kernels.availability import why_not
from model_worker.engine.forward.kv_cache import KvCache


class TritonAttention(BlockTableAttention):
    """Attention by the kernel. The constructor raises UnsupportedModel where that cannot run.

    With `keys_per_split`, a row's keys are shared out by that number whatever else is in the batch, so that its sums
    have one order alone and beside others; without, by what keeps the device busy.
    """

    name = "triton"

    def __init__(self, cache: KvCache, context_length: int, keys_per_split: int | None = None) -> None:
        super().__init__(cache, context_length)
        self._keys_per_split = keys_per_split
        if reason := why_not(cache.device, cache.dtype):
            raise UnsupportedModel(reason)
        if any(max(shape.key_dim, shape.value_dim) > 256 for shape in cache.shapes):
            raise UnsupportedModel("the kernel has no room for heads of more than 256")
        from model_worker.engine.forward.kernels.paged_attention import paged_attention

        self._attend = paged_attention

    def attend(self, layer: int, query: Tensor, scaling: float | None, sinks: Tensor | None = None) -> Tensor:
        cache, shape = self.cache, self.cache.shapes[layer]
        return self._attend(
            query,
            cache.keys[layer],
            cache.values[layer],
            self.tables_of(layer),
            cache.page_size,
            scale=scaling,
            softcap=shape.softcap,
            window=shape.reach.window or None,
            chunk=shape.reach.chunk or None,
            sinks=sinks,
            keys_per_split=self._keys_per_split,
        )
