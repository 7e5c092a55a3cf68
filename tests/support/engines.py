"""Drives an engine in-process, as the worker's thread does, and breaks its model where a test asks for that."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from model_worker.engine.engine import Engine
from model_worker.engine.errors import HeldTooShort
from model_worker.engine.forward.loader import adopt
from model_worker.engine.observing import Observed
from model_worker.engine.types import Limits, RunFailed, RunFinished, RunRequest, TokenKept
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, VOCAB_SIZE, make_model


def make_engine(architecture: str = "llama", seed: int = 0, **limits: Any) -> tuple[Engine, Any]:
    """An engine and an untouched copy of its model."""
    model = make_model(CONFIGS[architecture], seed)
    return make_engine_of(copy.deepcopy(model), **limits), model


def make_engine_of(model: Any, **limits: Any) -> Engine:
    """An engine that owns the model: what a test does to the model happens to the engine."""
    sizes = replace(Limits(VOCAB_SIZE, CONTEXT_LENGTH, num_pages=128), **limits)
    return Engine(adopt(model, sizes.context_length), sizes)


@contextmanager
def failing_forward(model: Any, error: Exception) -> Iterator[None]:
    """Makes every forward of the model raise the error."""
    with failing_layer(model.base_model, error):
        yield


@contextmanager
def failing_layer(module: Any, error: Exception) -> Iterator[None]:
    """Makes a part of the model raise the error before it computes anything."""

    def fail(_: object, inputs: object) -> None:
        raise error

    handle = module.register_forward_pre_hook(fail)
    yield
    handle.remove()


def held_by(engine: Engine, session_id: str) -> int:
    """How many tokens a session holds: the refusal of a run that begins too far on tells it."""
    with pytest.raises(HeldTooShort) as refused:
        engine.submit(RunRequest(session_id, engine.limits.context_length - 1, [5]))
    assert refused.value.held is not None
    return refused.value.held


@dataclass
class Result:
    """What came of a run."""

    tokens: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    observed: list[Observed] = field(default_factory=list)
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
        elif isinstance(event, Observed):
            result.observed.append(event)
        elif isinstance(event, RunFinished):
            result.finished = event
        elif isinstance(event, RunFailed):
            result.error = event.error


def generate(
    model: Any,
    prompt: list[int],
    max_new_tokens: int,
    vocab_size: int = VOCAB_SIZE,
    masked: Iterable[int] = (),
) -> list[int]:
    """transformers' own greedy `generate`, over the real vocabulary without the masked tokens."""
    suppressed = [*masked, *range(vocab_size, model.config.vocab_size)]
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        suppress_tokens=suppressed or None,
    )
    return output[0, len(prompt) :].tolist()
