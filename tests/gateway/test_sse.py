"""Frames come as they are made, silence is filled, and who leaves ends what makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from starlette.types import Message

from gateway.sse import EventStream
from tests.support.asking import until

COMMENT = b": keepalive\n\n"
HTTP = {"type": "http"}


@dataclass
class Client:
    """A client that reads a stream, and leaves when told to."""

    messages: list[Message] = field(default_factory=list)
    leaves: asyncio.Event = field(default_factory=asyncio.Event)
    got: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, frames: AsyncGenerator[bytes], silence_s: float = 10) -> None:
        await EventStream(frames, silence_s, {"x-own": "1"})(HTTP, self.receive, self.send)

    async def receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        if message.get("body"):
            self.got.set()

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.messages if message["type"] == "http.response.body"]


async def test_frames_come_as_they_are_made_and_silence_is_filled() -> None:
    client, silent = Client(), asyncio.Event()

    async def frames() -> AsyncGenerator[bytes]:
        yield b"a"
        yield b"b"
        await silent.wait()
        yield b"c"

    reading = asyncio.create_task(client.read(frames(), 0.01))
    await until(lambda: client.bodies.count(COMMENT) >= 2)
    silent.set()
    await reading
    assert [body for body in client.bodies if body != COMMENT] == [b"a", b"b", b"c", b""]
    assert client.messages[0]["type"] == "http.response.start"
    headers = dict(client.messages[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert (headers[b"x-own"], headers[b"x-accel-buffering"]) == (b"1", b"no")
    assert [message["more_body"] for message in client.messages[1:]] == [True] * (len(client.messages) - 2) + [False]


async def test_no_comment_follows_the_end() -> None:
    client = Client()

    async def frames() -> AsyncGenerator[bytes]:
        yield b"a"

    await client.read(frames(), 0.001)
    num = len(client.messages)
    await asyncio.sleep(0.01)
    assert len(client.messages) == num
    assert client.bodies[-1] == b""


async def test_a_client_that_reads_slowly_gets_one_comment_for_all_its_silence() -> None:
    client, reads, silent = Client(), asyncio.Event(), asyncio.Event()
    looked = 0

    async def slowly(message: Message) -> None:
        nonlocal looked
        if message.get("body") == COMMENT:
            looked += 1
            await reads.wait()
        await client.send(message)

    async def frames() -> AsyncGenerator[bytes]:
        await silent.wait()
        yield b"a"

    reading = asyncio.create_task(EventStream(frames(), 0.001, {})(HTTP, client.receive, slowly))
    await until(lambda: looked)
    await asyncio.sleep(0.01)  # many times the silence after which there would be another
    silent.set()
    await client.got.wait()
    assert (looked, client.bodies) == (1, [b"a"])
    reads.set()
    await reading
    assert client.bodies == [b"a", COMMENT, b""]


async def test_a_fault_is_raised_behind_what_came_before() -> None:
    client = Client()

    async def frames() -> AsyncGenerator[bytes]:
        yield b"a"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        await client.read(frames())
    assert client.bodies == [b"a"]


async def endless(ended: asyncio.Event) -> AsyncGenerator[bytes]:
    """One frame, and then none for ever; `ended` tells that nobody waits for one any more."""
    try:
        yield b"a"
        await asyncio.Event().wait()
    finally:
        ended.set()


async def test_who_leaves_ends_the_frames() -> None:
    client, ended = Client(), asyncio.Event()
    reading = asyncio.create_task(client.read(endless(ended)))
    await client.got.wait()
    client.leaves.set()
    await reading
    assert ended.is_set()
    assert client.bodies == [b"a"]


async def test_who_is_cancelled_from_without_ends_so() -> None:
    client, ended = Client(), asyncio.Event()
    reading = asyncio.create_task(client.read(endless(ended)))
    await client.got.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ended.is_set()
