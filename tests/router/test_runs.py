"""Who follows a run gets all of it in order, whether at once or when its task has its turn."""

from __future__ import annotations

import asyncio

import pytest

from router_svc.workers.runs import PendingRun, Reply, RunEnd, RunFinish

_END = RunFinish(RunEnd.LENGTH, 9, None, 0, 0, 0, 0, 0)


def reply(*tokens: int, finish: RunFinish | None = None) -> Reply:
    return Reply(list(tokens), [0.5] * len(tokens), finish)


async def awaited(run: PendingRun) -> asyncio.Task[Reply]:
    """A task that awaits the run's next reply."""
    task = asyncio.create_task(run.next())
    await asyncio.sleep(0)
    return task


async def test_a_reply_is_taken_at_once_where_it_is_awaited() -> None:
    run, early = PendingRun(0), list[int]()

    def take(told: Reply) -> Reply | None:
        early.extend(told.tokens)
        return reply() if 3 in told.tokens else None

    run.early = take
    run.feed(reply(1))  # nobody awaits it yet
    assert not early
    assert (await run.next()).tokens == [1]
    task = await awaited(run)
    run.feed(reply(2))
    assert early == [2]
    await asyncio.sleep(0)
    assert not task.done(), "there is nothing to do for it"
    run.feed(reply(3))
    run.feed(reply(4))  # the task is on its way: it gets what comes
    assert early == [2, 3]
    assert (await task).tokens == [4]


async def test_the_last_reply_is_for_the_task() -> None:
    run = PendingRun(0)
    run.early = lambda _: pytest.fail("it was to be left alone")
    task = await awaited(run)
    run.feed(reply(5, finish=_END))
    told = await task
    assert told.tokens == [5]
    assert told.finish is run.finish is _END


async def test_what_goes_wrong_at_once_is_raised_to_the_task() -> None:
    run = PendingRun(0)

    def take(_: Reply) -> None:
        raise ValueError("of ours")

    run.early = take
    task = await awaited(run)
    run.feed(reply(1))
    with pytest.raises(ValueError, match="of ours"):
        await task
