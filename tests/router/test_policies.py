"""Every policy is its naive self, also when it is handed from router to router; budgets bound any of them."""

from __future__ import annotations

import asyncio
import itertools
from array import array
from typing import Any

import pytest

from model_worker.engine.bookkeeping.signals import SignalMeter
from model_worker.engine.types import Handoff
from model_worker.engine.types import Signal as EngineSignal
from router_svc.policies.kinds import Threshold
from router_svc.policies.policy import History
from router_svc.trajectory.types import Model, Signal
from rstitch.v1 import router_pb2
from tests.support.asking import ask_for, check_kept, take
from tests.support.naive import NUM_TOKENS, POLICIES, check, naive, told
from tests.support.toy import ToyModel
from tests.support.toy_stack import Stack

BUDGETS: list[dict[str, Any]] = [
    {"llm_tokens": 0},
    {"llm_tokens": 1},
    {"llm_tokens": 7},
    {"max_switches": 0},
    {"max_switches": 3},
    {"max_switches": 4, "llm_tokens": 9},
]
BUDGETED = ["entropy 0.3 0.3", "margin 0.5 0.1", "window 5 0.5", "confidence 0.7", "random 0.3", "llm", "slm"]


def asked(name: str, budget: dict[str, Any], prompt: list[int], **fields: Any) -> router_pb2.GenerateRequest:
    bounded = {"budget": budget} if budget else {}
    return ask_for(prompt, policy=POLICIES[name], max_new_tokens=NUM_TOKENS, **bounded, **fields)


@pytest.fixture
def models(stack: Stack) -> dict[str, ToyModel]:
    stack.slm.model, stack.llm.model = ToyModel(31, stop_every=60), ToyModel(32, stop_every=60)
    return {"slm": stack.slm.model, "llm": stack.llm.model}


async def test_every_policy_is_its_naive_self(stack: Stack, models: dict[str, ToyModel]) -> None:
    stub = await stack.stub(await stack.router())

    async def one(name: str, prompt: list[int]) -> None:
        answer = await take(stub, asked(name, {}, prompt))
        check(answer, naive(models, prompt, POLICIES[name], {}, seed=5))
        await check_kept(stub, answer)

    await asyncio.gather(*(one(name, [7, 8, 9 + n]) for name in POLICIES for n in range(2)))


@pytest.mark.parametrize("then", [1, 2], ids=["the SLM goes on", "the answer ends"])
async def test_a_budget_bounds_every_policy(stack: Stack, models: dict[str, ToyModel], then: int) -> None:
    stub = await stack.stub(await stack.router())

    async def one(name: str, budget: dict[str, Any]) -> None:
        answer = await take(stub, asked(name, budget, [7, 8, 9]))
        check(answer, naive(models, [7, 8, 9], POLICIES[name], budget, seed=5))
        usage, spent = answer.finished.usage, list(answer.finished.budget_spent)
        assert usage.num_llm_tokens <= budget.get("llm_tokens", NUM_TOKENS)
        if name != "llm":
            assert usage.num_switches <= budget.get("max_switches", NUM_TOKENS)
        assert ("llm_tokens" in spent) == (usage.num_llm_tokens >= budget.get("llm_tokens", NUM_TOKENS + 1))
        kept = (await check_kept(stub, answer)).budget
        assert (kept.then, kept.HasField("llm_tokens")) == (then, "llm_tokens" in budget)

    cases = [(name, budget | {"then": then}) for name in BUDGETED for budget in BUDGETS]
    refused = ("llm", {"llm_tokens": 0, "then": 2})
    await asyncio.gather(*(one(*case) for case in cases if case != refused))


@pytest.mark.parametrize("num_before", [1, 4, 11])
async def test_another_router_goes_on_as_the_first_would(
    stack: Stack, models: dict[str, ToyModel], num_before: int
) -> None:
    """The trajectory holds all that a policy looks at: at whatever token the first router ends."""
    stack.slm.delay_s = stack.llm.delay_s = 0.003
    budgets: list[dict[str, Any]] = [{}, {"llm_tokens": 7}, {"max_switches": 4}]
    cases = list(itertools.product(BUDGETED, budgets))
    async with stack.routing() as first:
        await first.ready.wait()
        stub = await stack.stub(first)
        heads = await asyncio.gather(
            *(take(stub, asked(name, budget, [7, 8, 9]), num_tokens=num_before) for name, budget in cases)
        )
    stub = await stack.stub(await stack.router())
    for head, (name, budget) in zip(heads, cases, strict=True):
        request = router_pb2.GenerateRequest(session_id=head.session_id, resume_from=head.next)
        answer = await take(stub, request)
        answer.tokens, answer.authors = head.tokens + answer.tokens, head.authors + answer.authors
        answer.position = head.position
        expected = naive(models, [7, 8, 9], POLICIES[name], budget, seed=5)
        assert (answer.tokens, answer.authors) == told(expected), (name, budget)
        await check_kept(stub, answer)


def test_a_window_at_its_very_bound_hands_back_in_worker_and_router_alike() -> None:
    """The mean is that of an exact sum: another rounding would send the next token to the other model."""
    entropies = array("f", [0.09, 9e-11, 0.1, 7e-12])
    meter = SignalMeter(Handoff(below=0.5, signal=EngineSignal.ENTROPY_WINDOW, window=4))
    for entropy in entropies[:-1]:
        meter.keep(entropy)
    bound = meter.read(entropies[-1], 0.0, 0.0)
    policy = Threshold(0.5, bound, Signal.ENTROPY_WINDOW, 4)
    for order in (entropies, entropies[::-1]):
        assert policy.next_writer(Model.LLM, History(0, order)) is Model.SLM


async def test_a_coin_without_a_seed_is_its_sessions(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())

    async def authors(session_id: str, prompt: list[int]) -> list[str]:
        policy = {"random": {"slm_probability": 0.5}}
        answer = await take(stub, ask_for(prompt, policy=policy, max_new_tokens=30, session_id=session_id))
        assert answer.finished.policy.random.HasField("seed")
        return answer.authors

    stack.slm.model, stack.llm.model = ToyModel(1, stop_every=0), ToyModel(2, stop_every=0)
    one, other = await authors("one", [7]), await authors("other", [7])
    assert one != other
    await stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id="one"))
    assert await authors("one", [9]) == one


async def test_a_signal_comes_with_every_token_and_is_kept(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    stream = stub.Generate(ask_for(policy=POLICIES["margin 0.5 0.1"], max_new_tokens=NUM_TOKENS))
    events = [event async for event in stream]
    chunks = [event.chunk for event in events if event.HasField("chunk")]
    session_id = events[0].started.session_id
    assert chunks
    assert all(len(chunk.uncertainties) == len(chunk.tokens) for chunk in chunks)
    request = router_pb2.GetTrajectoryRequest(session_id=session_id)
    segments = (await stub.GetTrajectory(request)).trajectory.segments
    kept = [value for segment in segments for value in segment.uncertainties]
    assert kept == [value for chunk in chunks for value in chunk.uncertainties]
    switches = [event.switch for event in events if event.HasField("switch")]
    assert {switch.reason for switch in switches} == {3, 4}
    assert all(switch.entropy > 0.5 if switch.reason == 3 else switch.entropy <= 0.1 for switch in switches)
