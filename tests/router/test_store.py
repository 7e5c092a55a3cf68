"""The store against a real Redis: fences, repeats, expiry, pages."""

from __future__ import annotations

import asyncio
import random
from urllib.parse import urlsplit

import grpc
import pytest
from redis.asyncio import Redis

from router_svc.trajectory import keys
from router_svc.trajectory.errors import Behind, Fenced
from router_svc.trajectory.store import Owned, OwnedElsewhere, TrajectoryStore
from router_svc.trajectory.types import (
    FinishReason,
    Source,
    State,
    SwitchReason,
    joined_tokens,
)
from router_svc.trajectory.usage import Usage
from rstitch.errors import RstitchError
from storage.redis_address import RedisAddress, without_password
from tests.support.asking import until
from tests.support.flaky_proxy import FlakyProxy
from tests.support.trajectories import PROMPT, begun, chunk


async def test_what_goes_in_comes_out(store: TrajectoryStore) -> None:
    owned = await begun(store)
    written = [chunk(Source.SLM, 3, 4, 5), chunk(Source.LLM, 5, 6, reason=SwitchReason.ENTROPY_ABOVE)]
    usage = Usage(num_prompt_tokens=3, num_slm_tokens=2, num_llm_tokens=1, num_switches=1)
    await store.append("s", owned, 3, written, usage, State.FINISHED, FinishReason.STOP)
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert list(trajectory.chunks) == [PROMPT, *written]
    header = trajectory.header
    assert (header.state, header.length, header.epoch, header.owner) == (State.FINISHED, 6, 1, "a")
    assert header.finished is not None
    assert (header.finished.reason, header.finished.usage) == (FinishReason.STOP, usage)
    assert await store.trajectory("other") is None


async def test_an_append_that_comes_twice_is_done_once(store: TrajectoryStore) -> None:
    owned = await begun(store)
    for _ in range(3):
        await store.append("s", owned, 3, [chunk(Source.SLM, 3, 4, 5)], Usage())
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert list(joined_tokens(trajectory.chunks)) == [1, 2, 2**32 - 1, 4, 5]


async def test_a_claim_that_comes_twice_is_done_once(store: TrajectoryStore) -> None:
    assert await begun(store) == await begun(store) == Owned(1, "a")
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert trajectory.header.length == 3


async def test_whoever_lost_the_session_writes_nothing(store: TrajectoryStore) -> None:
    owned = await begun(store, "a")
    await store.renew("a", 0.1)
    header = await store.header("s")
    other = await store.claim(header, "s", "b", "settings", Usage(), [])
    assert isinstance(other, OwnedElsewhere)
    assert 0 < other.lease_ms <= 100
    await store.resign("a")
    assert await store.claim(header, "s", "b", "settings", Usage(), []) == Owned(2, "b")
    with pytest.raises(Fenced) as caught:
        await store.append("s", owned, 3, [chunk(Source.SLM, 3, 4)], Usage())
    assert caught.value.reason == "TAKEN_OVER"
    await store.append("s", Owned(2, "b"), 3, [chunk(Source.SLM, 3, 9)], Usage())
    await store.delete("s")
    with pytest.raises(Fenced) as caught:
        await store.append("s", Owned(2, "b"), 4, [chunk(Source.SLM, 4, 4)], Usage())
    assert caught.value.reason == "DELETED"


async def test_a_session_begun_anew_after_its_deletion_is_none_of_its_last_writer(store: TrajectoryStore) -> None:
    """The same id, epoch and length, but another trajectory."""
    last = await begun(store, "a")
    await store.delete("s")
    await begun(store, "b")
    with pytest.raises(Fenced) as caught:
        await store.append("s", last, 3, [chunk(Source.SLM, 3, 4)], Usage())
    assert caught.value.reason == "DELETED"
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert list(trajectory.chunks) == [PROMPT]


async def test_an_answer_that_was_interrupted_here_is_fenced_off_when_it_is_gone_on_with_here(
    store: TrajectoryStore,
) -> None:
    """The reply to its last word may have been lost; when that comes again, the answer is being written anew."""
    first = await begun(store)
    last_word = ("s", first, 3, [chunk(Source.SLM, 3, 4)], Usage(), State.INTERRUPTED)
    await store.append(*last_word)
    second = await store.claim(await store.header("s"), "s", "a", "settings", Usage(), [])
    assert second == Owned(2, "a")
    with pytest.raises(Fenced):
        await store.append(*last_word)
    header = await store.header("s")
    assert header is not None
    assert header.state is State.RUNNING


async def test_of_many_who_claim_at_once_one_wins(store: TrajectoryStore) -> None:
    await begun(store, "dead")
    header = await store.header("s")
    routers = [f"r{number}" for number in range(8)]
    await asyncio.gather(*(store.renew(router, 5) for router in routers))
    claims = [store.claim(header, "s", router, "settings", Usage(), []) for router in routers]
    outcomes = await asyncio.gather(*claims)
    assert sum(isinstance(outcome, Owned) for outcome in outcomes) == 1
    assert outcomes.count(None) == 7


async def test_value_and_expiry_are_written_together_and_the_index_is_tidied(
    store: TrajectoryStore, redis_url: str
) -> None:
    async with Redis.from_url(redis_url) as client:
        await begun(store, session="old")
        for key in (keys.trajectory("old"), keys.chunks("old")):
            assert 0 < await client.pttl(key) <= 50_000
            await client.pexpire(key, 1)

        async def forgotten() -> bool:
            return not await client.exists(keys.trajectory("old"), keys.chunks("old"))

        await until(forgotten)
        assert await store.trajectory("old") is None
        assert await store.page(10, None) == ([], None)
        await client.zadd(keys.INDEX, {"old": 1}, xx=True)  # it ended long ago
        await begun(store, session="new")
        assert await client.zrange(keys.INDEX, 0, -1) == [b"new"]


async def test_pages_do_not_repeat_or_skip_equal_times(store: TrajectoryStore, redis_url: str) -> None:
    names = [f"s{number:02}" for number in range(23)]
    for name in names:
        await begun(store, session=name)
    async with Redis.from_url(redis_url) as client:
        await client.zadd(keys.INDEX, dict.fromkeys(names, 2000000000000))
    await store.delete("s05")
    found, before = [], None
    while True:
        headers, before = await store.page(4, before)
        found += [header.session_id for header in headers]
        if before is None:
            break
    assert found == [name for name in reversed(names) if name != "s05"]


async def test_a_trajectory_that_is_not_whole_is_not_given_out(store: TrajectoryStore, redis_url: str) -> None:
    """A Redis that is told to evict keys may keep the header and drop the tokens."""
    await begun(store)
    async with Redis.from_url(redis_url) as client:
        await client.delete(keys.chunks("s"))
    with pytest.raises(RstitchError) as caught:
        await store.trajectory("s")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DATA_LOSS, "TRAJECTORY_LOST")
    assert "noeviction" in (caught.value.remedy or "")


async def test_a_redis_that_refuses_is_said_to(store: TrajectoryStore, redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        owned = await begun(store)
        await client.config_set("maxmemory", 1)
        try:
            with pytest.raises(RstitchError) as caught:
                await store.append("s", owned, 3, [chunk(Source.SLM, 3, 4)], Usage())
        finally:
            await client.config_set("maxmemory", 0)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "REDIS_REFUSED")
    assert caught.value.remedy


async def test_usage_of_an_older_router_is_read(store: TrajectoryStore, redis_url: str) -> None:
    await begun(store)
    async with Redis.from_url(redis_url) as client:
        await client.hset(keys.trajectory("s"), "usage", '{"num_prompt_tokens":3,"num_llm_tokens":2}')
    header = await store.header("s")
    assert header is not None
    assert header.usage == Usage(num_prompt_tokens=3, num_llm_tokens=2)


async def test_appends_of_many_sessions_share_a_call_and_none_harms_another(
    store: TrajectoryStore, redis_url: str
) -> None:
    names = [f"s{index}" for index in range(6)]
    owned = {name: await begun(store, session=name) for name in names}
    async with Redis.from_url(redis_url) as client:
        await client.set(keys.chunks("s0"), "not a stream")
        await client.hset(keys.trajectory("s1"), "epoch", 9)
        await client.hset(keys.trajectory("s2"), "length", 1)
        await client.delete(keys.trajectory("s3"))
        await client.config_resetstat()
        results = await asyncio.gather(
            *(store.append(name, owned[name], 3, [chunk(Source.SLM, 3, 4)], Usage()) for name in names),
            return_exceptions=True,
        )
        commands = await client.info("commandstats")
    # Whether Redis knew the script or not, it ran once.
    assert commands.get("cmdstat_eval", commands.get("cmdstat_evalsha"))["calls"] == 1
    reasons = [getattr(result, "reason", None) for result in results]
    assert reasons == ["REDIS_REFUSED", "TAKEN_OVER", None, "DELETED", None, None]
    assert isinstance(results[2], Behind)
    assert results[4:] == [False, False]
    for name in names[4:]:
        trajectory = await store.trajectory(name)
        assert trajectory is not None
        assert list(joined_tokens(trajectory.chunks)) == [1, 2, 2**32 - 1, 4]


async def test_a_script_that_redis_forgot_and_a_connection_that_died_are_no_errors(
    store: TrajectoryStore, redis_url: str
) -> None:
    owned = await begun(store)
    await store.append("s", owned, 3, [chunk(Source.SLM, 3, 4)], Usage())
    async with Redis.from_url(redis_url) as client:
        await client.script_flush()
        await store.append("s", owned, 4, [chunk(Source.SLM, 4, 5)], Usage())
        await client.client_kill_filter(_type="normal", skipme=True)
    await store.append("s", owned, 5, [chunk(Source.SLM, 5, 6)], Usage())
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert list(joined_tokens(trajectory.chunks)) == [1, 2, 2**32 - 1, 4, 5, 6]


def test_a_password_is_not_shown() -> None:
    assert without_password("redis://user:secret@host:1/0") == "redis://user:***@host:1/0"
    assert without_password("redis://:secret@host:1/0") == "redis://:***@host:1/0"
    assert without_password("redis://host:1/0") == "redis://host:1/0"


async def test_a_lost_reply_is_found_out(store: TrajectoryStore, redis_url: str) -> None:
    """Connections are cut in the midst of replies: the append is done then, and its repetition finds that."""
    rng = random.Random(1)
    with FlakyProxy(urlsplit(redis_url).netloc, lambda: rng.randrange(300, 700)) as proxy:
        cut_off = TrajectoryStore(RedisAddress(f"redis://{proxy.address}/0"), ttl_s=50, patience_s=10)
        owned = await begun(cut_off)
        for position in range(3, 203):
            await cut_off.append("s", owned, position, [chunk(Source.SLM, position, position)], Usage())
        await cut_off.close()
    assert proxy.num_connections > 3
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert list(joined_tokens(trajectory.chunks)) == [1, 2, 2**32 - 1, *range(3, 203)]
