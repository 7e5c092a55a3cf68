"""Early exit on every policy is its naive self: at any boundary, from router to router, through errors."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import grpc
import pytest

from router_svc.decoding.early_exit import settle
from router_svc.policies.early_exit import DEFAULT_STYLE, EarlyExit, ExitStyle
from router_svc.text.matching import Vocabulary
from router_svc.text.tokenizer import Tokenizer
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model
from rstitch.errors import RstitchError
from rstitch.service import semconv
from rstitch.service.metrics import setup_metrics
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, ask_for, check_kept, take, until
from tests.support.naive import (
    EXITS,
    NUM_TOKENS,
    POLICIES,
    PROMPT,
    TOKENIZER,
    check,
    check_exit,
    early_exit_of,
    naive,
    told,
)
from tests.support.otlp_receiver import MetricsReceiver
from tests.support.spans import named, recording, segments_of
from tests.support.toy import STOP, VOCAB_SIZE, ToyModel, make_tokenizer_files
from tests.support.toy_stack import Stack

TRIED = ["entropy 0.3 0.3", "margin 0.5 0.1", "window 5 0.5", "confidence 0.7", "random 0.3", "llm", "slm"]
DRAFTS = "speculative"


def asked(name: str, exit_: dict[str, Any], prompt: list[int] = PROMPT, **fields: Any) -> router_pb2.GenerateRequest:
    policy = {"speculative": {"draft_tokens": 4}} if name == DRAFTS else POLICIES[name]
    return ask_for(prompt, policy=policy, early_exit=exit_, max_new_tokens=NUM_TOKENS, **fields)


@pytest.fixture
def models(stack: Stack) -> dict[str, ToyModel]:
    stack.slm.model, stack.llm.model = ToyModel(31, stop_every=90), ToyModel(32, stop_every=90)
    return {"slm": stack.slm.model, "llm": stack.llm.model}


@pytest.mark.parametrize(("run_ahead", "names"), [("off", [*POLICIES]), ("on", TRIED[:4])], ids=["alone", "run ahead"])
async def test_on_every_policy_it_is_its_naive_self(
    stack: Stack, models: dict[str, ToyModel], run_ahead: str, names: list[str]
) -> None:
    stub = await stack.stub(await stack.router(run_ahead=run_ahead))
    found: list[Answer] = []

    async def one(name: str, exit_: dict[str, Any], prompt: list[int]) -> None:
        answer = await take(stub, asked(name, exit_, prompt))
        expected = naive(models, prompt, POLICIES[name], {}, seed=5, exit_=exit_)
        check(answer, expected)
        check_exit(answer, expected, exit_)
        usage = answer.finished.usage
        # What a lost worker had begun is not counted.
        assert (usage.num_trials, usage.num_trial_tokens) == (expected.num_trials, expected.num_trial_tokens)
        assert (usage.trial_time_us > 0) == (usage.num_trials > 0)
        trajectory = await check_kept(stub, answer)
        assert trajectory.early_exit.threshold == exit_["threshold"]
        assert trajectory.early_exit.max_trial_tokens == exit_.get("max_trial_tokens", 32)
        assert trajectory.finished == answer.finished
        found.append(answer)

    await asyncio.gather(*(one(name, exit_, [7, 8, 9]) for name in names for exit_ in EXITS))
    taken = sum(answer.finished.HasField("early_exit") for answer in found)
    assert 0 < taken < len(found)
    assert sum(answer.finished.usage.num_trials for answer in found) > taken


@pytest.mark.parametrize("then", [1, 2])
async def test_a_budget_counts_what_the_llm_wrote_in_a_trial_that_was_kept(
    stack: Stack, models: dict[str, ToyModel], then: int
) -> None:
    stub = await stack.stub(await stack.router())

    async def one(name: str, exit_: dict[str, Any], budget: dict[str, Any]) -> None:
        answer = await take(stub, asked(name, exit_, budget=budget))
        expected = naive(models, PROMPT, POLICIES[name], budget, seed=5, exit_=exit_)
        check(answer, expected)
        check_exit(answer, expected, exit_)
        assert answer.finished.usage.num_llm_tokens <= budget.get("llm_tokens", NUM_TOKENS)

    budgets = [{"llm_tokens": 4}, {"llm_tokens": 12}, {"max_switches": 2}, {"max_switches": 5, "llm_tokens": 9}]
    names = [name for name in TRIED if name != "llm"]
    cases = itertools.product(names, EXITS[:2], [budget | {"then": then} for budget in budgets])
    await asyncio.gather(*(one(*case) for case in cases))


async def test_drafts_whose_budget_says_stop_end_before_a_trial(stack: Stack, models: dict[str, ToyModel]) -> None:
    """The SLM would write what the LLM may not; another router that goes on from there would not even try."""
    stub = await stack.stub(await stack.router())
    token = TOKENIZER.encode("a", begins=False)[0]
    stack.slm.model = stack.llm.model = ToyModel(7, choose=lambda prefix: token)
    policy, exit_ = {"speculative": {"draft_tokens": 1}}, EXITS[4]
    for budget in ({"llm_tokens": 1, "then": 2}, {"max_switches": 2, "then": 2}):
        stack.slm.model = ToyModel(7, choose=lambda prefix: token + 1)
        answer = await take(stub, ask_for(policy=policy, early_exit=exit_, budget=budget, max_new_tokens=NUM_TOKENS))
        assert (answer.tokens, answer.finished.reason) == ([token], router_pb2.FINISH_REASON_BUDGET)
        assert answer.finished.usage.num_trials == 0


async def test_the_signal_is_told_of_all_tokens_of_a_segment_or_of_none(
    stack: Stack, models: dict[str, ToyModel]
) -> None:
    """Once the budget is spent the SLM is asked for no signal, in trials neither."""
    stub = await stack.stub(await stack.router())
    num = 0
    for number, name in itertools.product(range(8), ["margin 0.5 0.1", "confidence 0.7"]):
        request = asked(name, EXITS[4], [7, 8, 20 + number], budget={"llm_tokens": 2})
        answer = await take(stub, request)
        for segment in (await check_kept(stub, answer)).segments:
            assert len(segment.uncertainties) in (0, len(segment.tokens))
        num += answer.finished.HasField("early_exit") and answer.finished.usage.num_llm_tokens == 2
    assert num


@pytest.mark.parametrize("num_before", [1, 4, 11])
async def test_another_router_goes_on_as_the_first_would(
    stack: Stack, models: dict[str, ToyModel], num_before: int
) -> None:
    """At whatever token the first router ends: a trial is decided anew or is known to have been taken."""
    stack.slm.delay_s = stack.llm.delay_s = 0.003
    cases = list(itertools.product([*TRIED, DRAFTS], EXITS[:3]))
    async with stack.routing() as first:
        await first.ready.wait()
        stub = await stack.stub(first)
        heads = await asyncio.gather(*(take(stub, asked(*case), num_tokens=num_before) for case in cases))
    stub = await stack.stub(await stack.router())
    for head, (name, exit_) in zip(heads, cases, strict=True):
        request = router_pb2.GenerateRequest(session_id=head.session_id, resume_from=head.next)
        answer = await take(stub, request)
        answer.tokens, answer.authors = head.tokens + answer.tokens, head.authors + answer.authors
        answer.entropies, answer.position = head.entropies + answer.entropies, head.position
        policy = POLICIES["llm" if name == DRAFTS else name]
        expected = naive(models, PROMPT, policy, {}, seed=5, exit_=exit_)
        tokens, authors = told(expected)
        assert answer.tokens == tokens, (name, exit_)
        assert answer.authors == authors or name == DRAFTS
        check_exit(answer, expected, exit_)
        await check_kept(stub, answer)


@pytest.mark.parametrize("draft_tokens", [1, 5, 16])
async def test_with_drafts_it_is_that_of_the_llm_alone(
    stack: Stack, models: dict[str, ToyModel], draft_tokens: int
) -> None:
    """The trial is the LLM's whoever wrote the boundary; what was drafted beyond a boundary is not kept."""
    own, llm = models["slm"], models["llm"]
    stack.slm.model = ToyModel(3, choose=lambda p: own.token(p) if own.doubt([*p, 1]) < 0.2 else llm.token(p))
    stub = await stack.stub(await stack.router())
    policy = {"speculative": {"draft_tokens": draft_tokens, "min_confidence": 0.1 * (draft_tokens == 16)}}

    async def one(exit_: dict[str, Any], prompt: list[int]) -> bool:
        answer = await take(stub, ask_for(prompt, policy=policy, early_exit=exit_, max_new_tokens=NUM_TOKENS))
        expected = naive(models, prompt, POLICIES["llm"], {}, exit_=exit_)
        assert answer.tokens == told(expected)[0]
        check_exit(answer, expected, exit_)
        await check_kept(stub, answer)
        if expected.exited is not None:
            first = expected.exited[0] - len(PROMPT)
            assert set(answer.authors[first : first + len(early_exit_of(exit_).prompt) + 1]) == {"llm"}
        return expected.exited is not None

    taken = await asyncio.gather(*(one(exit_, [7, 8, 9 + n]) for exit_ in EXITS for n in range(6)))
    assert any(taken)
    assert not all(taken)


async def test_a_worker_that_fails_in_a_trial_changes_nothing(stack: Stack, models: dict[str, ToyModel]) -> None:
    stub = await stack.stub(await stack.router())
    busy = RstitchError(grpc.StatusCode.ABORTED, "SESSION_BUSY", "by the test")
    full = RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY", "by the test", retry_after_s=0.01)
    for number, (name, exit_) in enumerate(itertools.product(TRIED, EXITS[:2])):
        for worker in (stack.slm, stack.llm):
            worker.errors = [busy, full][: number % 3]
            worker.break_after = [number % 4 + 1, 1 + number % 7]
        answer = await take(stub, asked(name, exit_))
        expected = naive(models, PROMPT, POLICIES[name], {}, seed=5, exit_=exit_)
        check(answer, expected)
        check_exit(answer, expected, exit_)


async def test_no_token_is_decoded_beyond_a_boundary_and_nothing_of_a_dropped_trial_stays(
    stack: Stack, models: dict[str, ToyModel]
) -> None:
    stack.slm.evict_share = stack.llm.evict_share = 0.0
    stub = await stack.stub(await stack.router(run_ahead="off"))
    answer = await take(stub, asked("llm", EXITS[3]))
    assert answer.finished.usage.num_trials > 0
    whole = [*PROMPT, *answer.tokens]
    runs = [run for run in stack.llm.requests if run.max_tokens]
    boundaries = set().union(*(TOKENIZER.containing(text) for text in EXITS[3]["boundaries"]))
    trials = [run for run in runs if set(run.stop_tokens) == {STOP} | TOKENIZER.containing(EXITS[3]["end"])]
    assert len(trials) == answer.finished.usage.num_trials
    for run in runs:
        assert run.position in (0, len(PROMPT)) or whole[run.position - 1] in boundaries or run in trials
    await until(lambda: stack.llm.sessions[answer.session_id] == whole)


async def test_the_next_turn_follows_an_exit(stack: Stack, models: dict[str, ToyModel]) -> None:
    """Also one whose turn before ended with a trial that was dropped, or was kept and cut by a stop string."""
    stub = await stack.stub(await stack.router())
    exit_ = EXITS[0]
    for number in range(8):
        prompt = [7, 8, 20 + number]
        first = await take(stub, asked("entropy 0.3 0.3", exit_, prompt, stop=["=>"] if number % 2 else []))
        assert first.error is None
        if number % 2 and first.finished.HasField("early_exit"):
            assert first.text.find("=>") < 0
            assert first.finished.reason == router_pb2.FINISH_REASON_STOP_STRING
        request = asked("slm", exit_, [40, 41], session_id=first.session_id)
        second = await take(stub, request)
        before = [*prompt, *first.tokens, 40, 41]
        expected = naive(models, before, POLICIES["slm"], {}, exit_=exit_)
        check(second, expected)
        check_exit(second, expected, exit_)


async def test_after_the_end_of_the_thinking_there_is_no_trial(stack: Stack) -> None:
    """Whoever wrote it, and if its text lies across tokens."""
    text = "abc. bcd</think>a b a b"
    tokens = [*TOKENIZER.encode(text, begins=False), STOP]
    stack.slm.model = ToyModel(5, choose=lambda prefix: tokens[len(prefix) - len(PROMPT)])
    stub = await stack.stub(await stack.router())
    exit_ = {"threshold": 1.0, "boundaries": ["a", "b"], "prompt": "=>", "end": "z", "max_trial_tokens": 1}
    answer = await take(stub, asked("slm", exit_))
    assert answer.tokens == tokens
    assert answer.finished.usage.num_trials == len("abb")
    ends = {"early_exit_thinking_end": "bc"}
    stub = await stack.stub(await stack.router(**ends))
    answer = await take(stub, asked("slm", exit_))
    assert answer.finished.usage.num_trials == len("ab")


async def test_what_a_question_leaves_open_is_the_routers_then_the_models_then_the_common_way(stack: Stack) -> None:
    style = ExitStyle(boundaries=("a", "nowhere"), prompt="=>")
    stack.llm.files = replace(make_tokenizer_files(), early_exit=style)
    stack.slm.files = replace(make_tokenizer_files(), early_exit=ExitStyle(prompt="other", end="b"))
    await stack.slm.stop()
    await stack.llm.stop()
    await stack.slm.start()
    await stack.llm.start()

    async def kept(stub: Any, **fields: Any) -> router_pb2.EarlyExit:
        answer = await take(stub, asked("slm", {"threshold": 0.9} | fields))
        assert answer.error is None
        return (await check_kept(stub, answer)).early_exit

    plain, own = await stack.router(), await stack.router(early_exit_prompt="!", early_exit_boundaries=["c"])
    of_models = await kept(await stack.stub(plain))
    assert (list(of_models.boundaries), of_models.prompt, of_models.end) == (["a"], "=>", "b")
    of_router = await kept(await stack.stub(own))
    assert (list(of_router.boundaries), of_router.prompt, of_router.end) == (["c"], "!", "b")
    given = await kept(await stack.stub(own), boundaries=["d"], prompt="?", end="e", max_trial_tokens=3)
    assert given == router_pb2.EarlyExit(threshold=0.9, boundaries=["d"], prompt="?", end="e", max_trial_tokens=3)


def test_the_common_way_suits_a_tokenizer_that_has_the_words() -> None:
    files = make_tokenizer_files(last_token="\u010a\u010a")  # two line ends as one token
    tokenizer = Tokenizer(files)
    side = Vocabulary(tokenizer, VOCAB_SIZE, frozenset({STOP}))
    rules = settle(EarlyExit(0.95, ExitStyle(), 0), ExitStyle(), Vocabularies.of(side, side))[Model.LLM]
    assert rules.settings.style == replace(DEFAULT_STYLE, boundaries=("\n\n",))
    assert tokenizer.spelled([*rules.boundaries]) == "\n\n"
    assert tokenizer.spelled(rules.prompt) == DEFAULT_STYLE.prompt
    assert rules.settings.max_trial_tokens == 32


async def test_a_span_per_trial_within_its_segment(stack: Stack, models: dict[str, ToyModel]) -> None:
    telemetry, exporter = recording()
    stub = await stack.stub(await stack.router(telemetry=telemetry, run_ahead="off"))
    answer = await take(stub, asked("entropy 0.3 0.3", EXITS[0]))
    (root,) = await until(lambda: named(exporter, "rstitch.generate"))
    usage = answer.finished.usage
    assert (root.attributes or {})[semconv.RSTITCH_USAGE_TRIALS] == usage.num_trials > 0
    assert (root.attributes or {})[semconv.RSTITCH_EARLY_EXIT_THRESHOLD] == EXITS[0]["threshold"]
    segments = {span.context.span_id: span for span in segments_of(exporter)}
    spans = named(exporter, "early-exit trial")
    facts = [span.attributes or {} for span in spans]
    assert len(spans) == usage.num_trials
    assert sum(int(fact[semconv.RSTITCH_TRIAL_NUM_TOKENS]) for fact in facts) == usage.num_trial_tokens
    for span, fact in zip(spans, facts, strict=True):
        assert span.parent is not None
        segment = segments[span.parent.span_id].attributes or {}
        assert segment[semconv.RSTITCH_SEGMENT_MODEL] == fact[semconv.RSTITCH_TRIAL_MODEL]
        taken = float(fact[semconv.RSTITCH_TRIAL_CONFIDENCE]) > EXITS[0]["threshold"]
        assert fact[semconv.RSTITCH_TRIAL_TAKEN] == taken
    assert [fact[semconv.RSTITCH_TRIAL_TAKEN] for fact in facts].count(True) == answer.finished.HasField("early_exit")
    traced = {int(run.traceparent[36:52], 16) for run in [*stack.slm.requests, *stack.llm.requests]}
    assert {span.context.span_id for span in spans} <= traced


async def test_trials_are_counted(stack: Stack, models: dict[str, ToyModel]) -> None:
    with MetricsReceiver() as receiver:
        metrics = setup_metrics("router", receiver.endpoint)
        stub = await stack.stub(await stack.router(metrics=metrics))
        finished = [
            (await take(stub, asked("slm", exit_, [7, 8, n]))).finished for exit_ in EXITS for n in range(9, 12)
        ]
        metrics.shutdown()
    kept = sum(end.HasField("early_exit") for end in finished)
    points = {facts[semconv.RSTITCH_KEPT]: value for facts, value in receiver.points(semconv.METRIC_TRIALS)}
    assert points == {True: kept, False: sum(end.usage.num_trials for end in finished) - kept}
    assert all(points.values())
