"""Speculative decoding over toy models: the LLM's tokens, whatever is drafted or fails; who wrote what; its budget."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from router_svc.policies.kinds import Speculative
from rstitch.errors import RstitchError
from rstitch.service import semconv
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, ask_for, check_kept, take, until
from tests.support.naive import EXITS
from tests.support.spans import named, recording, segments_of
from tests.support.toy import STOP, ToyModel
from tests.support.toy_stack import Stack

NUM_TOKENS = 50
PROMPT = [7, 8, 9]
VERIFICATION, DRAFT, BUDGET = 7, 8, 9


@pytest.fixture
def models(stack: Stack) -> tuple[ToyModel, ToyModel]:
    """An SLM that agrees with the LLM on three of four tokens."""
    llm = ToyModel(42, stop_every=60)
    own = ToyModel(41, stop_every=60)

    def choose(prefix: Sequence[int]) -> int:
        return own.token(prefix) if own.doubt([*prefix, 1]) < 0.25 else llm.token(prefix)

    stack.slm.model, stack.llm.model = ToyModel(41, choose=choose), llm
    return stack.slm.model, llm


def naive(
    models: tuple[ToyModel, ToyModel],
    prompt: Sequence[int],
    draft_tokens: int,
    min_confidence: float = 0,
    budget: dict[str, Any] | None = None,
    num_tokens: int = NUM_TOKENS,
) -> tuple[list[int], list[str], int, int]:
    """Tokens, authors, drafted and accepted tokens; without cache, run or wire."""
    slm, llm = models
    budget = budget or {}
    most, switches = budget.get("max_switches", 10**9), 0
    tokens, authors, num_drafted, num_accepted = list(prompt), [], 0, 0
    pen = "slm"
    while len(authors) < num_tokens and not (authors and tokens[-1] == STOP):
        back = 3 if pen == "llm" and budget.get("then") != 2 else 2
        if authors.count("llm") >= budget.get("llm_tokens", 10**9) or switches + back > most:
            if budget.get("then") == 2:
                break
            switches += pen == "llm"
            pen = "slm"
            tokens.append(slm.token(tokens))
            authors.append("slm")
            continue
        draft: list[int] = []
        for _ in range(min(draft_tokens, num_tokens - len(authors) - 1)):
            if min_confidence and slm.doubt(tokens + draft) > 1 - min_confidence:
                break
            draft.append(slm.token(tokens + draft))
            if draft[-1] == STOP:
                break
        num_drafted += len(draft)
        if num_tokens - len(authors) > 1:
            switches += pen == "llm"
            pen = "slm"
        for drafted in [*draft, None]:
            token = llm.token(tokens)
            tokens.append(token)
            authors.append("slm" if token == drafted else "llm")
            num_accepted += token == drafted
            if token != drafted:
                switches += pen == "slm"
                pen = "llm"
            if token != drafted or token == STOP:
                break
    return tokens[len(prompt) :], authors, num_drafted, num_accepted


def asked(draft_tokens: int, min_confidence: float = 0, prompt: Sequence[int] = PROMPT, **fields: Any) -> Any:
    policy = {"speculative": {"draft_tokens": draft_tokens, "min_confidence": min_confidence}}
    return ask_for(prompt, **({"policy": policy, "max_new_tokens": NUM_TOKENS} | fields))


def alone(llm: ToyModel, prompt: Sequence[int], num_tokens: int = NUM_TOKENS) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + num_tokens and (len(tokens) == len(prompt) or tokens[-1] != STOP):
        tokens.append(llm.token(tokens))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("min_confidence", [0, 0.3])
async def test_the_tokens_are_the_llms_and_authors_and_usage_tell_who_wrote_them(
    stack: Stack, models: tuple[ToyModel, ToyModel], min_confidence: float
) -> None:
    stub = await stack.stub(await stack.router())

    async def one(draft_tokens: int, prompt: list[int], num_tokens: int) -> None:
        answer = await take(stub, asked(draft_tokens, min_confidence, prompt, max_new_tokens=num_tokens))
        assert answer.error is None
        expected = naive(models, prompt, draft_tokens, min_confidence, num_tokens=num_tokens)
        assert answer.tokens == expected[0] == alone(models[1], prompt, num_tokens)
        assert answer.authors == expected[1]
        usage = answer.finished.usage
        assert (usage.num_slm_tokens, usage.num_llm_tokens) == (
            expected[1].count("slm"),
            expected[1].count("llm"),
        )
        assert usage.num_accepted_draft_tokens == expected[3] == usage.num_slm_tokens
        assert usage.num_draft_tokens == expected[2]
        assert usage.num_switches == len(answer.switches)
        entropies = []
        tokens = list(prompt)
        for token in answer.tokens:
            entropies.append(models[1].entropy(tokens))
            tokens.append(token)
        assert answer.entropies == entropies, "of the LLM, also of tokens that the SLM wrote"
        await check_kept(stub, answer)

    cases = [(k, [7, 8, 9 + n], num) for k in (1, 2, 5, 64) for n in range(3) for num in (1, 2, 3, NUM_TOKENS)]
    await asyncio.gather(*(one(*case) for case in cases))


async def test_switches_say_why(stack: Stack, models: tuple[ToyModel, ToyModel]) -> None:
    stub = await stack.stub(await stack.router())
    answer = await take(stub, asked(4))
    reasons = [switch.reason for switch in answer.switches]
    assert reasons == [(VERIFICATION, DRAFT)[index % 2] for index in range(len(reasons))]
    assert len(reasons) > 5
    assert all(switch.entropy == 0 for switch in answer.switches)
    writers = ["slm"] * len(answer.tokens)
    for switch in answer.switches:
        begin = switch.position - answer.position
        writers[begin:] = [{1: "slm", 2: "llm"}[switch.to]] * (len(writers) - begin)
    assert writers == answer.authors


@pytest.mark.parametrize("then", [1, 2])
async def test_a_budget_bounds_what_the_llm_writes(stack: Stack, models: tuple[ToyModel, ToyModel], then: int) -> None:
    stub = await stack.stub(await stack.router())

    async def one(budget: dict[str, Any]) -> None:
        answer = await take(stub, asked(3, budget=budget))
        tokens, authors, _, _ = naive(models, PROMPT, 3, budget=budget)
        assert (answer.tokens, answer.authors) == (tokens, authors), budget
        usage, spent = answer.finished.usage, list(answer.finished.budget_spent)
        assert usage.num_llm_tokens <= budget.get("llm_tokens", NUM_TOKENS)
        assert usage.num_switches <= budget.get("max_switches", 10**9)
        ended_early = len(tokens) < NUM_TOKENS and tokens[-1:] != [STOP]
        assert (answer.finished.reason == router_pb2.FINISH_REASON_BUDGET) == ended_early
        assert spent
        if then == 1 and usage.num_switches:
            assert answer.switches[-1].reason == BUDGET

    budgets = [{"llm_tokens": n} for n in (0, 1, 3)] + [{"max_switches": n} for n in range(6)]
    await asyncio.gather(*(one(budget | {"then": then}) for budget in budgets))


async def test_a_stop_string_ends_it_wherever_it_falls(stack: Stack, models: tuple[ToyModel, ToyModel]) -> None:
    stub = await stack.stub(await stack.router())
    whole = await take(stub, ask_for(PROMPT, policy={"llm_only": {}}, max_new_tokens=NUM_TOKENS))
    assert len(whole.text) > 30
    for begin in range(4, 30, 3):
        stop = [whole.text[begin : begin + 2]]
        expected = await take(stub, ask_for(PROMPT, policy={"llm_only": {}}, max_new_tokens=NUM_TOKENS, stop=stop))
        answer = await take(stub, asked(5, stop=stop))
        assert (answer.tokens, answer.text) == (expected.tokens, expected.text)
        assert answer.finished.reason == router_pb2.FINISH_REASON_STOP_STRING
        assert answer.finished.usage.num_accepted_draft_tokens == answer.authors.count("slm")
        again = await take(stub, asked(5, prompt=[70, 71], session_id=answer.session_id))
        assert again.tokens == alone(models[1], [*PROMPT, *answer.tokens, 70, 71])


async def test_a_second_turn_finds_no_draft_on_the_slm(stack: Stack, models: tuple[ToyModel, ToyModel]) -> None:
    stack.slm.evict_share = stack.llm.evict_share = 0
    stub = await stack.stub(await stack.router())
    first = await take(stub, asked(8, max_new_tokens=12))
    await until(lambda: len(stack.slm.sessions[first.session_id]) == first.next)
    num_fed = len(stack.slm.requests)
    second = await take(stub, asked(8, prompt=[70], session_id=first.session_id, max_new_tokens=12))
    assert second.tokens == alone(models[1], [*PROMPT, *first.tokens, 70], 12)
    fed = [request for request in stack.slm.requests[num_fed:] if request.position < first.next]
    assert not fed, "nothing is sent again"


@pytest.mark.parametrize("num_before", [1, 4, 11])
async def test_another_router_goes_on_with_it(stack: Stack, models: tuple[ToyModel, ToyModel], num_before: int) -> None:
    stack.slm.delay_s = stack.llm.delay_s = 0.003
    budgets: list[dict[str, Any]] = [{}, {"llm_tokens": 5}, {"max_switches": 7}]
    async with stack.routing() as first:
        await first.ready.wait()
        stub = await stack.stub(first)
        heads = await asyncio.gather(
            *(take(stub, asked(3, **({"budget": b} if b else {})), num_tokens=num_before) for b in budgets)
        )
    stub = await stack.stub(await stack.router())
    for head, budget in zip(heads, budgets, strict=True):
        answer = await take(stub, router_pb2.GenerateRequest(session_id=head.session_id, resume_from=head.next))
        tokens = head.tokens + answer.tokens
        if not budget:
            assert tokens == alone(models[1], PROMPT)
        assert answer.finished.usage.num_llm_tokens <= budget.get("llm_tokens", NUM_TOKENS)
        assert answer.finished.usage.num_switches <= budget.get("max_switches", 10**9)
        assert answer.finished.usage.num_accepted_draft_tokens <= answer.finished.usage.num_slm_tokens
        await check_kept(stub, answer)


async def test_whatever_fails_the_tokens_stay_the_llms(stack: Stack, models: tuple[ToyModel, ToyModel]) -> None:
    """Streams that break within a draft or a verification, refusals, a worker that restarts empty."""
    stub = await stack.stub(await stack.router())
    rng = random.Random(3)
    full = RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY", "full", retry_after_s=0.01)
    for turn in range(12):
        for worker in (stack.slm, stack.llm):
            worker.break_after += [rng.randrange(1, 6)]
            worker.errors += [full] * rng.randrange(2)
        prompt = [7, 8, turn + 10]
        answer = await take(stub, asked(4, prompt=prompt))
        assert answer.error is None
        assert answer.tokens == alone(models[1], prompt)
        assert answer.finished.usage.num_accepted_draft_tokens == answer.authors.count("slm")
        await check_kept(stub, answer)
    stack.slm.delay_s = stack.llm.delay_s = 0.005
    for worker in (stack.slm, stack.llm):
        reading: asyncio.Task[Answer] = asyncio.create_task(take(stub, asked(4, prompt=[5, 6])))
        await until(lambda worker=worker: worker.num_streams)
        await worker.stop()
        await worker.start()
        answer = await reading
        assert answer.error is None
        assert answer.tokens == alone(models[1], [5, 6])


async def test_each_segment_has_its_span(stack: Stack, models: tuple[ToyModel, ToyModel]) -> None:
    telemetry, exporter = recording()
    stub = await stack.stub(await stack.router(telemetry=telemetry))
    answer = await take(stub, asked(4))
    trajectory = await check_kept(stub, answer)
    await until(lambda: named(exporter, "rstitch.v1.RouterService/Generate"))
    segments = [segment for segment in trajectory.segments if segment.source != 1]
    spans = segments_of(exporter)
    if answer.tokens[-1] == STOP and answer.authors[-1] == "slm":
        spans.pop()  # of the verification after which the LLM had nothing to write
    assert len(spans) == len(segments)
    before = None
    for span, segment in zip(spans, segments, strict=True):
        facts = span.attributes or {}
        assert facts[semconv.RSTITCH_SEGMENT_MODEL] == {2: "slm", 3: "llm"}[segment.source]
        assert facts[semconv.RSTITCH_SEGMENT_POSITION] == segment.position
        assert facts[semconv.RSTITCH_SEGMENT_NUM_TOKENS] == len(segment.tokens)
        assert facts[semconv.RSTITCH_SEGMENT_FORWARD_US]
        if before is not None:
            assert [link.context.span_id for link in span.links] == [before.context.span_id]
            assert facts[semconv.RSTITCH_SEGMENT_REASON] == {2: "draft", 3: "verification"}[segment.source]
            assert (before.end_time or 0) <= (span.start_time or 0) + 1_000_000
        before = span


async def test_the_guard_neither_judges_nor_learns_from_it(stack: Stack, models: tuple[ToyModel, ToyModel]) -> None:
    router = await stack.router(guard="on")
    stub = await stack.stub(router)
    answer = await take(stub, asked(4))
    assert answer.finished.guard_reason == ""
    assert router.sessions.observer.guard_state().num_routed == 0
    assert router.sessions.observer.choose_policy(Speculative(4), True, 1, "s") == (Speculative(4), "")


async def test_with_early_exit_it_is_the_llm_with_early_exit(stack: Stack, models: tuple[ToyModel, ToyModel]) -> None:
    """Whoever drafted the boundary, the trial is the LLM's."""
    stub = await stack.stub(await stack.router())
    taken: list[bool] = []

    async def one(exit_: dict[str, Any], prompt: list[int], num_tokens: int) -> None:
        fields = {"early_exit": exit_, "max_new_tokens": num_tokens}
        expected = await take(stub, ask_for(prompt, policy={"llm_only": {}}, **fields))
        answer = await take(stub, asked(4, prompt=prompt, **fields))
        assert answer.error is None
        assert (answer.tokens, answer.entropies) == (expected.tokens, expected.entropies)
        assert answer.finished.early_exit == expected.finished.early_exit
        assert answer.finished.reason == expected.finished.reason
        usage = answer.finished.usage
        assert (usage.num_trials, usage.num_slm_tokens) == (
            expected.finished.usage.num_trials,
            usage.num_accepted_draft_tokens,
        )
        assert usage.num_switches == len(answer.switches)
        await check_kept(stub, answer)
        taken.append(answer.finished.HasField("early_exit"))

    cases = [(exit_, [7, 8, 9 + n], num) for exit_ in EXITS for n in range(4) for num in (9, NUM_TOKENS)]
    await asyncio.gather(*(one(*case) for case in cases))
    assert 0 < sum(taken) < len(taken)
