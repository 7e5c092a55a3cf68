"""Writes that share a round trip: in order, in groups of a bounded size, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from router_svc.trajectory.group_commit import GroupCommit
from tests.support.asking import until


async def test_what_waits_goes_out_in_order_in_groups_of_a_bounded_size() -> None:
    groups: list[list[int]] = []

    async def send(items: list[int]) -> Sequence[int | Exception]:
        groups.append(items)
        await asyncio.sleep(0)
        return [-item for item in items]

    commit = GroupCommit(send, max_group=4)
    assert await asyncio.gather(*(commit(item) for item in range(10))) == [-item for item in range(10)]
    assert groups == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert await commit(10) == -10


async def test_a_call_that_fails_is_told_to_its_group_and_the_next_goes_on() -> None:
    async def send(items: list[int]) -> Sequence[int | Exception]:
        if 0 in items:
            raise ConnectionError("away")
        return [ValueError(str(item)) if item == 3 else item for item in items]

    commit = GroupCommit(send, max_group=2)
    results = await asyncio.gather(*(commit(item) for item in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError, ConnectionError, int, ValueError, int]


async def test_who_leaves_harms_nobody() -> None:
    go_on = asyncio.Event()
    sent: list[int] = []

    async def send(items: list[int]) -> Sequence[int | Exception]:
        sent.extend(items)
        await go_on.wait()
        return items

    commit = GroupCommit(send, max_group=2)
    tasks = [asyncio.create_task(commit(item)) for item in range(5)]
    await until(lambda: sent)
    for left in (0, 3):  # one under way, one that waits
        tasks[left].cancel()
    go_on.set()
    assert await asyncio.gather(*(tasks[index] for index in (1, 2, 4))) == [1, 2, 4]
    assert sent == [0, 1, 2, 4]
    for left in (0, 3):
        with pytest.raises(asyncio.CancelledError):
            await tasks[left]


async def test_who_cannot_take_a_result_holds_up_nobody() -> None:
    async def send(items: list[int]) -> Sequence[int | Exception]:
        return items[:-1] if 9 in items else items

    def refuses(_: int | Exception) -> None:
        raise ValueError("a bug")

    commit = GroupCommit(send, max_group=2)
    commit.submit(0, refuses)
    async with asyncio.timeout(10):
        assert await asyncio.gather(*(commit(item) for item in range(1, 5))) == [1, 2, 3, 4]
        with pytest.raises(RuntimeError, match="0 results for 1"):
            await commit(9)
        assert await commit(5) == 5
