"""Signals of uncertainty: what each is, and that runs hand off by it, against the model's own distributions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from model_worker.engine.forward import outcome as outcome_module
from model_worker.engine.types import FinishReason, Handoff, RunRequest, Sampling, Signal, TokenKept
from tests.support.engines import make_engine, run_all, run_one
from tests.support.pairs import VOCAB_SIZE

PROMPT = [7, 8, 9, 10, 11]
WINDOW = 5
NEVER = 2.0
SIGNALS = [Signal.CONFIDENCE, Signal.MARGIN, Signal.ENTROPY_WINDOW]


def handoff(signal: Signal, **rule: Any) -> Handoff:
    return Handoff(signal=signal, window=WINDOW if signal is Signal.ENTROPY_WINDOW else 0, **rule)


def uncertainties(engine: Any, request: RunRequest) -> tuple[list[int], list[float]]:
    """Kept tokens and their signal."""
    engine.submit(request)
    kept: list[TokenKept] = []
    while not engine.is_idle:
        kept += [event for event in engine.step() if isinstance(event, TokenKept)]
    return [event.token for event in kept], [event.uncertainty for event in kept if event.uncertainty is not None]


def expected(model: Any, tokens: list[int], signal: Signal, before: tuple[float, ...] = ()) -> list[float]:
    """Of each token after the prompt, from the model's own logits."""
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPT + tokens])).logits[0, len(PROMPT) - 1 : -1, :VOCAB_SIZE]
    p = logits.softmax(-1)
    entropies = [*before, *(torch.special.entr(p).sum(-1) / math.log(VOCAB_SIZE)).tolist()]
    if signal is Signal.ENTROPY_WINDOW:
        stored = [float(np.float32(entropy)) for entropy in entropies]
        ends = range(len(before) + 1, len(stored) + 1)
        return [math.fsum(window) / len(window) for window in (stored[max(0, end - WINDOW) : end] for end in ends)]
    if signal is Signal.MARGIN:
        top = p.topk(2).values
        return (1 - (top[:, 0] - top[:, 1])).tolist()
    return (1 - p[range(len(tokens)), tokens]).tolist()


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, seed=4)])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_signal_is_what_the_models_distributions_say(architecture: str, sampling: Sampling, signal: Signal) -> None:
    engine, model = make_engine(architecture)
    request = RunRequest("s", 0, PROMPT, sampling, max_tokens=20, handoff=handoff(signal, above=NEVER))
    tokens, found = uncertainties(engine, request)
    # Gemma 2's own attention, with its score cap, makes its softmax in float32 even in a float64 model; ours does not.
    bound = 1e-5 if architecture == "gemma2" else 1e-6
    assert found == pytest.approx(expected(model, tokens, signal), abs=bound)
    assert all(0 <= value <= 1 for value in found)


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_run_hands_off_by_its_signal(signal: Signal) -> None:
    engine, _ = make_engine("qwen3")
    free = RunRequest("free", 0, PROMPT, max_tokens=50, handoff=handoff(signal, above=NEVER))
    tokens, values = uncertainties(engine, free)
    bound = sorted(values)[len(values) // 2]
    above = run_one(engine, RunRequest("a", 0, PROMPT, max_tokens=50, handoff=handoff(signal, above=bound)))
    first = next(index for index, value in enumerate(values) if value > bound)
    assert above.tokens == tokens[:first]
    assert above.finished.reason is FinishReason.HANDOFF
    assert (above.finished.proposal.token, above.finished.proposal.uncertainty) == (tokens[first], values[first])
    below = run_one(engine, RunRequest("b", 0, PROMPT, max_tokens=50, handoff=handoff(signal, below=bound)))
    last = next(index for index, value in enumerate(values) if value <= bound)
    assert below.tokens == tokens[: last + 1]
    assert below.finished.reason is FinishReason.HANDOFF


@pytest.mark.parametrize("signal", [Signal.ENTROPY, Signal.CONFIDENCE, Signal.MARGIN])
def test_what_is_compared_with_a_bound_is_what_is_served(signal: Signal) -> None:
    """In float32, which the wire and the store carry: whoever goes on from there would otherwise decide anew."""
    engine, _ = make_engine("qwen3")
    request = RunRequest("free", 0, PROMPT, max_tokens=24, handoff=handoff(signal, above=NEVER))
    if signal is Signal.ENTROPY:
        values = run_one(engine, request).entropies
    else:
        _, values = uncertainties(engine, request)
    served = [float(np.float32(value)) for value in values]
    for index, bound in enumerate(served):
        first = next(place for place, value in enumerate(served) if value <= bound)
        below = run_one(engine, RunRequest(f"b{index}", 0, PROMPT, max_tokens=24, handoff=handoff(signal, below=bound)))
        assert len(below.tokens) == first + 1, f"{signal} {values[first]!r} is served as {bound!r}"


def test_a_window_goes_on_over_runs_as_if_they_were_one() -> None:
    """With the entropies as they are stored, in float32, a run that goes on reads exactly what a longer one read."""
    engine, _ = make_engine()
    never = handoff(Signal.ENTROPY_WINDOW, above=NEVER)
    tokens, values = uncertainties(engine, RunRequest("one", 0, PROMPT, max_tokens=20, handoff=never))
    entropies = run_one(engine, RunRequest("entropies", 0, PROMPT, max_tokens=20)).entropies
    for cut in (1, 3, 11):
        stored = tuple(float(np.float32(entropy)) for entropy in entropies[:cut])[-(WINDOW - 1) :]
        rest = Handoff(above=NEVER, signal=Signal.ENTROPY_WINDOW, window=WINDOW, recent_entropies=stored)
        request = RunRequest(f"s{cut}", 0, PROMPT + tokens[:cut], max_tokens=20 - cut, handoff=rest)
        assert uncertainties(engine, request) == (tokens[cut:], values[cut:])
    alone = Handoff(above=NEVER, signal=Signal.ENTROPY_WINDOW, window=1)
    _, own = uncertainties(engine, RunRequest("alone", 0, PROMPT, max_tokens=20, handoff=alone))
    assert own == [float(np.float32(entropy)) for entropy in entropies]


def test_signals_side_by_side_in_one_batch_are_those_of_each_alone() -> None:
    engine, _ = make_engine("qwen2")
    bounds = {Signal.MARGIN: 0.6, Signal.ENTROPY: 0.3, Signal.CONFIDENCE: 0.6, Signal.ENTROPY_WINDOW: 0.2}
    requests = [
        RunRequest(f"{signal}", 0, [*PROMPT, index], max_tokens=30, handoff=handoff(signal, above=bound))
        for index, (signal, bound) in enumerate(bounds.items())
    ]
    together = run_all(engine, requests)
    for request, result in zip(requests, together, strict=True):
        assert result.finished.proposal is not None, "a bound that nothing passes tests nothing"
        alone = run_one(make_engine("qwen2")[0], request)
        assert (result.tokens, result.finished.proposal.token) == (alone.tokens, alone.finished.proposal.token)


def test_margins_are_computed_where_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = make_engine()

    def forbidden(*_: Any) -> list[float]:
        raise AssertionError("nobody asked")

    monkeypatch.setattr(outcome_module, "margins", forbidden)
    for signal in (Signal.ENTROPY, Signal.CONFIDENCE, Signal.ENTROPY_WINDOW):
        request = RunRequest(f"{signal}", 0, PROMPT, max_tokens=3, handoff=handoff(signal, above=NEVER))
        assert len(run_one(engine, request).tokens) == 3
