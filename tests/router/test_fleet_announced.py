"""Workers that announce themselves in a real Redis: used at once, left at once, and none lost with Redis itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from router_svc.main import Router
from rstitch.errors import RstitchError
from rstitch.v1 import router_pb2
from tests.support.announcing import Announcer, announcing
from tests.support.asking import Reading, ask_for, check_kept, refused, take, threshold, until
from tests.support.endless import expected
from tests.support.fleets import all_ready, ask_turns, begins, fleet, homes, workers
from tests.support.redis_process import RedisProcess
from tests.support.toy_stack import Stack

ROLES = pytest.mark.parametrize("role", ["slm", "llm"])
NOBODY = {"slm": "", "llm": ""}


@pytest.fixture
async def announcer(redis_url: str) -> AsyncIterator[Announcer]:
    async with announcing(redis_url) as made:
        yield made


async def asked(stack: Stack, stub: Any, name: str) -> None:
    answer = await take(stub, ask_for(session_id=name, policy=threshold(0.5), max_new_tokens=20))
    assert (answer.tokens, answer.authors) == expected(stack, 20)


async def test_a_router_waits_until_somebody_of_its_fleet_announces_itself(stack: Stack, announcer: Announcer) -> None:
    await fleet(stack, 1, 1, delay_s=0)
    await announcer.join(stack.slm, stack.llm)
    router = await stack.router(ready=False, **NOBODY, fleet="another")
    stub = await stack.stub(router)
    status = await all_ready(stub, 0)
    assert "none has announced itself in the fleet another" in status.detail
    assert (await refused(stub.Generate(ask_for()))).reason == "NOT_READY"
    async with announcing(stack.redis_url, "another") as there:
        await there.join(stack.slm, stack.llm)
        await all_ready(stub, 2)
        await asked(stack, stub, "s")


async def test_one_that_joins_is_used_at_once_and_routers_place_alike(stack: Stack, announcer: Announcer) -> None:
    await fleet(stack, 2, 1, delay_s=0)
    late = stack.slms[1]
    await announcer.join(stack.slm, stack.llm)
    stubs = [await stack.stub(await stack.router(**NOBODY)) for _ in range(2)]
    for number in range(4):
        await ask_turns([stubs[number % 2]], f"early{number}", num=1)
    assert not late.requests
    await announcer.join(late)
    for stub in stubs:
        status = await all_ready(stub, 3)
        assert [member.id for member in status.members] == ["slm-0", "slm-1", "llm-0"]
        assert all(member.num_pages == 1000 and member.fingerprint for member in status.members)
    for number in range(4):
        await ask_turns([stubs[number % 2]], f"late{number}", num=1)
    assert [homes(stack.slms, f"late{number}") for number in range(4)] == [[late]] * 4


async def test_many_that_begin_at_once_on_two_routers_are_spread(stack: Stack, announcer: Announcer) -> None:
    await fleet(stack, 2, 2, delay_s=0.001)
    await announcer.join(*stack.slms, *stack.llms)
    stubs = [await stack.stub(await stack.router(**NOBODY)) for _ in range(2)]
    for stub in stubs:
        await all_ready(stub, 4)
    names = [f"s{number}" for number in range(40)]
    asking = (ask_turns(stubs[number % 2 :] + stubs[: number % 2], name) for number, name in enumerate(names))
    await asyncio.gather(*asking)
    for members in (stack.slms, stack.llms):
        found = {name: homes(members, name) for name in names}
        assert all(len(each) == 1 for each in found.values()), "a session was moved"
        assert all(begins(each[0], name) <= 1 for name, each in found.items()), "a prompt was computed again"
        counts = Counter(each[0].worker_id for each in found.values())
        assert len(counts) == 2
        assert max(counts.values()) <= 1.5 * min(counts.values()), counts


@ROLES
async def test_one_whose_announcement_ends_is_left_though_it_goes_on(
    stack: Stack, announcer: Announcer, role: str
) -> None:
    await fleet(stack, 2, 2)
    await announcer.join(*stack.slms, *stack.llms)
    router = await stack.router(**NOBODY, worker_patience_s=10)
    stub = await stack.stub(router)
    await all_ready(stub, 4)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=600)).has(20)
    left = next(each for each in workers(stack, role) if each.num_streams)
    await announcer.leave(left)
    await all_ready(stub, 3)
    await until(lambda: left.num_streams == 0)
    assert not reading.is_over, "it was over before its worker was left"
    answer = await reading
    assert answer.error is None
    assert (answer.tokens, answer.authors) == expected(stack, 600)
    await check_kept(stub, answer)


async def test_one_that_is_restarted_is_asked_what_it_is_once(stack: Stack, announcer: Announcer) -> None:
    await fleet(stack, 2, 1, delay_s=0)
    await announcer.join(*stack.slms, stack.llm)
    router = await stack.router(**NOBODY)
    stub = await stack.stub(router)
    await all_ready(stub, 3)
    restarted = stack.slms[1]

    def num_asked() -> int:
        return sum(call["call"] == "GetInfo" for call in restarted.metadata)

    assert num_asked() == 1
    await restarted.stop()
    await restarted.start()
    member = router.fleet.find("slm-1")
    assert member is not None
    await until(lambda: member.info is not None and member.info.instance_id == restarted.instance_id)
    assert num_asked() == 2
    assert restarted.num_tokenizers <= 1, "the same tokenizer was fetched again"
    for number in range(4):
        await asked(stack, stub, f"s{number}")


async def test_a_redis_that_is_away_or_forgets_costs_no_worker(
    stack: Stack, announcer: Announcer, redis_process: RedisProcess
) -> None:
    await fleet(stack, 2, 2, delay_s=0)
    await announcer.join(*stack.slms, *stack.llms)
    router = await stack.router(**NOBODY)
    stub = await stack.stub(router)
    before = (await all_ready(stub, 4)).members
    known = router.fleet.members()
    redis_process.stop()
    await until(lambda: router.lease.trouble)
    assert len((await all_ready(stub, 4)).members) == len(before)
    late, announcer.workers = announcer.workers, []  # whoever announces itself first must not be all there is
    redis_process.start()
    await until(lambda: not router.lease.trouble)
    for worker in late:
        announcer.workers.append(worker)
        await asked(stack, stub, f"at-{worker.worker_id}")
    assert router.fleet.members() == known
    assert all(member.answers for member in known)


@ROLES
async def test_a_full_worker_is_left_only_for_one_with_free_pages(
    stack: Stack, announcer: Announcer, role: str
) -> None:
    await fleet(stack, 2, 2, delay_s=0)
    full = RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY", "full", retry_after_s=0.01)
    crowded, other = workers(stack, role)
    crowded.errors, other.num_free_pages = [full] * 10_000, 0
    other.draining = True  # at first, so that the session is on the crowded one
    await announcer.join(*stack.slms, *stack.llms)
    router = await stack.router(**NOBODY, capacity_patience_s=0.5)
    stub = await stack.stub(router)
    await all_ready(stub, 3)
    other.draining = False
    await all_ready(stub, 4)
    crowded.num_free_pages = 500  # it says so, and is preferred
    member = router.fleet.find(crowded.worker_id)
    assert member is not None
    await until(lambda: member.num_free_pages == 500)
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=30))
    assert answer.error is not None
    assert answer.error.reason == "NO_CAPACITY"
    assert not other.requests
    other.num_free_pages = 100
    there = router.fleet.find(other.worker_id)
    assert there is not None
    await until(lambda: there.num_free_pages == 100)
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=30))
    assert (answer.tokens, answer.authors) == expected(stack, 30)
    assert other.requests


async def test_two_fleets_share_a_redis_and_nothing_else(stack: Stack, announcer: Announcer) -> None:
    await fleet(stack, 2, 2, delay_s=0)
    stack.slms[1].weights_fingerprint = "another model's"
    async with announcing(stack.redis_url, "other") as others:
        await announcer.join(stack.slms[0], stack.llms[0])
        await others.join(stack.slms[1], stack.llms[1])
        routers: dict[int, Router] = {0: await stack.router(**NOBODY), 1: await stack.router(**NOBODY, fleet="other")}
        for index, router in routers.items():
            stub = await stack.stub(router)
            await all_ready(stub, 2)
            for number in range(3):
                name = f"s{index}-{number}"
                await asked(stack, stub, name)
                assert homes(stack.slms, name) == [stack.slms[index]]
                assert homes(stack.llms, name) == [stack.llms[index]]


async def test_a_drain_that_is_taken_back_elsewhere_is_heard_of_an_idle_worker(
    stack: Stack, announcer: Announcer
) -> None:
    await fleet(stack, 2, 1, delay_s=0)
    await announcer.join(*stack.slms, stack.llm)
    router = await stack.router(**NOBODY)
    stub = await stack.stub(router)
    await all_ready(stub, 3)
    draining = stub.DrainWorker(router_pb2.DrainWorkerRequest(worker_id="slm-0"))
    await draining.read()
    draining.cancel()
    stack.slm.draining = False  # first announced while this router knows better; what follows is the same
    status = await all_ready(stub, 3)
    assert not any(each.draining for each in status.members)


async def test_one_that_is_gone_for_long_is_not_fed_where_the_other_drains(
    stack: Stack, announcer: Announcer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router_svc.workers.roster._GRACE_S", 0)  # its connection is closed at once
    await fleet(stack, 1, 2)
    await announcer.join(stack.slm, *stack.llms)
    router = await stack.router(**NOBODY, catch_up_tokens=8)
    stub = await stack.stub(router)
    await all_ready(stub, 3)
    reading = await Reading(stub, ask_for(policy=threshold(0.9999999), max_new_tokens=1500)).has(20)
    there = await until(lambda: next((each for each in stack.llms if each.num_streams), None))
    other = next(each for each in stack.llms if each is not there)
    other.draining = True
    await all_ready(stub, 2)
    await announcer.leave(there)
    await all_ready(stub, 1)
    assert not reading.is_over, "it was over before its worker was gone"
    answer = await reading
    assert (answer.error, answer.tokens) == (None, expected(stack, 1500, tau=0.9999999)[0])
    await check_kept(stub, answer)
