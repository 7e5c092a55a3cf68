"""A worker that serves a model with shared layers: what it cannot be told, and that it drains as any other."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from pydantic import ValidationError

from model_worker.main import start
from model_worker.role import Role
from model_worker.settings import WorkerSettings
from rstitch.errors import RstitchError
from rstitch.local.processes import free_port
from rstitch.v1 import common_pb2, worker_pb2, worker_pb2_grpc
from tests.support.shared_layers import save_pair

LLM = Role("llm", common_pb2.MODEL_LLM, WorkerSettings)
SLM = Role("slm", common_pb2.MODEL_SLM, WorkerSettings)


@pytest.mark.parametrize(
    ("role", "wrong", "field"),
    [
        (SLM, {}, "--shared-listen"),
        (LLM, {"graphs": "on"}, "--graphs"),
        (LLM, {"batching": "delayed"}, "--batching"),
        (LLM, {"beside": "models/tiny-slm"}, "--beside"),
        (LLM, {"share_device": "device"}, "--share-device"),
    ],
)
async def test_settings_that_it_cannot_meet_are_refused_by_name(role: Role, wrong: dict[str, str], field: str) -> None:
    settings = WorkerSettings(
        model="models/tiny-shared-layers", listen="127.0.0.1:0", shared_listen="127.0.0.1:0", **wrong
    )
    with pytest.raises(RstitchError) as refusal:
        await start(role, settings, lambda error: None)
    assert refusal.value.field == field
    assert refusal.value.remedy


def test_the_address_of_the_slm_is_an_address() -> None:
    with pytest.raises(ValidationError, match="HOST:PORT"):
        WorkerSettings(model="m", listen="127.0.0.1:0", shared_listen="nowhere")


def test_both_addresses_serve_and_drain(tmp_path: Path) -> None:
    """By the flag's old name, which works for one release and is told to be old."""
    folder = save_pair(tmp_path / "model")
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    # fmt: off
    command = [sys.executable, "-m", "llm_worker", "--model", str(folder), "--dtype", "float64",
               "--listen", addresses[0], "--exit-listen", addresses[1],
               "--threads", "1", "--num-pages", "32", "--measure-ms", "1"]
    # fmt: on
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            log = ""
            for line in process.stdout:
                log += line
                if '"ready"' in line:
                    break
            assert "--exit-listen is now --shared-listen" in log
            roles, costs = [], []
            for address in addresses:
                with grpc.insecure_channel(address) as channel:
                    info = worker_pb2_grpc.WorkerServiceStub(channel).GetInfo(worker_pb2.GetInfoRequest())
                    roles.append(info.role)
                    costs.append(len(info.step_costs))
            assert roles == [common_pb2.MODEL_LLM, common_pb2.MODEL_SLM]
            assert all(costs)
            process.send_signal(signal.SIGTERM)
            log += process.communicate(timeout=30)[0]
        finally:
            process.kill()
    assert process.returncode == 0, log
