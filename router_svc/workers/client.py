"""A model worker as the router sees it; the edge where the messages of worker.proto stop.

It sends runs and hands back replies. It does not know who writes, nor what to do about an error.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from weakref import WeakSet

import grpc
import structlog

from router_svc.text.tokenizer import TokenizerFiles
from router_svc.trajectory.consultations import Consultation
from router_svc.trajectory.types import Model
from router_svc.workers.connection import Connection
from router_svc.workers.informing import files_of, info_of
from router_svc.workers.kept_heads import KeptHeads
from router_svc.workers.many import DecodeMany
from router_svc.workers.runs import WorkerInfo
from router_svc.workers.streams import DecodeStream, NoStream, OpenStream, StreamOfMany, consultation_of
from rstitch.errors import RstitchError, from_rpc_error
from rstitch.v1 import worker_pb2, worker_pb2_grpc

_log = structlog.get_logger(__name__)


class WorkerClient:
    """The connection to the worker that should be `model`. Every method raises RstitchError; none retries."""

    def __init__(
        self,
        model: Model,
        connection: Connection,
        stream: OpenStream = DecodeStream,
        heads: KeptHeads | None = None,
    ) -> None:
        self.model = model
        self.address = connection.address
        self._streams: WeakSet[DecodeStream] = WeakSet()
        self._observing: set[Any] = set()  # calls
        self._open_stream = stream
        self._connection = connection
        self._channel: Any = None  # that of the stub
        self._is_gone = False
        self._has_many = False  # whether the worker serves DecodeMany
        self._many: DecodeMany | None = None  # the newest call of it
        self._heads = KeptHeads() if heads is None else heads

    @property
    def _stub(self) -> worker_pb2_grpc.WorkerServiceStub:
        channel = self._connection.channel
        if channel is not self._channel:
            self._channel, self._made = channel, worker_pb2_grpc.WorkerServiceStub(channel)
        return self._made

    async def info(self, timeout_s: float = 5.0) -> WorkerInfo:
        try:
            message = await self._stub.GetInfo(worker_pb2.GetInfoRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        self._has_many = message.decode_many
        return info_of(message)

    async def drain(self, *, undo: bool, timeout_s: float = 5.0) -> tuple[int, int]:
        """Lets the worker take no new sessions, or again some. Returns how many runs and streams it has yet."""
        self._check_there()
        try:
            left = await self._stub.Drain(worker_pb2.DrainRequest(undo=undo), timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        return left.num_running, left.num_streams

    async def tokenizer(self, timeout_s: float = 60.0) -> TokenizerFiles:
        call = self._stub.GetTokenizer(worker_pb2.GetTokenizerRequest(), timeout=timeout_s)
        try:
            messages = [message async for message in call]
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        return files_of(messages or [worker_pb2.GetTokenizerResponse()])

    def open(self, session_id: str) -> DecodeStream:
        """A stream of runs for one session; a worker that is not there fails its first run."""
        if self._is_gone:  # the connection may be closed, and what a worker says that goes on is not to be heard
            return NoStream(_not_there())
        # A call for each session is what a trace shows, and what streams of somebody's own are made for.
        if self._has_many and not self._connection.is_traced and self._open_stream is DecodeStream:
            stream: DecodeStream = StreamOfMany(self._current_many(), session_id)
        else:
            stream = self._open_stream(self._stub, session_id)
        self._streams.add(stream)
        return stream

    def _current_many(self) -> DecodeMany:
        """The call that new streams are of, on the newest channel."""
        stub = self._stub
        if self._many is None or not self._many.takes_streams or self._many.stub is not stub:
            self._many = DecodeMany(stub)
        return self._many

    async def observe(
        self, tokens: array[int], start: int, *, above: float, masked_tokens: Sequence[int], cache_salt: str
    ) -> AsyncGenerator[tuple[list[Consultation], int], None]:
        """Yields what the model thought along `tokens` from `start` on, and how many positions each is of.

        Told are those with an entropy over `above`; their positions count `tokens`.
        """
        self._check_there()
        call = self._stub.Observe(
            worker_pb2.ObserveRequest(
                tokens=tokens, start=start, above=above, masked_tokens=masked_tokens, cache_salt=cache_salt
            )
        )
        self._observing.add(call)
        try:
            async for message in call:
                yield [consultation_of(each) for each in message.consultations], message.num_positions
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        except asyncio.CancelledError:
            if call in self._observing:  # else it is not whoever observes that was cancelled
                raise
            raise _not_there() from None
        finally:
            self._observing.discard(call)
            call.cancel()

    async def put_head(self, name: str, timeout_s: float = 5.0) -> None:
        """Sends a head that is kept, once the worker says that it does not know it."""
        request = worker_pb2.PutHeadRequest(name=name, data=self._heads.get(name))
        try:
            await self._stub.PutHead(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc

    async def close_session(self, session_id: str, timeout_s: float = 2.0) -> None:
        try:
            await self._stub.CloseSession(worker_pb2.CloseSessionRequest(session_id=session_id), timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc

    def lose(self) -> None:
        """The worker is gone, and nothing that it may still say is to be heard."""
        self._is_gone = True
        for stream in list(self._streams):
            stream.lose(_not_there())
        observing, self._observing = self._observing, set()
        for call in observing:
            call.cancel()

    async def close(self, grace_s: float | None = None) -> None:
        """Closes the connection; calls in flight are cancelled, after `grace_s` if that is given."""
        await self._connection.close(grace_s)

    def _check_there(self) -> None:
        if self._is_gone:
            raise _not_there()


def _not_there() -> RstitchError:
    return RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "the worker is not in the fleet any more.")
