"""A process ends within its promise, whatever those do who take its spans and metrics."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from rstitch.channels import client_options
from rstitch.errors import RstitchError, from_rpc_error
from rstitch.v1 import router_pb2_grpc, worker_pb2, worker_pb2_grpc
from tests.support.asking import ask_for, threshold
from tests.support.collectors import black_hole, closed
from tests.support.endless import endless
from tests.support.pairs import save_model
from tests.support.toy_stack import Stack

ROOT = Path(__file__).parents[2]
COLLECTORS = {"closed port": closed, "black hole": black_hole}
# Five are promised. A machine that has other things to do may take as long again; the library by itself takes 14 to 90.
MOST_S = 10


@asynccontextmanager
async def service(
    module: str, *flags: str, traces: str, metrics: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, grpc.aio.Channel]]:
    """A service, once it is ready, and a channel to it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--listen", "127.0.0.1:0", *flags),
        *("--otlp-endpoint", traces, "--metrics-endpoint", metrics),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"OTEL_METRIC_EXPORT_INTERVAL": "500"},
    )
    assert process.stderr is not None
    try:
        while (line := json.loads(await process.stderr.readline()))["event"] != "ready":
            pass
        async with grpc.aio.insecure_channel(line["address"], options=client_options()) as channel:
            yield process, channel
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def end_of(call: Any) -> RstitchError:
    """The error with which a stream ends that is read message by message."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    pytest.fail("it ended well")


async def ended(process: asyncio.subprocess.Process) -> None:
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        _, log = await process.communicate()
    assert process.returncode == 0, log
    assert b"Traceback" not in log, log
    assert b"Fatal" not in log, log
    assert time.monotonic() - began < MOST_S


@pytest.mark.parametrize(
    "collector",
    [
        pytest.param(each, id=name, marks=[] if name == "black hole" else pytest.mark.soak)
        for name, each in COLLECTORS.items()
    ],
)
async def test_a_router_ends_with_fifty_answers_in_flight(stack: Stack, collector: Any) -> None:
    endless(stack, 0.5)
    flags = ("--slm", stack.slm.address, "--llm", stack.llm.address, "--redis", stack.redis_url)
    with collector() as endpoint:
        async with service("router_svc", *flags, traces=endpoint, metrics=endpoint) as (process, channel):
            stub = router_pb2_grpc.RouterServiceStub(channel)
            calls = [stub.Generate(ask_for(policy=threshold(0.5), max_new_tokens=2000)) for _ in range(50)]
            for call in calls:
                assert (await call.read()).HasField("started")
            await ended(process)
            for call in calls:
                assert (await end_of(call)).reason == "ROUTER_DRAINING"


@pytest.mark.soak
async def test_a_worker_ends_with_runs_in_flight(tmp_path: Path) -> None:
    """In the order of a stack that ends: its router has left, so its runs are cut off."""
    flags = ("--model", str(save_model(tmp_path / "llama", "llama", seed=0)), "--threads", "1", "--drain-grace-s", "0")
    with black_hole() as traces, closed() as metrics:
        async with service("slm_worker", *flags, traces=traces, metrics=metrics) as (process, channel):
            stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
            calls = [stub.Decode() for _ in range(4)]
            for number, call in enumerate(calls):
                request = worker_pb2.DecodeRequest(session_id=f"s{number}", tokens=[7, 8], max_tokens=400)
                await call.write(request)
                assert (await call.read()).tokens
            await ended(process)


def test_whatever_else_hangs_the_process_ends() -> None:
    """A thread that never ends would hold the interpreter for ever."""
    code = (
        "import threading, time; from rstitch.service.ending import Ending\n"
        "from rstitch.service.logs import setup_logging\n"
        "setup_logging('test', json=True); threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "Ending(ends_process=True).begin(-4.5)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=40, cwd=ROOT)
    assert "did not end in time" in json.loads(done.stderr)["event"]
