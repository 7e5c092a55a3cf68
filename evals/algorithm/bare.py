"""Algorithm 1 over two bare cached transformers models in one process: no engine, no service.

The floor that the served system is measured against; not a server, and used for benchmarks only.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evals.algorithm.cached_model import CachedModel


@dataclass(slots=True)
class BareRun:
    """One answer: its tokens and where the time went, in seconds."""

    tokens: list[int] = field(default_factory=list)
    num_switches: int = 0
    total_s: float = 0.0
    forward_s: float = 0.0


class _TimedModel(CachedModel):
    """A cached model whose forwards are timed."""

    def __init__(self, module: Any, run: BareRun) -> None:
        super().__init__(module)
        self._run = run

    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        """As `CachedModel.append`, and adds the seconds to the run."""
        begin = time.perf_counter()
        logits = super().append(tokens)
        self._run.forward_s += time.perf_counter() - begin
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
    """One answer, greedy."""
    run = BareRun()
    begin = time.perf_counter()
    models = (_TimedModel(slm, run), _TimedModel(llm, run))
    tokens, active = list(prompt), 0
    while len(run.tokens) < max_new_tokens:
        token, entropy = models[active].next(tokens, vocab_size)
        if active == 0 and entropy > tau:
            active = 1
            run.num_switches += 1
            continue
        tokens.append(token)
        run.tokens.append(token)
        if token in stop_tokens:
            break
        if active == 1 and entropy <= tau:
            active = 0
            run.num_switches += 1
    run.total_s = time.perf_counter() - begin
    return run
