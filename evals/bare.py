"""Algorithm 1 over two bare cached transformers models in one process: no engine, no service.

The floor that the served system is measured against; not a server, and used for benchmarks only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache


@dataclass(slots=True)
class BareRun:
    """One answer: its tokens and where the time went, in seconds."""

    tokens: list[int] = field(default_factory=list)
    num_switches: int = 0
    total_s: float = 0.0
    forward_s: float = 0.0


class _Model:
    """A model with the cache of one conversation."""

    def __init__(self, model: Any, run: BareRun) -> None:
        self._model = model
        self._run = run
        self._cache = DynamicCache(config=model.config)
        self._length = 0

    def next(self, tokens: list[int], vocab_size: int) -> tuple[int, float]:
        """Feeds what is missing; returns the most probable token and the entropy of its distribution."""
        assert self._length < len(tokens), "a discarded token never enters the cache, so nothing is rolled back"
        missing = torch.tensor([tokens[self._length :]])
        begin = time.perf_counter()
        logits = self._model(missing, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        self._run.forward_s += time.perf_counter() - begin
        self._length = len(tokens)
        logprobs = logits[:vocab_size].float().log_softmax(-1)
        entropy = float(torch.special.entr(logprobs.exp()).sum()) / math.log(vocab_size)
        return int(logprobs.argmax()), entropy


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
    models = (_Model(slm, run), _Model(llm, run))
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
