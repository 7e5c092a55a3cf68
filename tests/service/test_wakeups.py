"""A loop with many calls of gRPC is woken once for what came together, and every call ends."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any, NamedTuple

import grpc
import pytest

from rstitch.service.wakeups import GrpcLoop

_CALLS = 100


class Echo(NamedTuple):
    """A server in threads of its own, which answers while it may."""

    address: str
    may_answer: threading.Event


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    may_answer = threading.Event()

    def say(request: bytes, context: Any) -> bytes:
        assert may_answer.wait(60)
        return request

    server = grpc.server(futures.ThreadPoolExecutor(4))
    handler = grpc.unary_unary_rpc_method_handler(say)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", {"Say": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Echo(f"127.0.0.1:{port}", may_answer)
    may_answer.set()
    server.stop(None)


def num_wakes(read: socket.socket | None) -> int:
    """How many bytes gRPC's poller has written that nobody has read."""
    assert read is not None
    try:
        return len(read.recv(65536, socket.MSG_PEEK))
    except BlockingIOError:
        return 0


def num_turns(kind: type[asyncio.SelectorEventLoop], echo: Echo) -> int:
    """Turns that a loop takes until nothing wakes it any more, after many calls were answered while it was away."""

    class Counting(kind):  # type: ignore[misc,valid-type]
        num = 0
        wakes: socket.socket | None = None

        def add_reader(self, fd: Any, *args: Any) -> None:
            if isinstance(fd, socket.socket):
                self.wakes = fd
            super().add_reader(fd, *args)

        def _run_once(self) -> None:
            self.num += 1
            super()._run_once()

    async def calls() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Counting)
        async with grpc.aio.insecure_channel(echo.address) as channel:
            say: Any = channel.unary_unary("/Echo/Say")
            echo.may_answer.set()
            await say(b"first")
            echo.may_answer.clear()
            said = [asyncio.ensure_future(say(b"%d" % index)) for index in range(_CALLS)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            echo.may_answer.set()
            ends = time.monotonic() + 60
            while num_wakes(loop.wakes) < _CALLS:
                assert time.monotonic() < ends
                time.sleep(0.02)  # noqa: ASYNC251 - it is to be away
            before = loop.num
            assert await asyncio.gather(*said) == [b"%d" % index for index in range(_CALLS)]
            while num_wakes(loop.wakes):  # noqa: ASYNC110 - its turns are counted
                await asyncio.sleep(0)
            return loop.num - before

    with asyncio.Runner(loop_factory=Counting) as runner:
        return runner.run(calls())


def test_what_came_together_wakes_the_loop_once(echo: Echo) -> None:
    assert num_turns(asyncio.SelectorEventLoop, echo) > _CALLS / 2
    assert num_turns(GrpcLoop, echo) < _CALLS / 10
