"""The journal against a real Redis: nothing is shown before it is stored, and what Redis lost is written again."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from router_svc.trajectory import keys
from router_svc.trajectory.journal import Journal
from router_svc.trajectory.store import TrajectoryStore
from router_svc.trajectory.types import (
    FinishReason,
    Source,
    State,
    SwitchReason,
    joined,
    joined_tokens,
)
from router_svc.trajectory.usage import Usage
from rstitch.errors import RstitchError
from storage.redis_link import Script
from tests.support.asking import until
from tests.support.trajectories import PROMPT, Recorder, begun, chunk


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


async def test_what_was_stored_without_a_reply_is_not_lost(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The append is done, but Redis stays away for longer than the patience; meanwhile more tokens come."""
    owned = await begun(store)
    seen = Recorder()
    inner = Script._call
    num_lost = 0

    async def lossy(script: Script, *arguments: Any) -> Any:
        nonlocal num_lost
        reply = await inner(script, *arguments)
        if not is_back:
            num_lost += 1
            raise ConnectionError("away")
        return reply

    is_back = False
    monkeypatch.setattr(Script, "_call", lossy)
    journal = Journal(store, "s", owned, 3, Usage(), seen.show)
    written = [
        chunk(Source.SLM, 3, 4, 5),
        chunk(Source.LLM, 5, reason=SwitchReason.ENTROPY_ABOVE),
        chunk(Source.LLM, 5, 6),
    ]
    journal.add(written[0], Usage())
    await asyncio.wait({journal.task})
    assert isinstance(journal.task.exception(), RstitchError)
    assert num_lost > 1, "it was tried again"
    is_back = True
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


def test_a_usage_that_a_newer_router_counted_is_read() -> None:
    kept = Usage(num_prompt_tokens=3).as_dict()
    kept |= {"num_of_tomorrow": 1, "breakdown": kept["breakdown"] | {"place_of_tomorrow_us": 1}}
    assert Usage.from_dict(kept) == Usage(num_prompt_tokens=3)


async def test_what_cannot_be_sent_ends_its_journal_and_keeps_nobody_waiting(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Recorder()
    first, second = [Journal(store, name, await begun(store, session=name), 3, Usage(), seen.show) for name in "st"]
    sends = store.append_once

    def refuses(*args: Any) -> None:
        raise ValueError("a bug")

    async with asyncio.timeout(10):
        first.add(chunk(Source.SLM, 3, 4), Usage())
        first.add(chunk(Source.SLM, 4, 5), Usage())  # goes once the first is stored
        monkeypatch.setattr(store, "append_once", refuses)
        with pytest.raises(ValueError, match="a bug"):
            second.add(chunk(Source.SLM, 3, 4), Usage())
        with pytest.raises(ValueError, match="a bug"):
            await first.task
        monkeypatch.setattr(store, "append_once", sends)
        await second.interrupt()
        await first.interrupt()
    assert sorted(joined_tokens(seen.chunks)) == [4, 4, 5]
