"""The streams of one DecodeMany call: each is served as a call of Decode is, and what they say goes out together.

While a message is on its way out, whatever the streams say waits and is the next one. It knows no engine, and of what
is decoded nothing but the messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

import grpc

from rstitch.channels import MAX_STREAMS
from rstitch.errors import RstitchError, to_proto
from rstitch.service.failures import internal
from rstitch.v1 import worker_pb2

# Bytes of parts that a message has room for: a part may have the hidden states of a whole piece. One that is larger
# goes alone, so that it goes wherever it would go as a message of Decode.
_FULL = 1 << 20

Runs = AsyncIterator[worker_pb2.DecodeRequest]
# Serves one stream.
Decode = Callable[[Runs], AsyncIterator[worker_pb2.DecodeResponse]]


@dataclass(slots=True, eq=False)
class _Stream:
    runs: asyncio.Queue[worker_pb2.DecodeRequest | None] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None

    async def requests(self) -> Runs:
        while (run := await self.runs.get()) is not None:
            yield run


class Many:
    """One call. `decode` is called for each stream; its errors end that stream alone.

    It ends once the caller will send no more and all streams have ended; with the call all of them are cancelled.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._streams: dict[int, _Stream] = {}
        self._parts: list[worker_pb2.DecodeManyResponse.Part] = []
        self._wake = asyncio.Event()
        self._ended = False  # the caller will send no more
        self._failure: Exception | None = None  # a message that was none

    async def serve(
        self, requests: AsyncIterator[worker_pb2.DecodeManyRequest]
    ) -> AsyncGenerator[worker_pb2.DecodeManyResponse, None]:
        """Yields what the streams say, until the call is over."""
        reading = asyncio.create_task(self._read(requests))
        try:
            while self._parts or self._streams or not self._ended:
                await self._wake.wait()
                self._wake.clear()
                if self._failure is not None:
                    raise self._failure
                while self._parts:
                    yield worker_pb2.DecodeManyResponse(parts=self._next_parts())
        finally:
            tasks = {reading, *(stream.task for stream in self._streams.values() if stream.task is not None)}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _next_parts(self) -> list[worker_pb2.DecodeManyResponse.Part]:
        num, size = 1, self._parts[0].ByteSize()
        while num < len(self._parts) and (size := size + self._parts[num].ByteSize()) <= _FULL:
            num += 1
        parts, self._parts = self._parts[:num], self._parts[num:]
        return parts

    async def _read(self, requests: AsyncIterator[worker_pb2.DecodeManyRequest]) -> None:
        try:
            async for message in requests:
                stream = self._streams.get(message.stream)
                if message.HasField("run"):
                    if stream is None and len(self._streams) >= MAX_STREAMS:
                        self._fail(message.stream, _too_many())
                        continue
                    if stream is None:
                        stream = self._streams[message.stream] = _Stream()
                        stream.task = asyncio.create_task(self._serve(message.stream, stream))
                        # Not by the task: one that is cancelled before its first step runs nothing of it.
                        stream.task.add_done_callback(partial(self._over, message.stream))
                    stream.runs.put_nowait(message.run)
                elif stream is not None and stream.task is not None:
                    stream.task.cancel()
        except Exception as error:  # noqa: BLE001 - whatever it is, the interceptor makes a status of it
            self._failure = error
        self._ended = True
        for stream in self._streams.values():
            stream.runs.put_nowait(None)
        self._wake.set()

    async def _serve(self, number: int, stream: _Stream) -> None:
        try:
            async with aclosing(self._decode(stream.requests())) as responses:  # type: ignore[type-var]
                async for response in responses:
                    self._say(worker_pb2.DecodeManyResponse.Part(stream=number, response=response))
        except RstitchError as error:
            self._fail(number, error)
        except Exception as error:  # noqa: BLE001 - as for a call: whatever is left is a bug, and the caller's INTERNAL
            self._fail(number, internal(error, "call failed", method="DecodeMany"))

    def _over(self, number: int, _: asyncio.Task[None]) -> None:
        del self._streams[number]
        self._wake.set()

    def _fail(self, number: int, error: RstitchError) -> None:
        status = to_proto(error).SerializeToString()
        self._say(worker_pb2.DecodeManyResponse.Part(stream=number, status=status))

    def _say(self, part: worker_pb2.DecodeManyResponse.Part) -> None:
        self._parts.append(part)
        self._wake.set()


def _too_many() -> RstitchError:
    told, remedy = f"the call has {MAX_STREAMS} streams.", "Cancel some, or open another call."
    return RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", told, remedy=remedy, retry_after_s=1.0)
