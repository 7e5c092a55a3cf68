"""Algorithm 1 over two bare cached transformers models in one process: no engine, no service.

The floor that the served system is measured against; not a server, and used for benchmarks only.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evals.algorithm.cached_model import CachedModel
from evals.algorithm.reference import Answer, Threshold
from evals.algorithm.reference import stitch as reference


@dataclass(frozen=True, slots=True)
class BareRun:
    """One answer, and where its time went, in seconds."""

    answer: Answer
    total_s: float
    forward_s: float

    @property
    def tokens(self) -> list[int]:
        return [token.id for token in self.answer.written]


class _TimedModel(CachedModel):
    """A cached model that adds up the seconds of its forwards."""

    seconds = 0.0

    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        begin = time.perf_counter()
        logits = super().append(tokens)
        self.seconds += time.perf_counter() - begin
        return logits


@torch.inference_mode()
def stitch(
    slm: Any,
    llm: Any,
    prompt: list[int],
    tau: float,
    max_new_tokens: int,
    stop_tokens: Collection[int],
    vocab_size: int,
) -> BareRun:
    """Writes one greedy answer of R-Stitch and times it."""
    models = (_TimedModel(slm, vocab_size), _TimedModel(llm, vocab_size))
    begin = time.perf_counter()
    answer = reference(*models, prompt, Threshold(tau), max_new_tokens=max_new_tokens, stop_tokens=stop_tokens)
    return BareRun(answer, time.perf_counter() - begin, sum(model.seconds for model in models))
