"""The store against a real Redis: fences, repeats, expiry, pages."""

from __future__ import annotations

import asyncio
import random
from urllib.parse import urlsplit

import grpc
import pytest
from redis.asyncio import Redis

from router_svc.trajectory import keys
from router_svc.trajectory.errors import Behind
from router_svc.trajectory.store import TrajectoryStore
from router_svc.trajectory.types import (
    Source,
    joined_tokens,
)
from router_svc.trajectory.usage import Usage
from rstitch.errors import RstitchError
from storage.redis_address import RedisAddress, without_password
from tests.support.asking import until
from tests.support.flaky_proxy import FlakyProxy
from tests.support.trajectories import begun, beside, chunk


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
        listing, new = keys.of_session("old").listing, beside("old")
        await client.zadd(listing, {"old": 1}, xx=True)  # it ended long ago
        await begun(store, session=new)
        assert await client.zrange(listing, 0, -1) == [new.encode()]


async def test_pages_do_not_repeat_or_skip_equal_times(store: TrajectoryStore, redis_url: str) -> None:
    names = [f"s{number:02}" for number in range(23)]
    for name in names:
        await begun(store, session=name)
    async with Redis.from_url(redis_url) as client:
        for name in names:
            await client.zadd(keys.of_session(name).listing, {name: 2000000000000})
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
