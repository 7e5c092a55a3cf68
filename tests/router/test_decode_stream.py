"""A stream of runs that cannot be written ends its runs; nobody waits for ever."""

from __future__ import annotations

import asyncio
from array import array
from typing import Any

import grpc
import pytest

from router_svc.trajectory.types import Sampling
from router_svc.workers.runs import Run
from router_svc.workers.streams import DecodeStream
from rstitch.errors import RstitchError


class Broken:
    """A call that takes no request and says nothing, until it is cancelled."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._cancelled = asyncio.Event()

    async def write(self, request: object) -> None:
        raise self._error

    def cancel(self) -> None:
        self._cancelled.set()

    def __aiter__(self) -> Broken:
        return self

    async def __anext__(self) -> object:
        await self._cancelled.wait()
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, nothing, nothing, "cancelled")


async def test_a_request_that_cannot_be_written_fails_its_run_and_says_why() -> None:
    class Stub:
        def Decode(self) -> Broken:
            return Broken(TypeError("no message"))

    stub: Any = Stub()
    stream = DecodeStream(stub, "s")
    run = stream.start(Run(max_tokens=1, position=0, tokens=array("I", [5]), sampling=Sampling(), prefix_checksum=0))
    with pytest.raises(RstitchError, match="a run could not be sent") as failed:
        await asyncio.wait_for(run.next(), 30)
    assert failed.value.reason == "PROTOCOL"
    assert stream.broken
    await stream.close()
