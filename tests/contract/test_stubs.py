"""The generated stubs load and work under protobuf 6 and 7. That they are those of `protos/` is said by `make lint`."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOBUF_MAJORS = (6, 7)
INSTALLED_MAJOR = int(metadata.version("protobuf").split(".")[0])
# What a client needs at run time; pip chooses the releases that go with the protobuf asked for.
CLIENT_PACKAGES = ["grpcio", "grpcio-status", "grpcio-health-checking", "googleapis-common-protos"]
UNREACHABLE = (
    "Connection",
    "connection",
    "Temporary failure",
    "Name or service not known",
    "timed out",
    "Read timeout",
)

# Run in a bare interpreter: a call over a real wire through the generated code, then an error through rstitch.errors.
LOOPBACK = """
import concurrent.futures, sys
import google.protobuf, grpc
from grpc_health.v1 import health_pb2
from rstitch.errors import from_rpc_error
from rstitch.v1 import common_pb2, router_pb2_grpc, worker_pb2, worker_pb2_grpc

class Worker(worker_pb2_grpc.WorkerServiceServicer):
    def Step(self, request, context):
        return worker_pb2.StepResponse(token=request.tokens[-1], held=request.position + len(request.tokens))

server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
worker_pb2_grpc.add_WorkerServiceServicer_to_server(Worker(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    stub = worker_pb2_grpc.WorkerServiceStub(channel)
    response = stub.Step(worker_pb2.StepRequest(session_id="s", position=2, tokens=[7, 8, 9]), timeout=20)
    assert (response.token, response.held) == (9, 5), response
    try:
        stub.GetInfo(worker_pb2.GetInfoRequest(), timeout=20)
    except grpc.RpcError as exc:
        assert from_rpc_error(exc).reason == "TRANSPORT"
    else:
        raise AssertionError("an unimplemented method answered")
server.stop(0).wait()
print(google.protobuf.__version__)
"""


def packages_with_protobuf(major: int) -> Path | None:
    """A folder with the client's packages on this protobuf; None where the environment has it already."""
    if major == INSTALLED_MAJOR:
        return None
    folder = ROOT / ".cache" / f"protobuf-{major}-py{sys.version_info.major}{sys.version_info.minor}"
    if not (folder / "complete").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--retries", "1", "--timeout", "30"]
        command += ["--target", str(folder), f"protobuf=={major}.*", *CLIENT_PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        if done.returncode and any(word in done.stderr for word in UNREACHABLE):
            pytest.skip(f"no package index to take protobuf {major} from")
        assert done.returncode == 0, done.stderr
        (folder / "complete").touch()
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize("major", PROTOBUF_MAJORS)
def test_stubs_work_under_protobuf(major: int) -> None:
    folder = packages_with_protobuf(major)
    isolated = [] if folder is None else ["-S"]
    path = os.pathsep.join(str(p) for p in (folder, ROOT) if p is not None)
    done = subprocess.run(
        [sys.executable, "-W", "error", *isolated, "-c", LOOPBACK],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{major}."), done.stdout
