"""The guard on a real wire. Time passes only where a toy model computes: a token costs what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from router_svc.trajectory.types import Model
from rstitch.service import semconv
from rstitch.service.metrics import setup_metrics
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, ask_for, check_kept, stored, take, threshold, until
from tests.support.otlp_receiver import MetricsReceiver
from tests.support.toy import ToyModel, algorithm_1
from tests.support.toy_stack import Stack

ON, OFF = router_pb2.GUARD_ON, router_pb2.GUARD_OFF
SLM, LLM = ToyModel(seed=1, stop_every=0), ToyModel(seed=2, stop_every=0)
PROMPT = (7, 8, 9)
NUM_TOKENS = 30


class Clock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def costing(self, model: ToyModel, token_s: float) -> ToyModel:
        """The same model, each of whose tokens takes its time."""

        def choose(prefix: Sequence[int]) -> int:
            self.now_s += token_s
            return model.token(prefix)

        return ToyModel(model.seed, model.stop_every, choose)


@pytest.fixture
def asker(stack: Stack) -> Callable[..., Any]:
    """A stub of a router whose pair takes so long per token."""

    async def make(slm_s: float, llm_s: float, **changes: Any) -> Any:
        clock = Clock()
        stack.slm.model, stack.llm.model = clock.costing(SLM, slm_s), clock.costing(LLM, llm_s)
        return await stack.stub(await stack.router(clock=clock, **changes))

    return make


async def ask(stub: Any, **fields: Any) -> Answer:
    answer = await take(stub, ask_for(PROMPT, **({"policy": threshold(0.5), "max_new_tokens": NUM_TOKENS} | fields)))
    assert answer.error is None
    return answer


async def ask_until_llm_only(stub: Any, **fields: Any) -> Answer:
    for _ in range(40):
        answer = await ask(stub, **fields)
        if answer.finished.guard_reason and (await status(stub)).llm_only:
            return answer
    raise AssertionError("the guard never turned")


async def status(stub: Any) -> Any:
    return (await stub.GetStatus(router_pb2.GetStatusRequest())).guard


def kind(answer: Answer) -> str:
    return str(answer.finished.policy.WhichOneof("kind"))


async def test_while_routing_loses_new_answers_are_llm_only_and_say_why(asker: Callable[..., Any]) -> None:
    stub = await asker(slm_s=0.003, llm_s=0.001)
    first = await ask(stub, guard=ON)
    assert kind(first) == "threshold"
    assert first.finished.guard_reason == ""
    assert (await status(stub)).num_routed == 1

    looked = [first]
    while not looked[-1].finished.guard_reason:
        looked.append(await ask(stub, guard=ON))
    assert looked[-1].finished.guard_reason.startswith("a look at what LLM-only answers take at 1 session ")
    await ask_until_llm_only(stub, guard=ON)
    guarded = await ask(stub, guard=ON)
    assert kind(guarded) == "llm_only"
    assert guarded.finished.guard_reason.startswith("routed answers took ")
    assert "x as long as LLM-only ones at 1 session (n=" in guarded.finished.guard_reason
    assert (guarded.tokens, set(guarded.authors)) == (algorithm_1(SLM, LLM, PROMPT, -1, -1, NUM_TOKENS)[0], {"llm"})
    kept = await check_kept(stub, guarded)
    assert kept.policy.WhichOneof("kind") == "llm_only"
    assert kept.finished == guarded.finished

    turns = [kind(await ask(stub, guard=ON)) for _ in range(70)]
    assert 3 <= turns.count("threshold") <= 10
    seen = await status(stub)
    assert seen.llm_only
    assert seen.routed_us > seen.llm_only_us == NUM_TOKENS * 1000
    assert seen.num_llm_only >= 60
    assert seen.default_guard == OFF


async def test_four_at_a_time_it_turns_soon(asker: Callable[..., Any]) -> None:
    """A token of either model takes its time of one device: what the LLM alone would take shows once it is alone."""
    stub = await asker(slm_s=0.0015, llm_s=0.001, guard="on")
    answers: list[Answer] = []

    def has_turned() -> bool:
        return any(answer.finished.guard_reason.startswith("routed answers took ") for answer in answers)

    async def client() -> None:
        while len(answers) < 256 and not has_turned():
            answers.append(await ask(stub))

    await asyncio.gather(*(client() for _ in range(4)))
    assert has_turned(), {answer.finished.guard_reason for answer in answers}
    assert {kind(answer) for answer in answers} == {"threshold", "llm_only"}
    for answer in answers:
        tau = 0.5 if kind(answer) == "threshold" else -1
        assert answer.tokens == algorithm_1(SLM, LLM, PROMPT, tau, tau, NUM_TOKENS)[0]


async def test_what_the_request_says_beats_the_setting(asker: Callable[..., Any]) -> None:
    stub = await asker(slm_s=0.003, llm_s=0.001, guard="on")
    await ask_until_llm_only(stub)
    assert (await status(stub)).default_guard == ON
    routed = await ask(stub, guard=OFF)
    assert kind(routed) == "threshold"
    assert routed.tokens == algorithm_1(SLM, LLM, PROMPT, 0.5, 0.5, NUM_TOKENS)[0]


async def test_off_it_watches_and_lets_be(asker: Callable[..., Any]) -> None:
    stub = await asker(slm_s=0.003, llm_s=0.001)
    for _ in range(12):
        assert kind(await ask(stub)) == "threshold"
        assert kind(await ask(stub, policy={"llm_only": {}})) == "llm_only"
    assert (await status(stub)).llm_only


async def test_the_slm_alone_is_a_wish(asker: Callable[..., Any]) -> None:
    stub = await asker(slm_s=0.003, llm_s=0.001, guard="on")
    await ask_until_llm_only(stub)
    for policy in ({"slm_only": {}}, threshold(1.0)):
        answer = await ask(stub, policy=policy)
        assert set(answer.authors) == {"slm"}
        assert answer.finished.guard_reason == ""


async def test_what_a_budget_bounds_is_left_alone_and_is_no_measure(asker: Callable[..., Any]) -> None:
    """The LLM alone would spend the budget at once, and the rest would be the SLM's, or missing."""
    stub = await asker(slm_s=0.003, llm_s=0.001, guard="on")
    await ask_until_llm_only(stub)
    before = await status(stub)
    for then in (1, 2):
        answer = await ask(stub, budget={"llm_tokens": 3, "then": then})
        assert (kind(answer), answer.finished.guard_reason) == ("threshold", "")
        await ask(stub, policy={"llm_only": {}}, budget={"llm_tokens": 3, "then": then})
    after = await status(stub)
    assert (after.num_routed, after.num_llm_only) == (before.num_routed, before.num_llm_only)


async def test_what_the_slm_wrote_a_part_of_is_no_llm_only_answer(asker: Callable[..., Any]) -> None:
    """The LLM never hands back, but the SLM begins: such an answer says nothing of LLM-only ones."""
    stub = await asker(slm_s=0.003, llm_s=0.001)
    answer = await ask(stub, policy=threshold(0.9, -1))
    assert set(answer.authors) == {"slm", "llm"}
    seen = await status(stub)
    assert (seen.num_routed, seen.num_llm_only) == (0, 0)


async def test_an_answer_that_saw_a_worker_restart_says_nothing_of_costs(stack: Stack) -> None:
    router = await stack.router()
    stub = await stack.stub(router)
    await ask(stub)
    assert (await status(stub)).num_routed == 1
    before = router.fleet.info(Model.SLM)
    llm_has_the_pen = asyncio.Event()

    async def pace() -> None:
        llm_has_the_pen.set()
        await until(lambda: router.fleet.info(Model.SLM) != before)

    stack.llm.pace = pace
    asked = asyncio.create_task(ask(stub))
    await llm_has_the_pen.wait()
    await stack.slm.stop()
    await stack.slm.start()
    await asked
    assert (await status(stub)).num_routed == 0
    await ask(stub)
    assert (await status(stub)).num_routed == 1


async def test_figures_of_a_worker_before_its_restart_are_not_told(stack: Stack) -> None:
    router = await stack.router()
    stub = await stack.stub(router)
    await ask(stub)
    assert (await status(stub)).num_routed == 1
    before = router.fleet.info(Model.SLM)
    await stack.slm.stop()
    await stack.slm.start()
    await until(lambda: router.fleet.info(Model.SLM) != before)
    assert (await status(stub)).num_routed == 0


async def test_where_routing_pays_it_stays_routed_but_for_looks(asker: Callable[..., Any]) -> None:
    with MetricsReceiver() as receiver:
        metrics = setup_metrics("router", receiver.endpoint)
        stub = await asker(slm_s=0.0001, llm_s=0.001, guard="on", metrics=metrics)
        answers = [await ask(stub) for _ in range(60)]
        metrics.shutdown()
    looks = [answer for answer in answers if answer.finished.guard_reason]
    assert 0 < len(looks) <= 9
    assert {kind(answer) for answer in looks} == {"llm_only"}
    assert receiver.total(semconv.METRIC_GUARD_LOOKS) == len(looks)
    seen = await status(stub)
    assert not seen.llm_only
    assert 0 < seen.routed_us < seen.llm_only_us


async def test_an_answer_that_is_gone_on_with_keeps_its_policy_and_its_reason(
    stack: Stack, asker: Callable[..., Any]
) -> None:
    stub = await asker(slm_s=0.003, llm_s=0.001, guard="on", detach_grace_s=0)
    await ask_until_llm_only(stub)
    request = ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=NUM_TOKENS, session_id="s")
    stack.llm.delay_s = 0.01
    begun = await take(stub, request, num_tokens=1)
    other = await stack.stub(await stack.router(guard="off"))
    stack.llm.delay_s = 0

    async def gone_on_with() -> Answer | None:
        rest = await take(other, router_pb2.GenerateRequest(session_id="s", resume_from=begun.next))
        return rest if rest.error is None else None

    rest = await until(gone_on_with)  # the first router must have let go
    assert kind(rest) == "llm_only"
    assert rest.finished.guard_reason
    assert begun.tokens + rest.tokens == algorithm_1(SLM, LLM, PROMPT, -1, -1, NUM_TOKENS)[0]
    again = await ask(other, session_id="s")
    assert kind(again) == "threshold"
    assert (await stored(other, "s")).finished.guard_reason == ""
