"""The store against a real Redis: fences, repeats, expiry, pages; and the order in which the journal writes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from router_svc.trajectory import keys
from router_svc.trajectory.errors import Behind, Fenced
from router_svc.trajectory.journal import Journal
from router_svc.trajectory.redis_link import without_password
from router_svc.trajectory.store import Owned, OwnedElsewhere, TrajectoryStore
from router_svc.trajectory.types import (
    Chunk,
    FinishReason,
    Source,
    State,
    SwitchReason,
    entropies_of,
    joined,
    joined_tokens,
    tokens_of,
)
from router_svc.trajectory.usage import Usage
from rstitch.errors import RstitchError
from tests.support.asking import until


def chunk(source: Source, position: int, *tokens: int, reason: SwitchReason = SwitchReason.NONE) -> Chunk:
    entropies = [] if source is Source.PROMPT else [0.1] * len(tokens)
    return Chunk(source, position, tokens_of(tokens), entropies_of(entropies), reason, 0.75 if reason else 0.0)


PROMPT = chunk(Source.PROMPT, 0, 1, 2, 2**32 - 1)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[TrajectoryStore]:
    made = TrajectoryStore(redis_url, ttl_s=50, patience_s=1)
    yield made
    await made.close()


async def begun(store: TrajectoryStore, router: str = "a", session: str = "s") -> Owned:
    claimed = await store.claim(None, session, router, "settings", Usage(num_prompt_tokens=3), [PROMPT])
    assert isinstance(claimed, Owned)
    return claimed


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


async def test_value_and_expiry_are_written_together_and_the_index_is_tidied(redis_url: str) -> None:
    store = TrajectoryStore(redis_url, ttl_s=0.3, patience_s=1)
    async with Redis.from_url(redis_url) as client:
        await begun(store, session="old")
        for key in (keys.trajectory("old"), keys.chunks("old")):
            assert 0 < await client.pttl(key) <= 300

        async def forgotten() -> bool:
            return not await client.exists(keys.trajectory("old"), keys.chunks("old"))

        await until(forgotten)
        assert await store.trajectory("old") is None
        assert await store.page(10, None) == ([], None)
        await begun(store, session="new")
        assert await client.zrange(keys.INDEX, 0, -1) == [b"new"]
    await store.close()


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


class Recorder:
    """What the journal has shown."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    def show(self, chunks: list[Chunk]) -> None:
        self.chunks += chunks


async def test_only_what_is_stored_is_shown_and_a_late_hand_over_is_not_stored(store: TrajectoryStore) -> None:
    owned = await begun(store)
    seen = Recorder()
    usage = Usage(num_prompt_tokens=3)
    journal = Journal(store, "s", owned, 3, usage, seen.show)
    usage.num_slm_tokens = 1
    journal.add(chunk(Source.SLM, 3, 4), usage)
    usage.num_switches, usage.num_discarded_proposals = 1, 1
    journal.add(chunk(Source.LLM, 4, reason=SwitchReason.ENTROPY_ABOVE), usage)
    assert not seen.chunks
    await journal.interrupt()
    assert seen.chunks == [chunk(Source.SLM, 3, 4)]
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert trajectory.header.state is State.INTERRUPTED
    assert trajectory.header.usage == dataclasses.replace(usage, num_switches=0, num_discarded_proposals=0)
    assert list(trajectory.chunks) == [PROMPT, chunk(Source.SLM, 3, 4)]


async def test_what_comes_while_redis_is_busy_is_stored_in_one_entry(store: TrajectoryStore) -> None:
    owned = await begun(store)
    seen = Recorder()
    journal = Journal(store, "s", owned, 3, Usage(), seen.show)
    for position in range(3, 300):
        journal.add(chunk(Source.SLM, position, position), Usage())
    await journal.room()
    await journal.finish(FinishReason.LENGTH, Usage())
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert list(joined_tokens(trajectory.chunks[1:])) == list(range(3, 300)) == list(joined_tokens(seen.chunks))
    assert len(trajectory.chunks) < 5


async def test_what_redis_lost_is_written_again(store: TrajectoryStore, redis_url: str) -> None:
    """A Redis that crashed may come back without the last appends."""
    owned = await begun(store)
    seen = Recorder()
    journal = Journal(store, "s", owned, 3, Usage(), seen.show)
    written = [
        chunk(Source.SLM, 3, 4, 5),
        chunk(Source.LLM, 5, 6, 7, reason=SwitchReason.ENTROPY_ABOVE),
        chunk(Source.SLM, 7, reason=SwitchReason.ENTROPY_BELOW),
        chunk(Source.LLM, 7, 8, reason=SwitchReason.ENTROPY_ABOVE),
        chunk(Source.LLM, 8, 9),
    ]
    for piece in written[:4]:
        journal.add(piece, Usage())
        if piece.tokens:
            await until(lambda end=piece.end: len(joined_tokens(seen.chunks)) == end - 3)
    async with Redis.from_url(redis_url) as client:
        for entry, _ in (await client.xrange(keys.chunks("s")))[2:]:
            await client.xdel(keys.chunks("s"), entry)
        await client.hset(keys.trajectory("s"), "length", 5)
    journal.add(written[4], Usage())
    await journal.finish(FinishReason.LENGTH, Usage())
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert list(joined_tokens(trajectory.chunks)) == [1, 2, 2**32 - 1, 4, 5, 6, 7, 8, 9]
    assert joined(trajectory.chunks) == [PROMPT, *joined(written)]
    assert list(joined_tokens(seen.chunks)) == [4, 5, 6, 7, 8, 9]


async def test_a_trajectory_that_is_not_whole_is_not_given_out(store: TrajectoryStore, redis_url: str) -> None:
    """A Redis that is told to evict keys may keep the header and drop the tokens."""
    await begun(store)
    async with Redis.from_url(redis_url) as client:
        await client.delete(keys.chunks("s"))
    with pytest.raises(RstitchError) as caught:
        await store.trajectory("s")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DATA_LOSS, "TRAJECTORY_LOST")
    assert "noeviction" in (caught.value.remedy or "")


async def test_what_was_stored_without_a_reply_is_not_lost(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The append is done, but Redis stays away for longer than the patience; meanwhile more tokens come."""
    owned = await begun(store)
    seen = Recorder()
    inner = store.append
    replies = [RstitchError(grpc.StatusCode.UNAVAILABLE, "REDIS_UNAVAILABLE", "away"), None, None]

    async def lossy(*arguments: Any) -> None:
        await inner(*arguments)
        if (error := replies.pop(0)) is not None:
            raise error

    monkeypatch.setattr(store, "append", lossy)
    journal = Journal(store, "s", owned, 3, Usage(), seen.show)
    written = [
        chunk(Source.SLM, 3, 4, 5),
        chunk(Source.LLM, 5, reason=SwitchReason.ENTROPY_ABOVE),
        chunk(Source.LLM, 5, 6),
    ]
    journal.add(written[0], Usage())
    await asyncio.wait({journal.task})
    for piece in written[1:]:
        journal.add(piece, Usage())
    await journal.interrupt(1.0)
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert joined(trajectory.chunks) == [PROMPT, *joined(written)]
    assert trajectory.header.state is State.INTERRUPTED
    assert joined(seen.chunks) == joined(written)


async def test_what_nobody_has_any_more_is_said_to_be_lost(store: TrajectoryStore, redis_url: str) -> None:
    owned = await begun(store)
    journal = Journal(store, "s", owned, 3, Usage(), Recorder().show)
    async with Redis.from_url(redis_url) as client:
        await client.hset(keys.trajectory("s"), "length", 1)
    journal.add(chunk(Source.SLM, 3, 4), Usage())
    with pytest.raises(RstitchError) as caught:
        await journal.task
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DATA_LOSS, "TRAJECTORY_LOST")


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
    store: TrajectoryStore, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"s{index}" for index in range(6)]
    owned = {name: await begun(store, session=name) for name in names}
    inner, calls = store._append, []

    async def counted(**call: Any) -> Any:
        calls.append(len(call["keys"]) // 2)
        return await inner(**call)

    monkeypatch.setattr(store, "_append", counted)
    async with Redis.from_url(redis_url) as client:
        await client.set(keys.chunks("s0"), "not a stream")
        await client.hset(keys.trajectory("s1"), "epoch", 9)
        await client.hset(keys.trajectory("s2"), "length", 1)
        await client.delete(keys.trajectory("s3"))
    results = await asyncio.gather(
        *(store.append(name, owned[name], 3, [chunk(Source.SLM, 3, 4)], Usage()) for name in names),
        return_exceptions=True,
    )
    assert calls == [6]
    reasons = [getattr(result, "reason", None) for result in results]
    assert reasons == ["REDIS_REFUSED", "TAKEN_OVER", None, "DELETED", None, None]
    assert isinstance(results[2], Behind)
    assert results[4:] == [None, None]
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


async def test_a_lost_reply_is_found_out(store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The append is done but its reply is lost; the retry finds it done."""
    owned = await begun(store)
    inner = store._append
    lost = [True, False, True, False]

    async def lossy(**call: Any) -> Any:
        reply = await inner(**call)
        if lost.pop(0):
            raise ConnectionResetError("lost")
        return reply

    monkeypatch.setattr(store, "_append", lossy)
    await store.append("s", owned, 3, [chunk(Source.SLM, 3, 4)], Usage())
    await store.append("s", owned, 4, [chunk(Source.SLM, 4, 5)], Usage())
    trajectory = await store.trajectory("s")
    assert trajectory is not None
    assert list(joined_tokens(trajectory.chunks)) == [1, 2, 2**32 - 1, 4, 5]
