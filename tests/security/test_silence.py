"""No error and no log says an address, a path, a secret or what an exception said: an INTERNAL has an id of the log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from model_worker.messages import to_rstitch_error
from router_svc.answers.assembly import Assembly
from router_svc.answers.kept import Kept
from router_svc.policies.heads import Heads
from router_svc.text.render_process import RenderProcess, TemplateRefused
from rstitch.errors import RstitchError
from rstitch.local.readiness import without_secrets
from rstitch.service.metrics import setup_metrics
from rstitch.service.telemetry import setup_telemetry
from rstitch.v1 import router_pb2
from storage.clients import client_of
from storage.redis_address import RedisAddress, without_password
from tests.support.asking import ask_for, refused, take
from tests.support.redis_process import RedisProcess
from tests.support.toy_stack import Stack

SECRET = "s3cr3t"


@pytest.fixture
def logged() -> Iterator[Any]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


async def test_an_internal_error_has_an_id_that_is_in_the_log(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, logged: Any
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError(f"{SECRET} at 0x7f00 in /srv/models/secret.py")

    stub = await stack.stub(await stack.router())
    monkeypatch.setattr(Kept, "page", broken)
    monkeypatch.setattr(Assembly, "assemble", broken)
    for call in (stub.ListTrajectories(router_pb2.ListTrajectoriesRequest()), stub.Generate(ask_for())):
        error = await refused(call)
        assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        told = f"{error} {error.metadata}"
        assert not any(word in told for word in (SECRET, "ZeroDivision", "0x", "/srv", ".py"))
        (line,) = [line for line in logged if line.get("error_id") == error.metadata["error_id"]]
        assert isinstance(line["exc_info"], ZeroDivisionError)


def test_a_workers_bug_is_told_by_its_id_alone() -> None:
    error = to_rstitch_error(ValueError(SECRET))
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert SECRET not in f"{error} {error.metadata}"
    assert error.metadata["error_id"]


async def test_a_lost_worker_is_told_without_its_address(stack: Stack) -> None:
    router = await stack.router(worker_patience_s=0.2)
    stub = await stack.stub(router)
    await stack.llm.stop()
    answer = await take(stub, ask_for(policy={"llm_only": {}}))
    assert answer.error is not None
    assert answer.error.reason == "WORKER_UNAVAILABLE"
    assert "127.0.0.1" not in f"{answer.error} {answer.error.metadata}"


async def test_a_lost_redis_is_told_without_its_address(stack: Stack, redis_process: RedisProcess) -> None:
    stub = await stack.stub(await stack.router(redis_patience_s=0.1))
    redis_process.stop()
    error = await refused(stub.Generate(ask_for(session_id="s")))
    assert error.reason == "REDIS_UNAVAILABLE"
    assert not any(word in str(error) for word in ("127.0.0.1", "redis://", "refused", "Errno"))


def test_a_head_is_told_without_the_folder(tmp_path: Path) -> None:
    heads = Heads(str(tmp_path), lambda: None)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "head.safetensors").write_bytes(b"no head")
    (tmp_path / "folder" / "head.safetensors").mkdir(parents=True)
    for name in ("broken", "folder", "none"):
        with pytest.raises(RstitchError) as caught:
            heads.get(name)
        assert str(tmp_path) not in str(caught.value)
        assert str(tmp_path) not in f"{heads.states()}"


def test_a_template_that_fails_tells_no_address() -> None:
    process = RenderProcess()
    with pytest.raises(TemplateRefused) as caught:
        process.render("{{ raise_exception(cycler(1) ~ '') }}", {})
    process.close()
    assert "Cycler" in str(caught.value)
    assert "0x" not in str(caught.value)


def ended(*args: str, **variables: str) -> str:
    """What a router that does not start writes."""
    command = [sys.executable, "-m", "router_svc", "--listen", "127.0.0.1:0", *args]
    ran = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/@x@h:1",
        f"redis://:{SECRET}@h:99999",
        f"redis://:{SECRET}@h:1/?foo=bar",
        f"redis://h:1/?socket_timeout={SECRET}",
        f"redis://[::1:{SECRET}",
        f"redis+cluster://:{SECRET}/@x@h:1",
        f"redis+cluster://:{SECRET}@h:1/3",
        f"redis+cluster://:{SECRET}@h:1,h:99999",
        f"redis+cluster://:{SECRET}@h:1?foo=bar",
        f"redis+sentinel://:{SECRET}@h:1",
        f"redis+sentinel://:{SECRET}@h:1/service/{SECRET}",
        f"rediss+sentinel://:{SECRET}@h:1,,h:2/service",
        f"redis+other://:{SECRET}@h:1",
    ],
)
def test_a_url_of_redis_that_is_none(url: str) -> None:
    with pytest.raises(RstitchError) as caught:
        client_of(RedisAddress(url))
    assert caught.value.field == "--redis"
    assert "%XX" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_the_process_says_so_and_ends() -> None:
    assert SECRET not in (told := ended("--redis", f"redis://:{SECRET}/@x@h:1"))
    assert "--redis" in told


def test_secrets_of_a_url_are_not_shown() -> None:
    url = f"redis://user:{SECRET}@h:1/2?password={SECRET}"
    assert without_password(url) == "redis://user:***@h:1/2"
    assert without_secrets(url) == "redis://h:1/2"


@pytest.mark.parametrize(
    ("setup", "name", "value"),
    [
        (setup_telemetry, "OTEL_EXPORTER_OTLP_TIMEOUT", "z"),
        (setup_telemetry, "OTEL_EXPORTER_OTLP_COMPRESSION", "z"),
        (setup_telemetry, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1"),
        (setup_metrics, "OTEL_EXPORTER_OTLP_TIMEOUT", "z"),
    ],
)
def test_a_variable_of_telemetry_that_cannot_be_used(
    setup: Callable[..., Any], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={SECRET}")
    monkeypatch.setenv(name, value)
    with pytest.raises(RstitchError, match=name) as caught:
        setup("router", "127.0.0.1:1")
    assert caught.value.reason == "BAD_TELEMETRY"
    assert SECRET not in str(caught.value)


def test_the_process_names_what_telemetry_cannot_use(redis_url: str) -> None:
    told = ended("--otlp-endpoint", "127.0.0.1:1", OTEL_EXPORTER_OTLP_TIMEOUT="z")
    line = json.loads(told.splitlines()[-1])
    assert line["event"] == "cannot start"
    assert "OTEL_EXPORTER_OTLP_TIMEOUT" in line["error"]
