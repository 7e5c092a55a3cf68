"""A storm over a fleet: its parts are killed, drained and failed over while many ask it, and each answer is checked."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import grpc
import httpx2

from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, Chunk, Started
from rstitch.errors import RstitchError
from rstitch.local.stack import LocalStack, Part
from tests.support.asking import until
from tests.support.conversations import Conversation, Held, Talk, worker_parts
from tests.support.lasting_stream import LastingStream
from tests.support.redis_sentinel import SentinelProcesses
from tests.support.served import written

# How often each is done, of a hundred.
_KINDS = {"kill worker": 36, "kill router": 14, "kill gateway": 10, "drain": 14, "cancel": 20, "fail over": 6}


class FleetStorm:
    """Conversations are held all the time by `num_talkers`, and questions asked over HTTP by `num_readers`.

    Whatever one of them is answered must be as undisturbed.

    Attributes:
        done: what was done to the fleet, by kind.
        num_answers: how many answers were compared.
        num_lost: how many streams over HTTP were cut off, and went on.
        slowest_s: the longest that a stream over gRPC brought nothing.
    """

    def __init__(
        self,
        stack: LocalStack,
        redis: SentinelProcesses,
        clients: Sequence[AsyncClient],
        conversations: Sequence[Conversation],
        seed: int,
    ) -> None:
        self.done: Counter[str] = Counter()
        self.num_answers = self.num_lost = 0
        self.slowest_s = 0.0
        self._stack = stack
        self._redis = redis
        self._clients = clients
        self._conversations = conversations
        self._rng = random.Random(seed)
        self._expected: dict[int, list[list[tuple[int, str]]]] = {}
        self._being_written: dict[str, int] = {}  # session ids of answers that may be cancelled, and how far they are
        self._to_cancel: set[str] = set()
        self._is_over = False

    async def blow(self, num_events: int, every_s: float, num_talkers: int = 5, num_readers: int = 2) -> None:
        """Does so many things to the fleet, one every so often, and checks all that is said meanwhile."""
        undisturbed = await Talk(self._clients, self._conversations, "undisturbed").hold()
        self._expected = {
            each.number: held.answers for each, held in zip(self._conversations, undisturbed, strict=True)
        }
        await self._forget(undisturbed)
        async with asyncio.TaskGroup() as group:
            for number in range(num_talkers):
                group.create_task(self._talk(number), name=f"talker-{number}")
            for number in range(num_readers):
                group.create_task(self._read(number), name=f"reader-{number}")
            for _ in range(num_events):
                began = time.monotonic()
                await self._disturb()
                await asyncio.sleep(max(0.0, every_s - (time.monotonic() - began)))
            self._is_over = True

    async def _talk(self, number: int) -> None:
        rng, turn = random.Random(number), 0
        while not self._is_over:
            conversation = rng.choice(self._conversations)
            held = Held(f"storm-{number}-{turn}")
            turn += 1
            for index in range(len(conversation.turns)):
                client = self._clients[rng.randrange(len(self._clients))]
                if not await self._ask(client, conversation, held, index):
                    break
                expected = self._expected[conversation.number][index]
                assert held.answers[-1] == expected, f"{held.session_id}, turn {index}: other tokens than undisturbed"
                self.num_answers += 1
            await self._forget([held])

    async def _read(self, number: int) -> None:
        """Reads answers over HTTP, each in a session of its own."""
        rng, turn, url = random.Random(-1 - number), 0, f"http://{self._stack.gateway.address}"
        async with httpx2.AsyncClient(timeout=300) as client:
            while not self._is_over:
                conversation = rng.choice(self._conversations)
                stream = LastingStream(url, f"storm-{number}-{turn}", conversation)
                turn += 1
                await stream.read(client)
                expected = self._expected[conversation.number][0]
                assert stream.answer == expected, f"{stream.session_id}: other tokens than undisturbed"
                self.num_answers += 1
                self.num_lost += stream.num_lost
                await self._forget([Held(stream.session_id)])

    async def _ask(self, client: AsyncClient, conversation: Conversation, held: Held, turn: int) -> bool:
        """Asks one turn; False: it was cancelled, and what came of it is a beginning of what it would have been."""
        got, before = [], time.monotonic()
        name = held.session_id
        try:
            async for event in client.generate(session_id=name, **conversation.question(turn)):
                self.slowest_s = max(self.slowest_s, time.monotonic() - before)
                before = time.monotonic()
                got.append(event)
                if isinstance(event, Started | Chunk):
                    self._being_written[name] = len(got)
        except RstitchError as error:
            if name not in self._to_cancel or error.reason not in ("CANCELLED", "INTERRUPTED", "GENERATION_CANCELLED"):
                raise
            said = [(token, str(each.model)) for each in got if isinstance(each, Chunk) for token in each.tokens]
            assert said == self._expected[conversation.number][turn][: len(said)], "a cancelled answer was another one"
            return False
        finally:
            self._being_written.pop(name, None)
        held.answers.append(written(Answer.of(got)))
        return True

    async def _disturb(self) -> None:
        kind = self._rng.choices(list(_KINDS), list(_KINDS.values()))[0]
        match kind:
            case "kill worker":
                await _restart(self._rng.choice(worker_parts(self._stack)))
            case "kill router":
                await _restart(self._rng.choice(self._stack.routers))
            case "kill gateway":
                await _restart(self._stack.gateway)
            case "drain":
                await self._drain()
            case "cancel":
                await self._cancel()
            case "fail over":
                await asyncio.to_thread(self._fail_over)
        self.done[kind] += 1

    async def _drain(self) -> None:
        """Lets a worker run empty, by whichever router lives, and takes it back."""
        worker = f"{self._rng.choice(['slm', 'llm'])}-{self._rng.randrange(2)}"
        client = self._rng.choice(self._clients)
        async for each in client.drain_worker(worker, timeout_s=120):
            drained = each
        assert drained.is_empty
        async for _ in client.drain_worker(worker, undo=True, timeout_s=120):
            pass

    async def _cancel(self) -> None:
        """Cancels an answer that is being written, by whichever router."""
        await until(lambda: self._being_written, 60)
        name = self._rng.choice(list(self._being_written))
        self._to_cancel.add(name)
        await _once_more(partial(self._rng.choice(self._clients).cancel, name))

    def _fail_over(self) -> None:
        self._redis.wait_for_replica()
        dead = self._redis.kill_primary()
        self._redis.wait_for_failover(dead)
        self._redis.bring_back(dead)

    async def _forget(self, held: Sequence[Held]) -> None:
        for each in held:
            await _once_more(partial(self._clients[0].delete_trajectory, each.session_id))


async def _once_more(call: Callable[[], Awaitable[Any]]) -> None:
    """Calls until it is done: its router may be killed under it, and what it is about be forgotten by then."""
    while True:
        try:
            await call()
        except RstitchError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def _restart(part: Part) -> None:
    await asyncio.to_thread(part.kill)
    await asyncio.to_thread(part.restart)
