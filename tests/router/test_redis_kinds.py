"""Whole routers under a Sentinel and on a cluster: all that they do, and answers under which a primary dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from router_svc.trajectory import keys
from router_svc.trajectory.store import TrajectoryStore
from router_svc.trajectory.types import Chunk, Source, entropies_of, tokens_of
from router_svc.trajectory.usage import Usage
from rstitch.client.aio import AsyncClient
from storage.confirming import Confirming
from storage.redis_address import RedisAddress
from tests.support.all_calls import all_that_a_router_does
from tests.support.asking import Reading, ask_for, check_kept, take, threshold
from tests.support.endless import endless, expected, glued, resume
from tests.support.redis_cluster import ClusterProcesses
from tests.support.redis_kinds import flushed_url
from tests.support.redis_sentinel import SentinelProcesses
from tests.support.toy_stack import Stack


@pytest.fixture
async def anywhere(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    """Toy workers beside a Redis of the kind that the parameter names."""
    made = Stack(flushed_url(request))
    await made.slm.start()
    await made.llm.start()
    yield made
    await made.close()


@pytest.fixture
def sentinels(sentinel_redis: SentinelProcesses) -> Iterator[SentinelProcesses]:
    """Whoever kills the primary leaves two servers to the next."""
    yield sentinel_redis
    for server in sentinel_redis.dead:
        sentinel_redis.bring_back(server)


@pytest.mark.parametrize("anywhere", ["sentinel", "cluster"], indirect=True)
async def test_all_that_a_router_does(anywhere: Stack) -> None:
    router = await anywhere.router()
    async with AsyncClient(f"127.0.0.1:{router.port}") as client:
        await client.wait_ready(10)
        await all_that_a_router_does(client)


@pytest.mark.parametrize("anywhere", ["cluster"], indirect=True)
async def test_sessions_are_spread_and_any_router_goes_on_with_them(
    anywhere: Stack, cluster_redis: ClusterProcesses
) -> None:
    endless(anywhere)
    routers = [await anywhere.router(lease_s=30), await anywhere.router(lease_s=30)]
    stubs = [await anywhere.stub(router) for router in routers]
    readings = [
        Reading(stubs[0], ask_for(session_id=f"s{number}", policy=threshold(0.5), max_new_tokens=80))
        for number in range(8)
    ]
    for reading in readings:
        await reading.has(20)
    of_nodes = cluster_redis.keys()
    assert len(of_nodes) == 3
    for names in of_nodes.values():
        assert any(":chunks:" in name for name in names)
    await routers[0].sessions.drain()
    anywhere.slm.delay_s = anywhere.llm.delay_s = 0
    for answer in [await reading for reading in readings]:
        rest = await take(stubs[1], resume(answer))
        assert glued(answer, rest).tokens == expected(anywhere, 80)[0]
        await check_kept(stubs[1], answer)


@pytest.mark.parametrize("anywhere", ["sentinel"], indirect=True)
@pytest.mark.parametrize("redis_wait", ["0", "1:50"])
async def test_answers_under_which_the_primary_dies_are_those_of_an_undisturbed_run(
    anywhere: Stack, sentinels: SentinelProcesses, redis_wait: str
) -> None:
    """It dies as by SIGKILL while several are being written; what it had not passed on the router writes again."""
    endless(anywhere)
    sentinels.wait_for_replica()  # it has the beginnings of the answers within milliseconds
    router = await anywhere.router(redis_patience_s=30.0, redis_wait=redis_wait)
    stub = await anywhere.stub(router)
    readings = [Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=300)) for _ in range(3)]
    for reading in readings:
        await reading.has(40)
    assert not any(reading.is_over for reading in readings)
    dead = sentinels.kill_primary()
    answers = [await reading for reading in readings]
    assert sentinels.primary is not dead
    for answer in answers:
        assert answer.error is None
        assert (answer.tokens, answer.authors) == expected(anywhere, 300)
        await check_kept(stub, answer)


async def test_a_claim_is_done_when_a_replica_has_it(sentinels: SentinelProcesses) -> None:
    """Else an answer that has begun could be unknown to the next primary, and to whoever re-attaches."""
    confirming = Confirming(1, 2000)
    address = RedisAddress(sentinels.url)
    store = TrajectoryStore(address, ttl_s=50, patience_s=20, confirming=confirming)
    prompt = Chunk(Source.PROMPT, 0, tokens_of([5, 6, 7]), entropies_of())
    sentinels.wait_for_replica()
    with redis.Redis(port=sentinels.replica.port) as replica:
        for number in range(20):
            assert await store.claim(None, f"s{number}", "me", "{}", Usage(), [prompt]) is not None
            assert int(replica.hget(keys.trajectory(f"s{number}"), "length") or 0) == 3
    assert confirming.num_unconfirmed == 0
    await store.close()


@pytest.mark.parametrize("anywhere", ["cluster"], indirect=True)
async def test_answers_wait_for_replicas_that_a_cluster_lacks(anywhere: Stack) -> None:
    """It has none: what nobody confirms is counted, and goes on."""
    router = await anywhere.router(redis_wait="1:1")
    answer = await take(await anywhere.stub(router), ask_for(policy=threshold(0.5), max_new_tokens=10))
    assert answer.error is None


@pytest.mark.parametrize("anywhere", ["sentinel"], indirect=True)
async def test_what_the_next_primary_never_got_is_written_again(anywhere: Stack, sentinels: SentinelProcesses) -> None:
    """The replica is behind by hundreds of tokens when it takes over; a client has long read them."""
    endless(anywhere)
    router = await anywhere.router(redis_patience_s=30.0)
    stub = await anywhere.stub(router)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=400)).has(20)
    sentinels.wait_for_replica()
    with redis.Redis(port=sentinels.replica.port) as replica:
        sentinels.cut_replica()
        await reading.has(len(reading.answer.tokens) + 100)
        length = int(replica.hget(keys.trajectory(reading.answer.session_id), "length") or 0)
        assert 3 < length < len(reading.answer.tokens) - 50, "hundreds of ms are missing"
        sentinels.kill_primary()
        answer = await reading
        assert replica.role()[0] == b"master"
    assert answer.error is None
    assert (answer.tokens, answer.authors) == expected(anywhere, 400)
    await check_kept(stub, answer)


@pytest.mark.slow
async def test_answers_on_a_cluster_under_which_a_primary_dies_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    """Its sessions wait for its replica; those of other primaries are not held up."""
    with ClusterProcesses(tmp_path, num_replicas=3) as cluster:
        stack = Stack(cluster.url)
        await stack.slm.start()
        await stack.llm.start()
        endless(stack)
        stub = await stack.stub(await stack.router(redis_patience_s=60.0))
        readings = {
            f"s{number}": Reading(stub, ask_for(session_id=f"s{number}", policy=threshold(0.5), max_new_tokens=200))
            for number in range(12)
        }
        for reading in readings.values():
            await reading.has(20)
        dead = cluster.primaries[0]
        held_up = {name.rpartition(":")[2] for name in cluster.keys()[dead.port] if ":chunks:" in name}
        assert 0 < len(held_up) < len(readings)
        cluster.hold_failovers(True)
        dead.stop()
        others = await asyncio.gather(*(reading for name, reading in readings.items() if name not in held_up))
        assert not any(reading.is_over for name, reading in readings.items() if name in held_up)
        cluster.hold_failovers(False)
        answers = [*others, *[await readings[name] for name in held_up]]
        for answer in answers:
            assert answer.error is None
            assert (answer.tokens, answer.authors) == expected(stack, 200)
            await check_kept(stub, answer)
        await stack.close()
