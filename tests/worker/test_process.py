"""A worker as a process: what stops its start, how it drains, and that it does not outlive its engine."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from model_worker.entry import main
from model_worker.main import start
from model_worker.role import Role
from model_worker.settings import WorkerSettings
from rstitch.errors import RstitchError
from rstitch.v1 import common_pb2, worker_pb2_grpc
from rstitch.v1 import worker_pb2 as pb
from slm_worker.__main__ import Settings
from tests.worker.conftest import ROLE

ROOT = Path(__file__).parents[2]
PROMPT = [7, 8, 9, 10, 11]


async def test_sigterm_lets_a_run_end(model_folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "slm_worker", "--model", str(model_folder), "--dtype", "float64"),
        *("--listen", "127.0.0.1:0", "--threads", "1"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        port = None
        async for line in process.stdout:
            if b'"ready"' in line:
                port = json.loads(line)["address"].rpartition(":")[2]
                break
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = worker_pb2_grpc.WorkerServiceStub(channel).Decode()
            request = pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=400, stop_tokens=[299])
            await call.write(request)
            await call.read()
            process.send_signal(signal.SIGTERM)
            await call.done_writing()
            response = None
            while not (response is not None and response.HasField("finish")):
                response = await call.read()
                assert response is not grpc.aio.EOF, "the run was cut off"
        assert response.finish.reason in (pb.Finish.REASON_LENGTH, pb.Finish.REASON_STOP)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


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
