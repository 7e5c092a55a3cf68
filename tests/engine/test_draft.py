"""Verifying drafts: whatever is drafted, the tokens are those of decoding without a draft."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.engine import Engine
from model_worker.engine.errors import ForwardFailed, InvalidRun, NoCapacity
from model_worker.engine.forward.loader import adopt
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.engine.shared_layers.model import share_layers
from model_worker.engine.types import GREEDY, FinishReason, Limits, RunRequest, Sampling
from tests.support.engines import (
    Result,
    collect,
    failing_forward,
    held_by,
    make_engine,
    make_engine_of,
    run_all,
    run_one,
)
from tests.support.pairs import CONFIGS, CONTEXT_LENGTH, VOCAB_SIZE, make_model
from tests.support.shared_layers import make_pair

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100))]
SAMPLINGS = [GREEDY, Sampling(1.2, 0.9, 50, seed=5)]
NO_STOP = frozenset([VOCAB_SIZE])
LENGTH = 24


def make_draft(rng: random.Random, truth: Sequence[int], most: int = 8) -> list[int]:
    """Empty, right, wrong or right up to a point."""
    length = rng.randint(0, most)
    num_right = rng.choice([0, length, rng.randint(0, length)])
    wrong = [rng.randrange(VOCAB_SIZE) for _ in range(length - num_right)]
    return [*truth[:num_right], *wrong]


class Speculation:
    """One answer by drafts; `truth` is the answer without."""

    def __init__(self, name: str, prompt: list[int], sampling: Sampling, truth: list[int], seed: int) -> None:
        self.name, self.sampling, self.truth = name, sampling, truth
        self.tokens = list(prompt)
        self.start = len(prompt)
        self.held = 0
        self.rng = random.Random(seed)

    @property
    def written(self) -> list[int]:
        return self.tokens[self.start :]

    def request(self) -> RunRequest:
        left = LENGTH - len(self.written)
        draft = make_draft(self.rng, self.truth[len(self.written) :])
        max_tokens = self.rng.choice([left, self.rng.randint(1, left)]) if draft else 1
        self.sent, self.allowed = draft, max_tokens
        return RunRequest(
            self.name, self.held, self.tokens[self.held :], self.sampling, max_tokens, NO_STOP, draft=draft
        )

    def take(self, result: Result) -> None:
        assert result.error is None
        finished = result.finished
        agreed = 0
        while agreed < len(self.sent) and self.truth[len(self.written) + agreed :][:1] == [self.sent[agreed]]:
            agreed += 1
        assert finished.num_accepted == min(agreed, self.allowed)
        assert len(result.tokens) == min(agreed + 1, self.allowed)
        assert finished.reason is FinishReason.LENGTH
        self.tokens += result.tokens
        assert finished.held == len(self.tokens)
        self.held = self.rng.choice([finished.held, finished.held - 1, finished.held - len(result.tokens)])


def speculate(engine: Engine, answers: Sequence[Speculation]) -> None:
    """All of them, a run of each at a time."""
    while going := [answer for answer in answers if len(answer.written) < LENGTH]:
        for answer, result in zip(going, run_all(engine, [answer.request() for answer in going]), strict=True):
            answer.take(result)


def truths(engine: Engine, sampling: Sampling) -> list[list[int]]:
    requests = [RunRequest(f"t{i}", 0, p, sampling, LENGTH, NO_STOP) for i, p in enumerate(PROMPTS)]
    return [result.tokens for result in run_all(engine, requests)]


def truth_of(engine: Engine, sampling: Sampling = GREEDY) -> list[int]:
    """The first prompt's answer."""
    return run_one(engine, RunRequest("t0", 0, PROMPTS[0], sampling, LENGTH, NO_STOP)).tokens


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_whatever_is_drafted_the_tokens_are_those_without_a_draft(architecture: str, sampling: Sampling) -> None:
    """Alone and side by side; in chunks, too: the prompts are longer than a forward."""
    engine, _ = make_engine(architecture, max_batch_tokens=24)
    expected = truths(engine, sampling)
    answers = [
        Speculation(f"s{i}", prompt, sampling, truth, seed=i)
        for i, (prompt, truth) in enumerate(zip(PROMPTS, expected, strict=True))
    ]
    speculate(engine, answers[:1])
    speculate(engine, answers[1:])
    assert [answer.written for answer in answers] == expected


def test_drafts_among_other_runs_and_in_the_background() -> None:
    engine, _ = make_engine(max_batch_tokens=16)
    expected = truths(engine, SAMPLINGS[1])
    engine.costs = CostModel({1: 1000.0, 8: 1100.0}, {64: 90000.0}, {64: 90000.0})
    draft = [*expected[0][:5], 3, 3]
    requests = [
        RunRequest("ahead", 0, PROMPTS[0], SAMPLINGS[1], 20, NO_STOP, background=True, draft=draft),
        RunRequest("plain", 0, PROMPTS[1], SAMPLINGS[1], LENGTH, NO_STOP),
        RunRequest("catch-up", 0, PROMPTS[3]),
        RunRequest("draft", 0, PROMPTS[2], SAMPLINGS[1], 20, NO_STOP, draft=expected[2][:7]),
    ]
    ahead, plain, _, drafted = run_all(engine, requests)
    assert (plain.tokens, drafted.tokens) == (expected[1], expected[2][:8])
    assert ahead.tokens == expected[0][: ahead.finished.num_accepted + 1]
    assert ahead.finished.num_accepted >= 5


def test_a_model_with_shared_layers_drafts_for_itself() -> None:
    """The SLM's drafts are in the session that the LLM verifies them in."""
    model, _, tail = make_pair("llama", 1)
    loaded = adopt(model, CONTEXT_LENGTH)
    engine = SharedEngine(
        loaded, share_layers(model, 1, tail), Limits(VOCAB_SIZE, CONTEXT_LENGTH, 128, max_batch_tokens=24)
    )
    for prompt, truth in zip(PROMPTS, truths(engine, SAMPLINGS[1]), strict=True):
        tokens, held = list(prompt), 0
        while len(tokens) < len(prompt) + LENGTH:
            drafting = RunRequest("s", 0, tokens, SAMPLINGS[1], 5, NO_STOP, shallow=True)
            draft = run_one(engine, drafting).tokens
            if held % 2:  # the SLM in a random model is hardly ever right
                draft = truth[len(tokens) - len(prompt) :][:3] + draft
            left = len(prompt) + LENGTH - len(tokens)
            result = run_one(engine, RunRequest("s", held, tokens[held:], SAMPLINGS[1], left, NO_STOP, draft=draft))
            tokens += result.tokens
            held = len(tokens)
        assert tokens[len(prompt) :] == truth


@pytest.mark.parametrize("graphs", ["off", "on"])
def test_drafts_on_the_path_of_cuda(graphs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_worker.engine.forward import attention_varlen
    from tests.engine.test_captured_steps import naive_varlen_attn

    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)
    engine, _ = make_engine("qwen3", attention="varlen", graphs=graphs)
    expected = truths(engine, SAMPLINGS[1])
    steps = engine.counters.num_graph_steps
    answers = [
        Speculation(f"s{i}", prompt, SAMPLINGS[1], truth, seed=i)
        for i, (prompt, truth) in enumerate(zip(PROMPTS[:3], expected, strict=False))
    ]
    speculate(engine, answers)
    assert [answer.written for answer in answers] == expected[:3]
    assert (engine.counters.num_graph_steps > steps) is (graphs == "on")


def test_a_stop_token_in_a_draft_ends_the_run() -> None:
    engine, _ = make_engine()
    truth = truth_of(engine, SAMPLINGS[1])
    stop = next(token for token in truth[3:8] if token not in truth[:3])
    at = truth.index(stop)
    for draft in (truth[:12], [*truth[:at], 3], truth[:at], truth[: at + 1]):
        request = RunRequest(f"{draft}", 0, PROMPTS[0], SAMPLINGS[1], 20, frozenset([stop]), draft=draft)
        result = run_one(engine, request)
        assert (result.tokens, result.finished.reason) == (truth[: at + 1], FinishReason.STOP)
        assert result.finished.num_accepted == (at + 1 if draft[at : at + 1] == [stop] else at)


def test_the_edge_of_the_context_ends_the_run() -> None:
    engine, _ = make_engine(context_length=16, num_pages=8)
    free = RunRequest("free", 0, PROMPTS[0], max_tokens=50, stop_tokens=NO_STOP)
    truth = run_one(engine, free).tokens
    assert len(truth) == 11
    for begin in (0, 4, 8, 10):
        tokens = PROMPTS[0] + truth[:begin]
        draft = [*truth, 1, 2, 3][begin:]
        result = run_one(engine, RunRequest(f"{begin}", 0, tokens, max_tokens=50, stop_tokens=NO_STOP, draft=draft))
        assert result.tokens == truth[begin:]
        assert (result.finished.reason, result.finished.held) == (FinishReason.CONTEXT, 16)
        assert result.finished.num_accepted == len(truth) - begin


def test_a_draft_longer_than_a_forward_is_verified_in_part() -> None:
    engine, _ = make_engine(max_batch_tokens=4)
    truth = truth_of(engine)
    result = run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=20, stop_tokens=NO_STOP, draft=truth[:10]))
    assert (result.tokens, result.finished.num_accepted) == (truth[:4], 4)


def test_a_draft_that_was_not_verified_leaves_the_session() -> None:
    model = make_model(CONFIGS["llama"], 0)
    engine = make_engine_of(model, max_batch_tokens=8, page_size=4, num_pages=32)
    request = RunRequest("s", 0, PROMPTS[1], max_tokens=9, draft=[3] * 6)
    run = engine.submit(request)
    engine.step()
    (ended,) = engine.supersede(run)
    assert (ended.held, ended.num_accepted) == (len(PROMPTS[1]), 0)
    engine.cancel(engine.submit(RunRequest("s", ended.held, [], max_tokens=9, draft=[3] * 6)))
    assert held_by(engine, "s") == len(PROMPTS[1])
    engine.submit(RunRequest("s", ended.held, [], max_tokens=9, draft=[3] * 6))
    assert engine.close_session("s")[0] == len(PROMPTS[1])
    engine.check_integrity()
    with failing_forward(model, RuntimeError("device lost")):
        (failed,) = run_all(engine, [request])
    assert isinstance(failed.error, ForwardFailed)
    assert held_by(engine, "s") == len(PROMPTS[1])


def test_no_page_is_leaked_where_drafts_are_refused() -> None:
    """Law 6: a pool for two of six answers; what is refused is asked again."""
    engine, _ = make_engine(num_pages=12, page_size=4, context_length=44, max_batch_tokens=128)
    truth = truth_of(engine)
    tokens = {f"s{i}": list(PROMPTS[0]) for i in range(6)}
    rng = random.Random(2)
    refusals = 0
    while going := [name for name, row in tokens.items() if len(row) < len(PROMPTS[0]) + LENGTH]:
        results: dict[int, Result] = {}
        names: dict[int, str] = {}
        for name in going[:4]:
            written = len(tokens[name]) - len(PROMPTS[0])
            draft = make_draft(rng, truth[written:], 6) or [3]
            run = engine.submit(RunRequest(name, 0, tokens[name], max_tokens=LENGTH - written, draft=draft))
            results[run], names[run] = Result(), name
        while not engine.is_idle:
            collect(engine, results)
            engine.check_integrity()
        for run, result in results.items():
            tokens[names[run]] += result.tokens
            refusals += isinstance(result.error, NoCapacity)
    assert refusals > 0
    assert all(row[len(PROMPTS[0]) :] == truth for row in tokens.values())


@pytest.mark.parametrize("where", ["kept", "rejected"])
def test_logits_that_are_no_distribution(where: str) -> None:
    """Where they would be kept the run fails; where they are rejected nothing of them stays, not even in free pages."""
    model = make_model(CONFIGS["llama"], 0)
    engine = make_engine_of(model, page_size=4)
    truth = truth_of(engine)
    draft = [*truth[:2], (truth[2] + 1) % VOCAB_SIZE, *truth[3:6]]
    broken_place = 1 if where == "kept" else 4

    def break_row(module: object, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor) -> torch.Tensor:
        logits[0, broken_place] = float("nan")
        return logits

    handle = model.get_output_embeddings().register_forward_hook(break_row)
    result: Any = run_all(engine, [RunRequest("s", 0, PROMPTS[0], max_tokens=9, stop_tokens=NO_STOP, draft=draft)])[0]
    handle.remove()
    if where == "kept":
        assert isinstance(result.error, ForwardFailed)
        assert result.tokens == truth[:1]
    else:
        assert (result.tokens, result.finished.num_accepted) == (truth[:3], 2)
    kept = PROMPTS[0] + result.tokens
    rest = RunRequest("s", len(kept), [], max_tokens=10, stop_tokens=NO_STOP)
    assert run_one(engine, rest).tokens == truth[len(result.tokens) :][:10]


def test_a_draft_outside_the_vocabulary_is_refused() -> None:
    engine, _ = make_engine()
    with pytest.raises(InvalidRun) as caught:
        engine.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=3, draft=[5, VOCAB_SIZE]))
    assert caught.value.field == "draft"
    assert engine.is_idle
