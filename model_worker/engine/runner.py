"""Runs the model on the rows of a schedule: host lists in, chosen tokens and entropies out.

It builds the flattened batch and calls the unmodified
transformers model. It decides nothing: which rows, how many and what happens with a token is the engine's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model_worker.engine.attention import KvCache, PagedAttention, batch_order
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.loader import LoadedModel, use_attention
from model_worker.engine.sampling import Choices, choose
from model_worker.engine.scheduler import Row
from model_worker.engine.types import Limits

# Largest difference of a logit between the engine's path and the model's own, relative to the largest logit.
# (Eager attention makes its softmax in float32 even for a float64 model.)
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 8e-2}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row per schedule row that asked for a token.

    Attributes:
        choices: on the host.
        logits: [rows, vocab_size], float32 (float64 for a float64 model), on the device.
        hidden: [rows, hidden_size], on the device.
    """

    choices: Choices
    logits: Tensor
    hidden: Tensor

    def hidden_state(self, row: int) -> bytes:
        """Float32 little-endian."""
        return _raw(self.hidden[row])

    def raw_logits(self, row: int) -> bytes:
        """Float32 little-endian."""
        return _raw(self.logits[row])

    def top_logits(self, row: int, count: int) -> tuple[tuple[int, float], ...]:
        """The `count` largest, descending."""
        values, ids = self.logits[row].topk(min(count, self.logits.shape[1]))
        return tuple(zip(ids.tolist(), values.tolist(), strict=True))


class Runner:
    """Owns the KV tensors and the model's device; used by one thread only."""

    def __init__(self, loaded: LoadedModel, limits: Limits) -> None:
        self._loaded = loaded
        self._limits = limits
        self._cache = KvCache(loaded.shapes, limits.num_pages, limits.page_size, loaded.dtype, loaded.device)
        self._attention = PagedAttention(self._cache, in_place=limits.in_place)
        self._hidden: Tensor | None = None
        loaded.module.get_output_embeddings().register_forward_pre_hook(self._capture)
        use_attention(loaded.module, self._attention.forward)

    def _capture(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """The LM head's input is the last hidden state of just the rows asked for."""
        self._hidden = inputs[0][0]

    @torch.inference_mode()
    def run(self, rows: list[Row]) -> Outcome | None:
        """Computes the rows' KV; sorts `rows` into the order of the batch.

        Returns the outcome of the rows that are last and want a token, in that order; None if none is.
        """
        rows.sort(key=batch_order)
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        asked: list[Row] = []
        for row in rows:
            end = row.start + row.num_tokens
            ids.extend(row.run.session.tokens[row.start : end])
            positions.extend(range(row.start, end))
            if row.is_last and row.run.wants_token:
                asked.append(row)
                wanted.append(len(ids) - 1)
        self._attention.begin(rows)
        inputs = {
            "input_ids": self._tensor(ids)[None],
            "position_ids": self._tensor(positions)[None],
            "use_cache": False,
        }
        if not asked:
            self._loaded.module.base_model(**inputs)
            return None
        keep = 0 if len(wanted) == len(ids) else self._tensor(wanted)  # 0: all
        logits = self._loaded.module(**inputs, logits_to_keep=keep).logits[0]
        if logits.shape[1] != self._limits.vocab_size:
            logits = logits[:, : self._limits.vocab_size]
        if logits.dtype != torch.float64:
            logits = logits.float()
        assert self._hidden is not None
        choices = choose(
            logits,
            [row.run.request.sampling for row in asked],
            [row.start + row.num_tokens for row in asked],
        )
        return Outcome(choices, logits, self._hidden)

    def wipe(self, pages: Sequence[int]) -> None:
        """Zeroes pages that a forward left with what is not finite."""
        self._cache.wipe(pages)

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values).to(self._loaded.device, non_blocking=True)


def reference_logits(loaded: LoadedModel, tokens: Sequence[int]) -> Tensor:
    """Logits after the last token by the model's own eager attention, [num_logits]; call before a Runner is made."""
    loaded.module.set_attn_implementation("eager")
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)], device=loaded.device)
        logits: Tensor = loaded.module(input_ids=ids, use_cache=False).logits[0, -1]
    return logits


def check_parity(name: str, ours: Tensor, reference: Tensor) -> None:
    """Raises UnsupportedModel if the engine's logits are not the model's own."""
    expected = reference[: ours.shape[-1]].to(ours.dtype)
    difference = float((ours - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    if not difference <= _TOLERANCE[reference.dtype]:
        raise UnsupportedModel(
            f"{name}: the engine's logits differ from the model's own by {difference:.1e}; not served"
        )


def _raw(values: Tensor) -> bytes:
    return values.float().cpu().numpy().astype("<f4").tobytes()
