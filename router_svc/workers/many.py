"""The streams of this router to one worker as one call, so that what came of many sessions is read at one go.

It knows the messages' parts and whose they are, and nothing of what is in them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import grpc

from router_svc.workers.sending import broken, send_all
from rstitch.errors import RstitchError, from_proto, from_rpc_error
from rstitch.v1 import worker_pb2, worker_pb2_grpc

# Parts that are taken before others have a turn.
_AT_ONCE = 64
# So long a call takes new streams: who lets a router in is asked again and again, as with a call for each.
_FRESH_S = 30.0


@dataclass(frozen=True, slots=True)
class _Stream:
    take: Callable[[worker_pb2.DecodeResponse], None]
    fail: Callable[[RstitchError], None]


class DecodeMany:
    """One call of DecodeMany. It is over with its last stream: none is open that nobody needs.

    Attributes:
        stub: what the call was made by.
    """

    def __init__(self, stub: worker_pb2_grpc.WorkerServiceStub) -> None:
        self.stub = stub
        self._since = time.monotonic()
        self._is_over = False
        self._numbers = count(1)
        self._streams: dict[int, _Stream] = {}
        self._outgoing: asyncio.Queue[worker_pb2.DecodeManyRequest | None] = asyncio.Queue()
        self._call: Any = stub.DecodeMany()
        self._unsent: RstitchError | None = None  # why the writer gave up
        self._tasks = [
            asyncio.create_task(self._read(), name="decode-many"),
            asyncio.create_task(self._write(), name="decode-many-requests"),
        ]

    @property
    def takes_streams(self) -> bool:
        """Whether streams can be opened, and are to be."""
        return not self._is_over and time.monotonic() - self._since < _FRESH_S

    def open(self, take: Callable[[worker_pb2.DecodeResponse], None], fail: Callable[[RstitchError], None]) -> int:
        """Opens a stream, and returns its number; `take`, which must not raise, gets what comes of it."""
        number = next(self._numbers)
        self._streams[number] = _Stream(take, fail)
        return number

    def send(self, number: int, run: worker_pb2.DecodeRequest) -> None:
        """Sends a stream's next run."""
        if number in self._streams:
            self._outgoing.put_nowait(worker_pb2.DecodeManyRequest(stream=number, run=run))

    def leave(self, number: int) -> None:
        """Cancels a stream, of which nothing is heard from now on."""
        if self._streams.pop(number, None) is not None:
            self._outgoing.put_nowait(worker_pb2.DecodeManyRequest(stream=number))
            self._end_if_empty()

    def _end_if_empty(self) -> None:
        if not self._streams and not self._is_over:
            self._is_over = True
            self._outgoing.put_nowait(None)

    async def _write(self) -> None:
        self._unsent = await send_all(self._call, self._outgoing)

    async def _read(self) -> None:
        try:
            async for message in self._call:
                for index, part in enumerate(message.parts, 1):
                    self._take(part)
                    if index % _AT_ONCE == 0:
                        await asyncio.sleep(0)  # what was taken is stored and sent meanwhile
            error = RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "the worker ended the stream.")
        except grpc.aio.AioRpcError as exc:
            error = from_rpc_error(exc)
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                what = "another worker is there, which does not serve many streams as one."
                error = RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", what)
        except Exception as exc:  # noqa: BLE001 - whatever a broken message leads to: a run must never wait for ever
            error = broken("the worker broke the contract", exc)
            self._call.cancel()
        except asyncio.CancelledError:
            error = RstitchError(grpc.StatusCode.CANCELLED, "CLOSED", "the stream was closed.")
        self._is_over = True
        self._outgoing.put_nowait(None)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(self._unsent or error)

    def _take(self, part: worker_pb2.DecodeManyResponse.Part) -> None:
        stream = self._streams.get(part.stream)
        if stream is None:  # it was left
            return
        if part.status:
            del self._streams[part.stream]
            stream.fail(from_proto(part.status))
            self._end_if_empty()
        else:
            stream.take(part.response)
