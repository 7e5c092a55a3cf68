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


async def test_a_run_that_was_to_go_out_as_its_worker_was_lost_says_that_it_was() -> None:
    """Whoever hears of a lost worker moves; of a call that was cancelled it would only tell."""

    class Ended(Broken):
        """It tells its reader that it was cancelled after it has told so whoever writes."""

        def __init__(self, error: Exception) -> None:
            super().__init__(error)
            self._told = asyncio.Event()

        async def write(self, request: object) -> None:
            await self._cancelled.wait()
            self._told.set()
            raise asyncio.InvalidStateError("RPC already finished.")

        async def __anext__(self) -> object:
            await self._told.wait()
            return await super().__anext__()

    class Stub:
        def Decode(self) -> Ended:
            return Ended(TypeError())

    stub: Any = Stub()
    stream = DecodeStream(stub, "s")
    run = stream.start(Run(max_tokens=1, position=0, tokens=array("I", [5]), sampling=Sampling(), prefix_checksum=0))
    stream.lose(RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "the worker is gone."))
    with pytest.raises(RstitchError, match="the worker is gone"):
        await asyncio.wait_for(run.next(), 30)
    assert stream.lost
    await stream.close()


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
