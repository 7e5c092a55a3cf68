"""The process: flags, the line that says ready, SIGTERM, and what it must not import."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from router_svc.main import _serve
from router_svc.trajectory.lease import Lease
from router_svc.workers.streams import DecodeStream
from rstitch.channels import client_options
from rstitch.service.ending import Ending
from rstitch.v1 import router_pb2_grpc
from tests.support.asking import Reading, ask_for, threshold
from tests.support.toy import ToyModel
from tests.support.toy_stack import Stack

PIPE = asyncio.subprocess.PIPE


async def python(*args: str, **variables: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, **variables}
    return await asyncio.create_subprocess_exec(sys.executable, *args, stderr=PIPE, env=environment)


@asynccontextmanager
async def router_process(stack: Stack) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[dict[str, object]]]]:
    """A router on a free port, and its log's lines up to the one that says ready."""
    args = ["--slm", stack.slm.address, "--redis", stack.redis_url, "--listen", "127.0.0.1:0"]
    process = await python("-m", "router_svc", *args, RSTITCH_LLM=stack.llm.address)
    assert process.stderr is not None
    lines: list[dict[str, object]] = []
    try:
        while not lines or lines[-1]["event"] != "ready":
            lines.append(json.loads(await process.stderr.readline()))
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_sigterm_hands_the_answers_over(stack: Stack) -> None:
    stack.slm.model, stack.llm.model = ToyModel(1, stop_every=0), ToyModel(2, stop_every=0)
    stack.slm.delay_s = stack.llm.delay_s = 0.005
    async with router_process(stack) as (process, lines):
        assert lines[-1]["service"] == "router"
        async with grpc.aio.insecure_channel(str(lines[-1]["address"]), options=client_options()) as channel:
            stub = router_pb2_grpc.RouterServiceStub(channel)
            reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=900)).has(20)
            process.send_signal(signal.SIGTERM)
            answer = await reading
        assert answer.error is not None
        assert (answer.error.code, answer.error.reason) == (grpc.StatusCode.UNAVAILABLE, "ROUTER_DRAINING")
        assert answer.error.metadata["session_id"] == answer.session_id
        assert answer.error.metadata["resume_from"] == str(answer.next)
        _, log = await process.communicate()
        assert process.returncode == 0
        assert b"Traceback" not in log
        assert log.count(b'"ready"') == 0


async def test_a_router_that_cannot_look_after_itself_ends(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lease its sessions would be taken over while its health says SERVING."""

    async def broken(lease: Lease, after_renewal: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Lease, "keep", broken)
    async with asyncio.timeout(20):
        with pytest.raises(ExceptionGroup) as caught:
            await _serve(stack.settings(), DecodeStream, Ending())
    assert caught.group_contains(ZeroDivisionError)


async def test_a_bad_setting_is_named() -> None:
    process = await python("-m", "router_svc", "--tau", "nan", "--slm", "nowhere", "--guard", "maybe")
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"--tau (or RSTITCH_TAU)" in said
    assert b"--slm (or RSTITCH_SLM)" in said
    assert b"write on or off" in said
    assert b"Traceback" not in said


@pytest.mark.parametrize("flag", ["--listen", "--metrics-listen"])
async def test_a_taken_address_is_named(stack: Stack, flag: str) -> None:
    process = await python("-m", "router_svc", flag, stack.slm.address)
    _, said = await process.communicate()
    assert process.returncode == 1
    assert stack.slm.address.encode() in said
    assert flag.removeprefix("--").encode() in said
    assert b"Traceback" not in said


async def test_no_torch_in_the_router() -> None:
    code = "import router_svc.main, sys; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert await (await python("-c", code)).wait() == 0
