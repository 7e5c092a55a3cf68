"""What an attention backend does for a model's layers. It does not know scheduling: `begin` is told the rows.

The layers call `forward` through transformers' `AttentionInterface` instead of their own attention. It writes the new
keys and values to the KV cache and lets every row of the batch attend to its own session.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from model_worker.engine.forward.batch import Batch


class AttentionBackend(Protocol):
    """Attention over a `KvCache`, for one batch after another."""

    name: str  # the value of `Limits.attention` that asks for it
    reads_masked: bool  # whether it reads slots that no token of a row is in, too, and masks what comes of them

    def begin(self, batch: Batch, slots: Tensor) -> None:
        """Prepares the next forward, once for all layers; `slots` are the batch's, int64 [tokens] on the device."""

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
        """Serves a layer's call: query [1, heads, tokens, key_dim], key and value [1, kv_heads, tokens, dim].

        `s_aux`, as transformers calls them, are the layer's sinks [heads]. Returns [1, tokens, heads, value_dim], in
        one piece, as the model's own attention gives it. Keywords that would change the result were refused at start.
        """
