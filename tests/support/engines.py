"""Drives an engine in-process, as the worker's thread does."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from model_worker.engine.engine import Engine
from model_worker.engine.forward.loader import adopt
from model_worker.engine.types import Limits, RunFailed, RunFinished, RunRequest, TokenKept
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, VOCAB_SIZE, make_model


def make_engine(architecture: str = "llama", seed: int = 0, **limits: Any) -> tuple[Engine, Any]:
    """An engine and an untouched copy of its model."""
    model = make_model(CONFIGS[architecture], seed)
    sizes = replace(Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=128), **limits)
    return Engine(adopt(copy.deepcopy(model), sizes.context_length), sizes), model


@dataclass
class Result:
    """What came of a run."""

    tokens: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    finished: RunFinished | None = None
    error: Exception | None = None


def run_all(engine: Engine, requests: Iterable[RunRequest]) -> list[Result]:
    """Submits them together and steps until none is left."""
    results: dict[int, Result] = {engine.submit(request): Result() for request in requests}
    while not engine.is_idle:
        collect(engine, results)
    engine.check_integrity()
    return list(results.values())


def run_one(engine: Engine, request: RunRequest) -> Result:
    """Submits one run and steps until it ends; raises its error."""
    (result,) = run_all(engine, [request])
    if result.error is not None:
        raise result.error
    return result


def collect(engine: Engine, results: dict[int, Result]) -> None:
    """One step; its events go to the results of their runs."""
    for event in engine.step():
        result = results[event.run_id]
        if isinstance(event, TokenKept):
            result.tokens.append(event.token)
            result.entropies.append(event.entropy)
        elif isinstance(event, RunFinished):
            result.finished = event
        elif isinstance(event, RunFailed):
            result.error = event.error


def generate(model: Any, prompt: list[int], max_new_tokens: int, vocab_size: int = VOCAB_SIZE) -> list[int]:
    """transformers' own greedy `generate`, over the real vocabulary."""
    pad_rows = list(range(vocab_size, model.config.vocab_size))
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        suppress_tokens=pad_rows or None,
    )
    return output[0, len(prompt) :].tolist()
