"""Parts of a stack are killed in the midst of an answer, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, Chunk, Event, Started, TrajectoryState
from rstitch.local.stack import Part
from rstitch.v1 import worker_pb2, worker_pb2_grpc
from tests.support.served import Pair

TAUS = (0.25, 0.35, 0.45)


async def free_pages(address: str) -> tuple[int, int]:
    async with grpc.aio.insecure_channel(address) as channel:
        info = await worker_pb2_grpc.WorkerServiceStub(channel).GetInfo(worker_pb2.GetInfoRequest())
    return info.capacity.num_free_pages, info.capacity.num_pages


def long_prompts(pair: Pair, count: int, num_tokens: int) -> list[tuple[list[int], float]]:
    """Prompts with a tau whose answers are long and change hands often."""
    rng = random.Random(11)
    found: list[tuple[list[int], float]] = []
    while len(found) < count:
        prompt, tau = [rng.randrange(5, 300) for _ in range(rng.randrange(2, 30))], rng.choice(TAUS)
        reference = pair.reference(prompt, tau, num_tokens)
        if len(reference) == num_tokens and len({token.model for token in reference}) == 2:
            found.append((prompt, tau))
    return found


class Both:
    """Two parts that are killed and restarted together."""

    def __init__(self, *parts: Part) -> None:
        self._parts = parts

    def kill(self) -> None:
        for part in self._parts:
            part.kill()

    def restart(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Part.restart, self._parts))


async def interrupted(
    events: AsyncIterator[Event], part: Part | Both, is_running: Callable[[str], Awaitable[bool]]
) -> Answer:
    """Reads an answer; once 20 tokens have come, kills a part, makes sure that the answer is not over, restarts it."""
    got: list[Event] = []
    killed = False
    async for event in events:
        got.append(event)
        if not killed and sum(len(item.tokens) for item in got if isinstance(item, Chunk)) >= 20:
            killed = True
            await asyncio.to_thread(part.kill)
            assert isinstance(got[0], Started)
            assert await is_running(got[0].session_id), "the answer was over before the part was killed"
            await asyncio.to_thread(part.restart)
    assert killed
    return Answer.of(got)


def runs_on(client: AsyncClient) -> Callable[[str], Awaitable[bool]]:
    """Asks the router whether it still writes an answer."""

    async def is_running(session_id: str) -> bool:
        return (await client.trajectory(session_id)).state is TrajectoryState.RUNNING

    return is_running
