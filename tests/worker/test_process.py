"""A worker as a process: what stops its start, how it drains, and that it does not outlive its engine."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fleet.registry import Registry
from model_worker.entry import main
from model_worker.main import start
from model_worker.role import Role
from model_worker.settings import WorkerSettings
from rstitch.errors import RstitchError
from rstitch.v1 import common_pb2, worker_pb2_grpc
from rstitch.v1 import worker_pb2 as pb
from slm_worker.__main__ import Settings
from storage.redis_link import RedisLink
from tests.support.redis_process import RedisProcess
from tests.support.worker_process import worker_process
from tests.worker.conftest import ROLE

ROOT = Path(__file__).parents[2]
PROMPT = [7, 8, 9, 10, 11]


async def finish_of(call: Any) -> pb.Finish:
    """Reads a run to its end."""
    while True:
        response = await call.read()
        assert response is not grpc.aio.EOF, "the run was cut off"
        if response.HasField("finish"):
            finish: pb.Finish = response.finish
            return finish


async def test_after_sigterm_it_serves_who_is_there_and_leaves_the_fleet(
    model_folder: Path, redis_process: RedisProcess, link: RedisLink, tmp_path: Path
) -> None:
    flags = ("--redis", redis_process.url, "--worker-id", "slm-0", "--drain-grace-s", "60")
    async with worker_process(model_folder, tmp_path / "log", *flags) as (process, channel):
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        call = stub.Decode()
        await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=400, stop_tokens=[299]))
        await call.read()
        many = stub.DecodeMany()  # as a router has it, with no stream on it
        await stub.GetInfo(pb.GetInfoRequest())
        process.terminate()
        finish = await finish_of(call)
        assert finish.reason in (pb.Finish.REASON_LENGTH, pb.Finish.REASON_STOP)
        registry = Registry(link, "default")
        while not any(worker.draining for worker in await registry.read("slm")):  # noqa: ASYNC110 - only Redis knows
            await asyncio.sleep(0.02)
        assert (await stub.GetInfo(pb.GetInfoRequest())).draining
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Drain(pb.DrainRequest(undo=True))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        # A further run of a session that is there: a router moves it when it can.
        await call.write(pb.DecodeRequest(session_id="s", position=finish.held, tokens=[7], max_tokens=2))
        assert (await finish_of(call)).held > finish.held
        await call.done_writing()
        assert await asyncio.to_thread(process.wait, 30) == 0, "an empty call of many streams was waited for"
        many.cancel()
        assert await registry.read("slm") == []


async def test_after_its_grace_it_cuts_off_what_is_left(model_folder: Path, tmp_path: Path) -> None:
    async with worker_process(model_folder, tmp_path / "log", "--drain-grace-s", "0.2") as (process, channel):
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        call = stub.Decode()
        await call.write(pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=1, stop_tokens=[299]))
        await finish_of(call)
        process.terminate()
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert await asyncio.to_thread(process.wait, 30) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--model", "RSTITCH_MODEL"]),
        (["--model", "./x", "--listen", "127.0.0.1:65536"], ["--listen", "65535"]),
        (["--model", "./x", "--listen", ":50051"], ["--listen", "HOST:PORT"]),
        (["--model", "./x", "--max-batch-tokens", "0", "--dtype", "int3"], ["--max-batch-tokens", "--dtype"]),
        (["--model", "./x", "--device", "tpu"], ["--device"]),
    ],
)
def test_a_bad_setting_stops_the_start_and_is_named(
    flags: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["slm_worker", *flags])
    monkeypatch.delenv("RSTITCH_MODEL", raising=False)
    with pytest.raises(SystemExit) as caught:
        main(Role("slm", common_pb2.MODEL_SLM, Settings))
    for word in words:
        assert word in str(caught.value.code)


@pytest.mark.parametrize("worker", ["slm_worker", "llm_worker"])
def test_a_wrong_flag_is_told_before_torch_is_imported(worker: str) -> None:
    code = "import runpy, sys; sys.modules['torch'] = sys.modules['transformers'] = None; " + (
        f"sys.argv = ['{worker}', '--model', 'x', '--dtype', 'int3']; runpy.run_module('{worker}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{worker.replace('_', '-')}: cannot start:\n  --dtype (or RSTITCH_DTYPE): ")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_the_end_of_the_engines_thread_is_told(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process then ends: a server without an engine would answer nothing and look healthy."""
    told: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    settings = WorkerSettings(model=str(model_folder), listen="127.0.0.1:0", threads=1)
    worker = await start(ROLE, settings, told.set_result)
    monkeypatch.setattr("model_worker.engine.engine.Engine.launch", lambda engine: 1 / 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.port}") as channel:
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        call = stub.Step(pb.StepRequest(session_id="s", tokens=PROMPT))
        assert isinstance(await asyncio.wait_for(told, 10), ZeroDivisionError)
        call.cancel()
    await worker.stop()


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0"])
async def test_a_port_of_metrics_that_cannot_be_is_refused_before_a_model_is_loaded(listen: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"{listen}:{taken.getsockname()[1]}"
        settings = WorkerSettings(model="/nowhere", listen="127.0.0.1:0", metrics_listen=address)
        with pytest.raises(RstitchError) as caught:
            await start(ROLE, settings, lambda error: None)
    assert caught.value.reason == ("CANNOT_LISTEN" if listen == "127.0.0.1" else "EXPOSED")
    assert caught.value.field == "--metrics-listen"
