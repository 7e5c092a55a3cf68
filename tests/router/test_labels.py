"""Labels of answers: on a real Redis, by the store and through the wire."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from router_svc.trajectory import keys
from router_svc.trajectory.listing import Cursor
from router_svc.trajectory.store import Owned, TrajectoryStore
from router_svc.trajectory.types import Chunk, FinishReason, Label, Source, State
from router_svc.trajectory.usage import Usage
from rstitch.v1 import router_pb2 as pb
from tests.support.asking import Reading, ask_for, refused, stored, take, threshold, until
from tests.support.toy_stack import Stack
from tests.support.trajectories import begun, beside, chunk


async def finished(store: TrajectoryStore, session: str) -> None:
    owned = await begun(store, session=session)
    await store.append(session, owned, 3, [chunk(Source.SLM, 3, 4)], Usage(), State.FINISHED, FinishReason.STOP)


async def listed(store: TrajectoryStore, num: int, before: Cursor | None = None) -> list[str]:
    found = []
    while True:
        headers, before = await store.page(num, before, labelled=True)
        assert len(headers) <= num
        found += [header.session_id for header in headers]
        if before is None:
            return found


def request(session_id: str, label: int) -> pb.LabelTrajectoryRequest:
    return pb.LabelTrajectoryRequest(session_id=session_id, label=label)  # type: ignore[arg-type]


async def test_a_label_is_kept_and_taken_back(store: TrajectoryStore) -> None:
    await finished(store, "s")
    before = await store.header("s")
    assert before is not None
    for label in (Label.RIGHT, Label.WRONG, None, None, Label.WRONG):
        assert await store.label("s", label) is State.FINISHED
        header = await store.header("s")
        assert header is not None
        assert header.label is label
        assert header.updated_ms == before.updated_ms
        assert await listed(store, 10) == (["s"] if label else [])
    await store.delete("s")
    assert await listed(store, 10) == []
    assert await store.label("s", Label.RIGHT) is None


async def test_only_a_finished_answer_is_labelled_and_the_next_begins_without(store: TrajectoryStore) -> None:
    owned = await begun(store)
    assert await store.label("s", Label.RIGHT) is State.RUNNING
    await store.append("s", owned, 3, [chunk(Source.SLM, 3, 4)], Usage(), State.INTERRUPTED)
    assert await store.label("s", Label.RIGHT) is State.INTERRUPTED
    again = await store.claim(await store.header("s"), "s", "a", "settings", Usage(), [])
    await store.append("s", again, 4, [chunk(Source.SLM, 4, 5)], Usage(), State.FINISHED, FinishReason.STOP)  # type: ignore[arg-type]
    assert await store.label("s", Label.RIGHT) is State.FINISHED
    await store.claim(await store.header("s"), "s", "a", "settings", Usage(), [chunk(Source.PROMPT, 5, 6)])
    header = await store.header("s")
    assert header is not None
    assert header.label is None
    assert await listed(store, 10) == []


@pytest.mark.parametrize("prompt", [[chunk(Source.PROMPT, 4, 6)], []], ids=["asked", "continued"])
async def test_beside_a_router_that_knows_no_labels_the_next_answer_begins_without(
    store: TrajectoryStore, redis_url: str, prompt: list[Chunk]
) -> None:
    """Its claim drops none; while it writes and afterwards the label is of another answer."""
    await finished(store, "s")
    await store.label("s", Label.RIGHT)
    async with Redis.from_url(redis_url) as client:
        label = await labels_of(client)
        assert label
        owned = await store.claim(await store.header("s"), "s", "a", "settings", Usage(), prompt)
        assert isinstance(owned, Owned)
        assert await labels_of(client) == {}
        # As an older router's claim would have left it.
        await client.hset(keys.trajectory("s"), mapping=label)
        await client.zadd(keys.of_session("s").labelled, {"s": 2000000000000})
    length = 4 + len(prompt)
    for state in (State.RUNNING, State.FINISHED):
        header = await store.header("s")
        assert header is not None
        assert header.label is None
        assert await listed(store, 10) == []
        await store.append("s", owned, length, [chunk(Source.SLM, length, 7)], Usage(), state, FinishReason.STOP)
        length += 1
    header = await store.header("s")
    assert header is not None
    assert (header.state, header.label) == (State.FINISHED, None)
    assert await listed(store, 10) == []
    assert await store.label("s", Label.WRONG) is State.FINISHED
    assert await listed(store, 10) == ["s"]


async def labels_of(client: Redis) -> dict[Any, Any]:
    header = await client.hgetall(keys.trajectory("s"))
    return {name: value for name, value in header.items() if b"label" in name}


async def test_a_label_and_the_next_answer_at_once_never_meet(store: TrajectoryStore) -> None:
    """Whichever comes first: an answer that has begun is without one."""
    outcomes: Counter[State | None] = Counter()
    for index in range(20):
        name = f"s{index}"
        await finished(store, name)
        header = await store.header(name)
        claim = store.claim(header, name, "a", "settings", Usage(), [chunk(Source.PROMPT, 4, 6)])
        tries = [store.label(name, Label.RIGHT), claim]
        results = await asyncio.gather(*(tries if index % 2 else reversed(tries)))
        outcomes[results[0 if index % 2 else 1]] += 1  # type: ignore[index]
        after = await store.header(name)
        assert after is not None
        assert (after.state, after.label) == (State.RUNNING, None)
    assert await listed(store, 3) == []
    assert outcomes.keys() <= {State.FINISHED, State.RUNNING}


async def test_a_page_of_labelled_ones_reads_no_others(store: TrajectoryStore, redis_url: str) -> None:
    names = [f"s{number:02}" for number in range(30)]
    for name in names:
        await finished(store, name)
    async with Redis.from_url(redis_url) as client:
        # All at one time: the order is then that of the names, and pages begin in the midst of it.
        for name in names:
            await client.hset(keys.trajectory(name), "updated", 2000000000000)
        for name in names[::3]:
            await store.label(name, Label.RIGHT)
        await store.delete("s09")
        await store.label("s12", None)
        expected = [name for name in reversed(names[::3]) if name not in ("s09", "s12")]
        for num in (1, 3, 8, 100):
            assert await listed(store, num) == expected
        await client.config_resetstat()
        await store.page(2, None, labelled=True)
        commands: Any = await client.info("commandstats")
    assert commands["cmdstat_hgetall"]["calls"] == 2


async def test_what_has_expired_leaves_the_index(store: TrajectoryStore, redis_url: str) -> None:
    await finished(store, "old")
    await store.label("old", Label.RIGHT)
    async with Redis.from_url(redis_url) as client:
        assert 0 < await client.pttl(keys.trajectory("old")) <= 50_000
        await client.pexpire(keys.trajectory("old"), 1)

        async def forgotten() -> bool:
            return not await client.exists(keys.trajectory("old"))

        await until(forgotten)
        assert await listed(store, 1) == []
        its, new = keys.of_session("old"), beside("old")
        for index in (its.listing, its.labelled):
            await client.zadd(index, {"old": 1}, xx=True)  # it ended long ago
        await begun(store, session=new)
        assert await client.zrange(its.labelled, 0, -1) == []
        assert await client.zrange(its.listing, 0, -1) == [new.encode()]


async def test_an_index_ends_behind_the_last_that_it_names(store: TrajectoryStore, redis_url: str) -> None:
    """Nobody may come any more whose claim would tidy it."""
    its = keys.of_session("s")
    async with Redis.from_url(redis_url) as client:
        await finished(store, "s")
        assert 50_000 < await client.pttl(its.listing) <= 100_000
        await store.label("s", Label.RIGHT)
        left = await client.pttl(its.trajectory)
        assert left - 1000 < await client.pttl(its.labelled) <= left
        await client.pexpire(its.trajectory, 10_000)  # as if it were older than the next one
        await finished(store, other := beside("s"))
        for name in (other, "s"):
            await store.label(name, Label.WRONG)
            assert 40_000 < await client.pttl(its.labelled) <= 50_000


async def test_labels_through_the_wire(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    answers = [
        await take(stub, ask_for((7, 8, 9 + index), policy=threshold(0.5), max_new_tokens=9)) for index in range(5)
    ]
    ids = [answer.session_id for answer in answers]
    await stub.LabelTrajectory(request(ids[1], pb.LABEL_RIGHT))
    await stub.LabelTrajectory(request(ids[3], pb.LABEL_WRONG))
    assert (await stored(stub, ids[1])).label == pb.LABEL_RIGHT
    assert (await stored(stub, ids[0])).label == pb.LABEL_UNSPECIFIED
    first = await stub.ListTrajectories(pb.ListTrajectoriesRequest(page_size=1, labelled=True))
    assert [(t.session_id, t.label) for t in first.trajectories] == [(ids[3], pb.LABEL_WRONG)]
    rest = pb.ListTrajectoriesRequest(page_size=1, page_token=first.next_page_token, labelled=True)
    second = await stub.ListTrajectories(rest)
    assert [(t.session_id, t.label) for t in second.trajectories] == [(ids[1], pb.LABEL_RIGHT)]
    assert not second.next_page_token
    assert len((await stub.ListTrajectories(pb.ListTrajectoriesRequest())).trajectories) == 5
    await take(stub, ask_for((5,), session_id=ids[3], policy=threshold(0.5), max_new_tokens=5))
    assert (await stored(stub, ids[3])).label == pb.LABEL_UNSPECIFIED


@pytest.mark.parametrize(
    ("asked", "code", "field"),
    [
        (request("nobody", pb.LABEL_RIGHT), grpc.StatusCode.NOT_FOUND, "session_id"),
        (request("", pb.LABEL_RIGHT), grpc.StatusCode.INVALID_ARGUMENT, "session_id"),
        (request("s", 7), grpc.StatusCode.INVALID_ARGUMENT, "label"),
    ],
)
async def test_what_cannot_be_labelled_is_refused(
    stack: Stack, asked: pb.LabelTrajectoryRequest, code: grpc.StatusCode, field: str
) -> None:
    stub = await stack.stub(await stack.router())
    error = await refused(stub.LabelTrajectory(asked))
    assert (error.code, error.field) == (code, field)
    assert error.remedy


async def test_an_answer_that_is_being_written_has_no_label_yet(stack: Stack) -> None:
    stack.slm.delay_s = stack.llm.delay_s = 0.01
    stub = await stack.stub(await stack.router())
    reading = await Reading(stub, ask_for(session_id="s", policy=threshold(0.5), max_new_tokens=500)).has(3)
    error = await refused(stub.LabelTrajectory(request("s", pb.LABEL_RIGHT)))
    assert (error.code, error.reason, error.field) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "ANSWER_NOT_FINISHED",
        "session_id",
    )
    assert "resume_from" in (error.remedy or "")
    assert not reading.is_over
    await stub.DeleteTrajectory(pb.DeleteTrajectoryRequest(session_id="s"))
    await reading
