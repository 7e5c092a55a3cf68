"""Workers of a fleet fail anywhere and all the time: each answer is its naive self, whatever policy writes it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from router_svc.main import Router
from router_svc.trajectory.types import Model
from rstitch.errors import RstitchError
from rstitch.service.metrics import setup_metrics
from rstitch.v1 import router_pb2
from tests.support.asking import Reading, ask_for, check_kept, take, threshold, until
from tests.support.endless import expected
from tests.support.fake_worker import FakeWorker
from tests.support.fleets import all_ready, begins, fleet, workers
from tests.support.heads import put, random_head
from tests.support.naive import EXITS, NUM_TOKENS, POLICIES, PROMPT, check, naive, told
from tests.support.scraped import OPENMETRICS, parsed, samples
from tests.support.spans import recording, segments_of
from tests.support.toy import ToyModel
from tests.support.toy_stack import Stack

TRIED = ["entropy 0.3 0.3", "margin 0.5 0.1", "window 5 0.5", "random 0.3", "llm", "slm"]
DRAFTS: dict[str, Any] = {"speculative": {"draft_tokens": 4}}


def counting_moves(router: Router) -> Counter[tuple[Model, str]]:
    """Counts sessions that leave a worker: whose role, and why."""
    moves = Counter[tuple[Model, str]]()
    router.fleet.on_move = lambda model, reason: moves.update([(model, reason)])
    return moves


@asynccontextmanager
async def failing(groups: list[list[FakeWorker]], rng: random.Random) -> AsyncIterator[None]:
    """All the time some worker of a role goes away and comes back, while another of it is there."""

    async def fail(members: list[FakeWorker]) -> None:
        for worker in itertools.cycle(members):
            await asyncio.sleep(rng.uniform(0.02, 0.1))
            await worker.stop()
            await asyncio.sleep(rng.uniform(0.0, 0.1))
            await worker.start()
            await asyncio.sleep(0.3)  # until it is known to be back

    tasks = {asyncio.create_task(fail(members)) for members in groups}
    try:
        yield
        assert not any(task.done() for task in tasks), "nothing failed any more"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.mark.parametrize("run_ahead", ["on", "off"])
async def test_an_answer_is_its_naive_self_while_workers_come_and_go(stack: Stack, run_ahead: str) -> None:
    models = {"slm": ToyModel(31, stop_every=90), "llm": ToyModel(32, stop_every=90)}
    stack.slm.model, stack.llm.model = models["slm"], models["llm"]
    stack.slm.delay_s = stack.llm.delay_s = 0.004
    await stack.grow(3, 3)
    routers = [await stack.router(run_ahead=run_ahead, worker_patience_s=60) for _ in range(2)]
    stubs = [await stack.stub(router) for router in routers]
    for stub in stubs:
        await all_ready(stub, 6)
    moves = [counting_moves(router) for router in routers]

    async def one(number: int, name: str, exit_: dict[str, Any] | None) -> None:
        stub, prompt = stubs[number % 2], [*PROMPT, 10 + number]
        request = ask_for(prompt, policy=POLICIES[name], early_exit=exit_, max_new_tokens=NUM_TOKENS)
        answer = await take(stub, request)
        check(answer, naive(models, prompt, POLICIES[name], {}, seed=5, exit_=exit_))
        await check_kept(stub, answer)

    async def drafted(number: int) -> None:
        prompt = [*PROMPT, 200 - number]
        answer = await take(stubs[number % 2], ask_for(prompt, policy=DRAFTS, max_new_tokens=NUM_TOKENS))
        assert answer.error is None
        assert answer.tokens == told(naive(models, prompt, POLICIES["llm"], {}))[0]
        await check_kept(stubs[number % 2], answer)

    asked = list(itertools.product(TRIED, [None, EXITS[0]]))
    async with failing([stack.slms, stack.llms], random.Random(7)):
        await asyncio.gather(
            *(one(number, *each) for number, each in enumerate(asked)), *(drafted(number) for number in range(4))
        )
    # One that is back by the first look is not left: that all of one model's were is chance.
    left = sum(moves, Counter())
    assert left[Model.SLM, "lost"] + left[Model.LLM, "lost"] > 0


@pytest.mark.parametrize("seed", range(2))
async def test_errors_of_several_workers_change_nothing(stack: Stack, seed: int) -> None:
    rng = random.Random(seed)
    await fleet(stack, delay_s=0)
    router = await stack.router(worker_patience_s=30, capacity_patience_s=30)
    stub = await stack.stub(router)
    await all_ready(stub, 4)
    moves = counting_moves(router)

    def error() -> RstitchError:
        return rng.choice(
            [
                RstitchError(
                    grpc.StatusCode.FAILED_PRECONDITION, "HELD_TOO_SHORT", "", metadata={"held": str(rng.randrange(3))}
                ),
                RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "PREFIX_MISMATCH", "", metadata={"held": "9"}),
                RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY", "", retry_after_s=0.01),
                RstitchError(grpc.StatusCode.ABORTED, "SESSION_BUSY", ""),
                RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", ""),
            ]
        )

    for worker in (*stack.slms, *stack.llms):
        worker.errors = [error() for _ in range(5)]
        worker.break_after = [rng.randrange(1, 6) for _ in range(8)]
    for number in range(4):
        answer = await take(stub, ask_for(session_id=f"s{number}", policy=threshold(0.5), max_new_tokens=80))
        assert answer.error is None
        assert (answer.tokens, answer.authors) == expected(stack, 80)
        await check_kept(stub, answer)
    assert moves


@pytest.mark.parametrize("role", ["slm", "llm"])
async def test_one_of_them_is_lost_and_comes_back_and_the_other_is_lost(stack: Stack, role: str) -> None:
    """From worker to worker and back again, where what was left there is not taken for the session."""
    await fleet(stack)
    router = await stack.router()
    stub = await stack.stub(router)
    await all_ready(stub, 4)
    members = workers(stack, role)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=500)).has(20)
    for _ in range(3):
        there = next(each for each in members if each.num_streams)
        other = next(each for each in members if each is not there)
        await there.stop()
        await until(lambda other=other: other.num_streams)
        await there.start()
        await all_ready(stub, 4)
        assert not reading.is_over
    answer = await reading
    assert (answer.tokens, answer.authors) == expected(stack, 500)
    await check_kept(stub, answer)
    assert all(begins(each, answer.session_id) for each in members)
    header = await router.store.header(answer.session_id)
    assert header is not None
    assert header.binding.epoch == 5


async def test_a_role_that_is_away_is_waited_for_as_one_worker_is(stack: Stack) -> None:
    await fleet(stack)
    stub = await stack.stub(await stack.router(worker_patience_s=0.3))
    await all_ready(stub, 4)
    reading = await Reading(stub, ask_for(policy={"llm_only": {}}, max_new_tokens=500)).has(20)
    for worker in stack.llms:
        await worker.stop()
    answer = await reading
    assert answer.error is not None
    assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE")
    await check_kept(stub, answer)


async def test_whichever_comes_back_first_goes_on(stack: Stack) -> None:
    await fleet(stack)
    stub = await stack.stub(await stack.router())
    await all_ready(stub, 4)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=200)).has(20)
    there = next(each for each in stack.llms if each.num_streams)
    other = next(each for each in stack.llms if each is not there)
    await other.stop()
    await there.stop()
    await other.start()
    answer = await reading
    assert (answer.tokens, answer.authors) == expected(stack, 200)
    assert begins(other, answer.session_id) == 1


async def test_what_is_observed_leaves_a_worker_that_is_lost(stack: Stack) -> None:
    """Nothing is told twice, and nobody waits: the other goes on behind what the first has told."""
    await fleet(stack, 2, 1, delay_s=0)
    stub = await stack.stub(await stack.router(worker_patience_s=10))
    await all_ready(stub, 3)
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=60))
    request = router_pb2.ObserveAnswerRequest(session_id=answer.session_id, tau=-1)
    whole = [each async for each in stub.ObserveAnswer(request)]
    for worker in stack.slms:
        worker.observed.clear()
        worker.delay_s = 0.01
    call = aiter(stub.ObserveAnswer(request))
    told = [await anext(call)]
    first = next(each for each in stack.slms if each.observed)
    other = next(each for each in stack.slms if each is not first)
    await first.stop()
    told += [each async for each in call]
    (again,) = other.observed
    assert again.start > answer.position

    def asked_of(messages: Any) -> list[Any]:
        return [asked for message in messages for asked in message.consultations]

    assert asked_of(told) == asked_of(whole)
    assert sum(each.num_positions for each in told) == len(answer.tokens)


async def test_a_head_reaches_whichever_worker_is_asked(stack: Stack, tmp_path: Path) -> None:
    head = random_head(1, seed=4, tau=0.2)
    put(tmp_path, "toy", head)
    models = {"slm": ToyModel(31, stop_every=0), "llm": ToyModel(32, stop_every=0)}
    stack.slm.model, stack.llm.model = models["slm"], models["llm"]
    stack.slm.delay_s = 0.004
    await stack.grow(2, 1)
    stub = await stack.stub(await stack.router(heads=str(tmp_path)))
    await all_ready(stub, 3)
    policy: dict[str, Any] = {"learned": {"name": "toy", "tau": 0.2}}
    reading = await Reading(stub, ask_for(PROMPT, policy=policy, max_new_tokens=NUM_TOKENS)).has(10)
    first = next(each for each in stack.slms if each.num_streams)
    other = next(each for each in stack.slms if each is not first)
    await first.stop()
    check(await reading, naive(models, PROMPT, policy, {}, head=head))
    assert list(other.heads) == [f"toy@{head.version}"]


async def test_moves_and_members_are_counted_and_a_segments_worker_is_in_its_span(stack: Stack) -> None:
    await fleet(stack, 2, 1)
    telemetry, exporter = recording()
    metrics = setup_metrics("router", None, scraped=True)
    stub = await stack.stub(await stack.router(metrics=metrics, telemetry=telemetry))
    await all_ready(stub, 3)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=200)).has(20)
    first = next(each for each in stack.slms if each.num_streams)
    await first.stop()
    assert (await reading).error is None
    told = parsed(metrics.exposition(OPENMETRICS)[0].decode())
    states = samples(told, "rstitch_fleet_members")
    assert {labels: value for labels, value in states.items() if value} == {
        (("rstitch_model", "slm"), ("rstitch_state", "ready")): 1,
        (("rstitch_model", "slm"), ("rstitch_state", "lost")): 1,
        (("rstitch_model", "llm"), ("rstitch_state", "ready")): 1,
    }
    moves = samples(told, "rstitch_fleet_moves_total")
    assert moves == {(("rstitch_model", "slm"), ("rstitch_reason", "lost")): 1}
    by_model: dict[Any, set[Any]] = {"slm": set(), "llm": set()}
    for span in segments_of(exporter):
        assert span.attributes is not None
        by_model[span.attributes["rstitch.segment.model"]].add(span.attributes.get("rstitch.segment.worker"))
    assert by_model["slm"] == {"slm-0", "slm-1"}
    assert by_model["llm"] == {None}, "of one alone there is nothing to say"


@pytest.mark.parametrize("free", [0, 1])
async def test_whichever_has_room_first_is_gone_on_with_though_it_was_full(stack: Stack, free: int) -> None:
    await fleet(stack, 2, 1, delay_s=0)
    full, many = RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY", "full", retry_after_s=0.01), 10_000
    for worker in stack.slms:
        worker.errors = [full] * many
    stub = await stack.stub(await stack.router(capacity_patience_s=5))
    await all_ready(stub, 3)
    asking = asyncio.create_task(take(stub, ask_for(policy=threshold(0.5), max_new_tokens=30)))
    await until(lambda: all(len(each.errors) < many for each in stack.slms))
    stack.slms[free].errors = []
    answer = await asking
    assert answer.error is None
    assert (answer.tokens, answer.authors) == expected(stack, 30)
