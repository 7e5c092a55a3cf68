"""A service with one method of each kind on a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import pytest

from rstitch.errors import RstitchError, invalid
from rstitch.service.server import Server
from rstitch.service.telemetry import Telemetry, setup_telemetry
from rstitch.v1 import router_pb2 as pb
from tests.support.certificates import Authority

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
SERVICE = "test.Kinds"


class Kinds:
    """Every method does what the request's session id names."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cleaned_up = asyncio.Event()
        self.finish = asyncio.Event()

    async def act(self, request: pb.GetTrajectoryRequest) -> pb.GetTrajectoryRequest:
        self.started.set()
        try:
            match request.session_id:
                case "refuse":
                    raise invalid("tau", "tau is NaN.", "Give a number.")
                case "retry":
                    raise RstitchError(
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                        "NO_CAPACITY",
                        "full",
                        retry_after_s=0.25,
                        metadata={"held": "3"},
                    )
                case "break":
                    raise ZeroDivisionError
                case "give up":
                    raise RstitchError(grpc.StatusCode.CANCELLED, "GIVEN_UP", "the server gave up")
                case "wait":
                    await self.finish.wait()
            return request
        finally:
            self.cleaned_up.set()

    async def unary_unary(self, request: Any, context: Any) -> Any:
        return await self.act(request)

    async def unary_stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield request
        yield await self.act(request)

    async def stream_unary(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            last = await self.act(request)
        return last

    async def stream_stream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await self.act(request)


class Wire:
    """A running server and how to call it."""

    def __init__(self, server: Server, kinds: Kinds, port: int) -> None:
        self.server, self.kinds, self.port = server, kinds, port
        self.address = f"127.0.0.1:{port}"

    def channel(self, telemetry: Telemetry | None = None) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            self.address, interceptors=telemetry.client_interceptors() if telemetry else []
        )

    async def call(
        self, channel: grpc.aio.Channel, kind: str, session_id: str, timeout: float | None = 10
    ) -> list[Any]:
        """All replies to one request."""
        method = getattr(channel, kind)(
            f"/{SERVICE}/{kind}",
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=pb.GetTrajectoryRequest.FromString,
        )
        request = session_id if isinstance(session_id, bytes) else pb.GetTrajectoryRequest(session_id=session_id)
        call = method(iter([request]) if kind.startswith("stream") else request, timeout=timeout)
        try:
            if kind.endswith("stream"):
                return [reply async for reply in call]
            return [await call]
        finally:
            call.cancel()  # a cancelled `async for` does not always cancel its call (grpcio 1.85, while it is set up)


StartWire = Callable[..., AbstractAsyncContextManager[Wire]]


@asynccontextmanager
async def start_wire(telemetry: Telemetry | None = None, max_message_bytes: int = 1 << 20) -> AsyncIterator[Wire]:
    server = Server(
        "127.0.0.1:0",
        service_names=[SERVICE],
        telemetry=telemetry or setup_telemetry("test", None),
        max_message_bytes=max_message_bytes,
    )
    kinds = Kinds()
    make = {kind: getattr(grpc, f"{kind}_rpc_method_handler") for kind in KINDS}
    handlers = {
        kind: make[kind](
            getattr(kinds, kind), pb.GetTrajectoryRequest.FromString, pb.GetTrajectoryRequest.SerializeToString
        )
        for kind in KINDS
    }
    server.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = await server.start()
    await server.set_serving(True)
    try:
        yield Wire(server, kinds, port)
    finally:
        kinds.finish.set()
        await server.stop(1)


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.make(tmp_path_factory.mktemp("certificates") / "ours")
    made.expired()
    return made


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with start_wire() as running:
        yield running


async def soon(event: Awaitable[Any]) -> None:
    """Waits for something that another task brings about, but not forever."""
    await asyncio.wait_for(event, 5)
