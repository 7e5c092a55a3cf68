"""Beyond this machine nothing listens without a lock, unless it is told to in so many words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model_worker.main import start
from model_worker.role import Role
from model_worker.settings import WorkerSettings
from rstitch.errors import RstitchError
from rstitch.limits import is_loopback
from rstitch.service.exposure import check_exposure
from rstitch.v1 import common_pb2
from tests.support.keys import make, write
from tests.support.toy_stack import Stack

OPEN = ["0.0.0.0:1", "[::]:1", ":::1", "10.0.0.7:1", "router:1", "localhost.example.com:1", "127.0.0.1.example.com:1"]
ODD = ["ipv4:127.0.0.1:1,0.0.0.0:1", "127.1:1", "127.0.0.1,0.0.0.0:1", "0:1", "dns:0.0.0.0:1", "unix:/x:1"]
HERE = ["127.0.0.1:1", "127.0.0.2:1", "localhost:1", "LOCALHOST:1", "[::1]:1", "::1:1"]


@pytest.mark.parametrize("listen", OPEN + ODD)
@pytest.mark.parametrize(("keys", "tls", "ca"), [(False, False, False), (True, False, False), (False, True, False)])
def test_what_is_open_needs_tls_and_a_way_to_tell_who_calls(listen: str, keys: bool, tls: bool, ca: bool) -> None:
    with pytest.raises(RstitchError) as caught:
        check_exposure(listen, has_keys=keys, has_tls=tls, has_client_ca=ca, insecure=False)
    assert (caught.value.field, caught.value.reason) == ("--listen", "EXPOSED")
    remedy = caught.value.remedy or ""
    assert ("--tls-cert" in remedy) is not tls
    assert ("--keys" in remedy) is not keys
    assert "--insecure" in remedy


@pytest.mark.parametrize("listen", OPEN + ODD)
@pytest.mark.parametrize(
    ("keys", "tls", "ca", "insecure"),
    [(True, True, False, False), (False, True, True, False), (False, False, False, True)],
)
def test_a_lock_or_the_word_is_enough(listen: str, keys: bool, tls: bool, ca: bool, insecure: bool) -> None:
    check_exposure(listen, has_keys=keys, has_tls=tls, has_client_ca=ca, insecure=insecure)


@pytest.mark.parametrize("listen", HERE)
def test_this_machine_needs_none(listen: str) -> None:
    assert is_loopback(listen)
    check_exposure(listen, has_keys=False, has_tls=False, has_client_ca=False, insecure=False)


async def test_a_router_refuses_to_be_made(stack: Stack, tmp_path: Path) -> None:
    for changes in ({}, {"keys": str(write(tmp_path / "keys", [make()]))}):
        with pytest.raises(RstitchError, match=r"0\.0\.0\.0:0"):
            await stack.router(listen="0.0.0.0:0", **changes)


async def test_an_insecure_router_serves(stack: Stack) -> None:
    assert (await stack.router(listen="0.0.0.0:0", insecure=True)).ready.is_set()


@pytest.mark.parametrize("listens", [("0.0.0.0:0", ""), ("127.0.0.1:0", "0.0.0.0:0")])
async def test_a_worker_refuses_before_it_loads_anything(listens: tuple[str, str]) -> None:
    listen, shared_listen = listens
    settings = WorkerSettings(model="/nowhere", listen=listen, shared_listen=shared_listen)
    with pytest.raises(RstitchError, match=r"0\.0\.0\.0:0"):
        await start(Role("llm", common_pb2.MODEL_LLM, WorkerSettings), settings, lambda error: None)


def test_a_program_ends_and_names_the_remedies() -> None:
    command = [sys.executable, "-m", "router_svc", "--listen", "0.0.0.0:0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RSTITCH_")}
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    for remedy in ("--tls-cert", "--keys", "--insecure"):
        assert remedy in ended.stderr
