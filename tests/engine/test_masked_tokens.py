"""Masked tokens: a run is what the model gives without them, alone, beside runs with other masks and beside none."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.engine import Engine
from model_worker.engine.errors import InvalidRun
from model_worker.engine.forward import attention_varlen, runner, sampling
from model_worker.engine.forward import graphs as graphs_module
from model_worker.engine.forward.inversion import draw
from model_worker.engine.forward.loader import adopt
from model_worker.engine.forward.masking import Masking
from model_worker.engine.forward.sampling import uniform
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.engine.shared_layers.model import share_layers
from model_worker.engine.types import GREEDY, FinishReason, Handoff, Limits, Returns, RunRequest, Sampling, Signal
from tests.support.engines import generate, make_engine, run_all, run_one
from tests.support.pairs import CONTEXT_LENGTH, STOP_TOKEN, VOCAB_SIZE
from tests.support.shared_layers import make_pair
from tests.support.varlen import naive_varlen_attn

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100)), [5, 250, 17, 130]]
LENGTH = 20
NO_STOP = frozenset([VOCAB_SIZE])
DRAWN = Sampling(1.1, top_p=0.95, top_k=40, seed=5)

PATHS: dict[str, dict[str, Any]] = {
    "native": {"attention": "native"},
    "in place": {"attention": "in-place"},
    "gathered": {"attention": "gather"},
    "block tables": {"attention": "varlen"},
    "graphs": {"attention": "varlen", "graphs": "on"},
    "batch-invariant": {"batch_invariant": True},
    "pages copied": {"prefix_cache": "copy"},
    "pages shared": {"attention": "gather", "prefix_cache": "share"},
}
compiles = pytest.mark.timeout(300)  # whichever test comes first compiles a step


@pytest.fixture
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, compiled_code: Path) -> dict[str, Any]:
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)
    monkeypatch.setenv("XDG_CACHE_HOME", str(compiled_code))
    path: dict[str, Any] = request.param
    return {"max_batch_tokens": 24, **path}


PATHS_TO_TRY = [*PATHS.values(), pytest.param({"compile": "on"}, marks=compiles)]
on_each_path = pytest.mark.parametrize("limits", PATHS_TO_TRY, ids=[*PATHS, "compiled"], indirect=True)


def without(model: Any, tokens: Sequence[int], masked: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The ids that are left, and the model's logits of these after the tokens."""
    left = torch.tensor([token for token in range(VOCAB_SIZE) if token not in set(masked)])
    with torch.inference_mode():
        return left, model(torch.tensor([tokens])).logits[0, -1, left]


def drawn(model: Any, prompt: Sequence[int], masked: Sequence[int], sampling: Sampling, length: int) -> list[int]:
    """Draws token after token from a vocabulary that has no masked tokens at all."""
    tokens = list(prompt)
    for _ in range(length):
        left, logits = without(model, tokens, masked)
        at = len(tokens) + sampling.position_offset
        (place,), _ = draw(logits[None], [0], [sampling], [uniform(sampling.seed, at)], first=0)
        tokens.append(int(left[place]))
    return tokens[len(prompt) :]


def masks_of(model: Any) -> list[tuple[int, ...]]:
    """For each prompt what the model would write there, so that a mask changes the answer; some have the same."""
    free = [generate(model, prompt, 8) for prompt in PROMPTS]
    first, other = tuple(set(free[0] + free[1])), tuple(set(free[2] + free[3]))
    return [first, first, other, (), tuple(range(0, VOCAB_SIZE, 2))]


@on_each_path
def test_a_masked_run_equals_transformers_without_these_tokens(limits: dict[str, Any]) -> None:
    engine, model = make_engine(**limits)
    masks = masks_of(model)
    requests = [
        RunRequest(f"s{i}", 0, prompt, max_tokens=LENGTH, masked_tokens=masked)
        for i, (prompt, masked) in enumerate(zip(PROMPTS, masks, strict=True))
    ]
    expected = [generate(model, prompt, LENGTH, masked=m) for prompt, m in zip(PROMPTS, masks, strict=True)]
    assert expected[0] != generate(model, PROMPTS[0], LENGTH), "a mask that changes nothing shows nothing"
    beside = run_all(engine, requests)
    assert [result.tokens for result in beside] == expected
    same = RunRequest("same", 0, PROMPTS[0], max_tokens=LENGTH)
    for index, request in enumerate(requests):
        engine.close_session(f"s{index}")
        alone = run_one(engine, request)
        assert alone.tokens == expected[index]
        assert alone.entropies == pytest.approx(beside[index].entropies, abs=1e-6)
    assert run_one(engine, same).tokens == generate(model, PROMPTS[0], LENGTH)


@on_each_path
def test_a_masked_run_is_drawn_as_from_a_vocabulary_without_these_tokens(limits: dict[str, Any]) -> None:
    engine, model = make_engine(**limits)
    masks = masks_of(model)
    requests = [
        RunRequest(f"s{i}", 0, prompt, DRAWN, LENGTH, NO_STOP, masked_tokens=masked)
        for i, (prompt, masked) in enumerate(zip(PROMPTS, masks, strict=True))
    ]
    expected = [drawn(model, prompt, m, DRAWN, LENGTH) for prompt, m in zip(PROMPTS, masks, strict=True)]
    assert [result.tokens for result in run_all(engine, requests)] == expected
    engine.close_session("s0")
    assert run_one(engine, requests[0]).tokens == expected[0]


@on_each_path
def test_what_is_told_of_a_distribution_is_of_the_tokens_left(limits: dict[str, Any]) -> None:
    """Entropy over log V of those left, logprob, logits, top-k, and the hand-off's signal, beside an unmasked row."""
    engine, model = make_engine(**limits)
    masked = masks_of(model)[0]
    left, logits = without(model, PROMPTS[0], masked)
    logprobs = logits.log_softmax(-1)
    entropy = float(-(logprobs.exp() * logprobs).sum()) / math.log(len(left))
    p = logprobs.exp().topk(2).values.tolist()
    margin = Handoff(above=-1.0, signal=Signal.MARGIN)
    for name, others in ("alone", []), ("beside", [RunRequest("other", 0, PROMPTS[1], max_tokens=3)]):
        step = RunRequest(f"{name} step", 0, PROMPTS[0], returns=Returns(-1, True), masked_tokens=masked)
        top = RunRequest(f"{name} top", 0, PROMPTS[0], returns=Returns(VOCAB_SIZE), masked_tokens=masked)
        hand = RunRequest(f"{name} hand", 0, PROMPTS[0], max_tokens=4, handoff=margin, masked_tokens=masked)
        results = run_all(engine, [step, top, hand, *others])
        for result in results[:3]:
            proposal = result.finished.proposal
            assert proposal.token == int(left[logits.argmax()])
            assert proposal.entropy == pytest.approx(entropy, abs=1e-6)
            assert proposal.logprob == pytest.approx(float(logprobs.max()), abs=1e-6)
        whole = torch.frombuffer(bytearray(results[0].finished.proposal.logits), dtype=torch.float32)
        assert whole[list(masked)].tolist() == [-math.inf] * len(masked)
        torch.testing.assert_close(whole[left], logits.float(), atol=1e-4, rtol=1e-4)
        told = results[1].finished.proposal.top_logits
        assert sorted(token for token, _ in told) == left.tolist()
        assert results[2].finished.proposal.uncertainty == pytest.approx(1 - (p[0] - p[1]), abs=1e-6)


@on_each_path
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_a_draft_is_verified_without_the_masked_tokens(limits: dict[str, Any], sampling: Sampling) -> None:
    engine, model = make_engine(**limits)
    masked = masks_of(model)[0]
    request = RunRequest("s", 0, PROMPTS[0], sampling, LENGTH, NO_STOP, masked_tokens=masked)
    truth = run_one(engine, request).tokens
    for draft, num_agreed in (truth[:6], 6), ([*truth[:3], masked[0], *truth[4:6]], 3), ([masked[1]], 0):
        drafted = RunRequest("d", 0, PROMPTS[0], sampling, LENGTH, NO_STOP, draft=draft, masked_tokens=masked)
        result, _ = run_all(engine, [drafted, RunRequest("other", 0, PROMPTS[1], max_tokens=2)])
        assert (result.tokens, result.finished.num_accepted) == (truth[: num_agreed + 1], num_agreed)


def test_a_background_run_is_masked_too() -> None:
    engine, model = make_engine(max_batch_tokens=6)
    engine.costs = CostModel({1: 1000.0, 8: 1100.0}, {64: 90000.0}, {64: 90000.0})
    masked = masks_of(model)[0]
    ahead = RunRequest("ahead", 0, PROMPTS[0], max_tokens=12, background=True, masked_tokens=masked)
    others = [RunRequest(f"s{i}", 0, prompt, max_tokens=12) for i, prompt in enumerate(PROMPTS[:3])]
    written, *rest = run_all(engine, [ahead, *others])
    assert written.tokens == generate(model, PROMPTS[0], 12, masked=masked)
    assert [result.tokens for result in rest] == [generate(model, prompt, 12) for prompt in PROMPTS[:3]]


def test_both_roles_of_shared_layers_are_masked() -> None:
    model, slm, tail = make_pair("llama", 1)
    own, own_tail = copy.deepcopy((model, tail))
    engine = SharedEngine(
        adopt(own, CONTEXT_LENGTH), share_layers(own, 1, own_tail), Limits(VOCAB_SIZE, CONTEXT_LENGTH, 128)
    )
    for shallow in (True, False):
        alone = slm if shallow else model
        with torch.inference_mode():
            free = int(alone(torch.tensor([PROMPTS[0]])).logits[0, -1, :VOCAB_SIZE].argmax())
        request = RunRequest("s", 0, PROMPTS[0], GREEDY, LENGTH, NO_STOP, shallow=shallow, masked_tokens=(free,))
        written = run_one(engine, request).tokens
        assert written == drawn(alone, PROMPTS[0], [free], Sampling(1.0, top_k=1), LENGTH)
        engine.close_session("s")


def test_a_masked_stop_token_ends_nothing() -> None:
    engine, model = make_engine()
    stop = generate(model, PROMPTS[0], 4)[2]
    for masked, reason in ((), FinishReason.STOP), ((stop,), FinishReason.LENGTH):
        request = RunRequest("s", 0, PROMPTS[0], GREEDY, 6, frozenset([stop]), masked_tokens=masked)
        result = run_one(engine, request)
        assert result.finished.reason is reason
        assert (stop in result.tokens) is (reason is FinishReason.STOP)


@pytest.mark.parametrize(
    ("masked", "remedy"),
    [
        ((5, VOCAB_SIZE), "below"),
        (tuple(range(VOCAB_SIZE)), "at least 2"),
        (tuple(range(VOCAB_SIZE - 1)), "at least 2"),
        ((3,) * 8193, "fewer"),
    ],
)
@pytest.mark.parametrize("max_tokens", [0, 5])
def test_masks_that_cannot_be_are_refused(masked: tuple[int, ...], remedy: str, max_tokens: int) -> None:
    engine, _ = make_engine()
    with pytest.raises(InvalidRun) as caught:
        engine.submit(RunRequest("s", 0, PROMPTS[0], max_tokens=max_tokens, masked_tokens=masked))
    assert caught.value.field == "masked_tokens"
    assert remedy in str(caught.value.remedy)
    assert engine.is_idle


def test_all_but_two_tokens_may_be_masked_in_any_order_and_twice() -> None:
    engine, _ = make_engine()
    masked = (*reversed(range(2, VOCAB_SIZE)), 7, 8)
    result = run_one(engine, RunRequest("s", 0, PROMPTS[0], DRAWN, LENGTH, NO_STOP, masked_tokens=masked))
    assert set(result.tokens) <= {0, 1}
    assert len(result.tokens) == LENGTH
    assert all(0 <= entropy <= 1 for entropy in result.entropies)


def test_without_a_mask_a_step_is_todays(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("nobody masks anything")

    engine, model = make_engine()
    with monkeypatch.context() as patch:
        patch.setattr(Masking, "measured", fail)
        catch_up = RunRequest("catch-up", 0, PROMPTS[1], masked_tokens=(5,))
        requests = [RunRequest("s", 0, PROMPTS[0], max_tokens=5), catch_up]
        assert run_all(engine, requests)[0].tokens == generate(model, PROMPTS[0], 5)


@pytest.mark.parametrize(("graphs", "per_step"), [("off", 1), ("on", 2)])
def test_what_a_mask_costs(monkeypatch: pytest.MonkeyPatch, graphs: str, per_step: int) -> None:
    """A step measures once, as without a mask, and once more where the forward has measured already; of masked rows."""
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)
    engine, _ = make_engine(attention="varlen", graphs=graphs, max_batch_tokens=8)
    measured: list[int] = []

    def count(own: Callable[..., Any]) -> Callable[..., Any]:
        def counted(logits: Tensor, *args: Any) -> Any:
            measured.append(len(logits))
            return own(logits, *args)

        return counted

    for module, name in (runner, "measure_on_host"), (graphs_module, "measure"):
        monkeypatch.setattr(module, name, count(getattr(module, name)))
    requests = [RunRequest(f"s{i}", 0, [7 + i], max_tokens=6, masked_tokens=(5,) if i else ()) for i in range(3)]
    for some, num_again in (requests[1:], 2), (requests, 2):
        measured.clear()
        before = engine.counters.num_steps
        run_all(engine, some)
        assert len(measured) == per_step * (engine.counters.num_steps - before)
        assert measured[-1] == (num_again if graphs == "on" else len(some))
        for request in some:
            engine.close_session(request.session_id)


def test_more_masks_than_are_kept_are_all_right() -> None:
    engine, model = make_engine()
    for token in range(70):
        request = RunRequest("s", 0, PROMPTS[0], max_tokens=1, masked_tokens=(token, STOP_TOKEN))
        assert run_one(engine, request).tokens == generate(model, PROMPTS[0], 1, masked=[token, STOP_TOKEN])
    assert len(engine._masks._masks) == len(engine._runner._masking._ids) == 64


@pytest.mark.parametrize("offset", [-4, 0, 3, 2**31 - 1])
def test_a_token_is_drawn_by_its_position_and_the_offset(offset: int) -> None:
    """So a session draws as another does whose prompt is longer."""
    engine, model = make_engine()
    sampling = Sampling(1.0, seed=9, position_offset=offset)
    expected = drawn(model, PROMPTS[0], (), sampling, LENGTH)
    requests = [
        RunRequest("plain", 0, PROMPTS[0], sampling, LENGTH, NO_STOP),
        RunRequest("other", 0, PROMPTS[0], Sampling(1.0, seed=9), LENGTH, NO_STOP),
        RunRequest("drafted", 0, PROMPTS[0], sampling, LENGTH, NO_STOP, draft=expected[:5]),
    ]
    plain, other, drafted = run_all(engine, requests)
    assert plain.tokens == expected
    assert (other.tokens == expected) is (offset == 0)
    assert drafted.tokens == expected[:6]


@pytest.mark.parametrize(("position", "offset"), [(0, -6), (3, -9), (0, -(2**31))])
def test_an_offset_to_before_the_first_position_is_refused(position: int, offset: int) -> None:
    engine, _ = make_engine()
    run_one(engine, RunRequest("s", 0, PROMPTS[0]))
    sampling = Sampling(1.0, position_offset=offset)
    with pytest.raises(InvalidRun) as caught:
        engine.submit(RunRequest("s", position, PROMPTS[0], sampling, max_tokens=3))
    assert caught.value.field == "sampling.position_offset"
    assert run_one(engine, RunRequest("s", position, PROMPTS[0], sampling)).finished.held == position + 5


def as_on_a_device(self: Any, logits: Tensor) -> Callable[[], sampling.Choices]:
    results = sampling.measure(logits)
    return lambda: sampling.unpack(results, logits.shape[-1])


def test_what_is_measured_on_a_device_is_masked_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.Runner, "_measure", as_on_a_device)
    engine, model = make_engine()
    masks = masks_of(model)
    requests = [
        RunRequest(f"s{i}", 0, prompt, max_tokens=LENGTH, masked_tokens=masked)
        for i, (prompt, masked) in enumerate(zip(PROMPTS, masks, strict=True))
    ]
    expected = [generate(model, prompt, LENGTH, masked=m) for prompt, m in zip(PROMPTS, masks, strict=True)]
    assert [result.tokens for result in run_all(engine, requests)] == expected


def test_engines_keep_masks_apart() -> None:
    """Each has its own table: what one forgets another still has."""
    engines: list[Engine] = [make_engine()[0] for _ in range(2)]
    for engine in engines:
        run_one(engine, RunRequest("s", 0, PROMPTS[0], max_tokens=1, masked_tokens=(5,)))
    assert engines[0]._masks.of((5,)) is not engines[1]._masks.of((5,))
