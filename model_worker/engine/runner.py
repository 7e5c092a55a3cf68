"""Runs the model on the rows of a schedule: host lists in, chosen tokens and entropies out.

It builds the flattened batch (ids, positions, where KV goes, what each row reads) and calls the unmodified
transformers model. It decides nothing: which rows, how many and what happens with a token is the engine's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model_worker.engine.attention import BatchPlan, Group, PagedAttention
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.loader import LoadedModel, use_attention
from model_worker.engine.sampling import Choices, choose
from model_worker.engine.scheduler import Row
from model_worker.engine.session import Session
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
        self._attention = PagedAttention(
            loaded.shapes, limits.num_pages * limits.page_size, loaded.dtype, loaded.device
        )
        self._hidden: Tensor | None = None
        loaded.module.get_output_embeddings().register_forward_pre_hook(self._capture)
        use_attention(loaded.module, self._attention.forward)

    def _capture(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """The LM head's input is the last hidden state of just the rows asked for."""
        self._hidden = inputs[0][0]

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> Outcome | None:
        """Computes the rows' KV. Returns the outcome of the rows that are last and want a token, None if none is."""
        asked = [row for row in rows if row.is_last and row.run.wants_token]
        ends = np.cumsum([row.num_tokens for row in rows])
        wanted = [int(end) - 1 for row, end in zip(rows, ends, strict=True) if row.is_last and row.run.wants_token]
        ids = [token for row in rows for token in row.run.session.tokens[row.start : row.start + row.num_tokens]]
        positions = np.concatenate([np.arange(row.start, row.start + row.num_tokens) for row in rows])
        self._attention.begin(self._plan(rows))
        inputs = {
            "input_ids": self._tensor(np.array(ids))[None],
            "position_ids": self._tensor(positions)[None],
            "use_cache": False,
        }
        if not asked:
            self._loaded.module.base_model(**inputs)
            return None
        logits = self._loaded.module(**inputs, logits_to_keep=self._tensor(np.array(wanted))).logits[0]
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

    def _plan(self, rows: Sequence[Row]) -> BatchPlan:
        """Rows of one token attend as one padded group if they stand side by side; every other row by itself."""
        all_slots = [self._slots(row.run.session, row.start + row.num_tokens) for row in rows]
        write = np.concatenate([slots[row.start :] for row, slots in zip(rows, all_slots, strict=True)])
        groups: list[Group] = []
        at = index = 0
        while index < len(rows):
            until = index + 1
            if rows[index].num_tokens == 1:
                while until < len(rows) and rows[until].num_tokens == 1:
                    until += 1
            num_tokens = sum(row.num_tokens for row in rows[index:until])
            groups.append(self._group(slice(at, at + num_tokens), rows[index:until], all_slots[index:until]))
            at += num_tokens
            index = until
        return BatchPlan(self._tensor(write), groups)

    def _group(self, queries: slice, rows: Sequence[Row], slots: Sequence[np.ndarray]) -> Group:
        if len(rows) == 1:
            (row,) = rows
            mask = None
            if row.num_tokens > 1:  # query i stands at start + i and sees the keys up to itself
                ends = np.arange(row.start, row.start + row.num_tokens)
                mask = self._tensor(np.arange(len(slots[0]))[None, :] <= ends[:, None])[None, None]
            return Group(queries, 1, self._tensor(slots[0]), mask)
        lengths = np.array([len(row_slots) for row_slots in slots])
        padded = np.empty((len(rows), int(lengths.max())), dtype=np.int64)
        for index, row_slots in enumerate(slots):
            padded[index, : len(row_slots)] = row_slots
            padded[index, len(row_slots) :] = row_slots[0]
        mask = None
        if lengths.min() != lengths.max():
            mask = self._tensor(np.arange(padded.shape[1])[None, :] < lengths[:, None])[:, None, None]
        return Group(queries, len(rows), self._tensor(padded.ravel()), mask)

    def _slots(self, session: Session, num_tokens: int) -> np.ndarray:
        """Slots of the session's first `num_tokens` tokens."""
        page_size = self._limits.page_size
        pages = np.array(session.pages, dtype=np.int64)
        return (pages[:, None] * page_size + np.arange(page_size)).ravel()[:num_tokens]

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._loaded.device, non_blocking=True)


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
