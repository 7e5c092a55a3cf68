"""A local stack with several workers of a role and several routers: their names, and that all of it is one fleet."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator

import pytest

from rstitch.client import Client, Finished
from rstitch.local.stack import GatewayOptions, LocalStack
from rstitch.local.supervisor import Supervisor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def several() -> Iterator[LocalStack]:
    with LocalStack(gateway=GatewayOptions(), num_slm=2, num_llm=1, num_routers=2) as running:
        yield running


def members(address: str) -> dict[str, str]:
    with Client(address) as client:
        return {member.id: member.address for member in client.status().members if member.ready}


def test_all_routers_know_all_workers_by_name(several: LocalStack) -> None:
    assert [part.name for part in several.parts] == [
        *("redis", "slm worker", "slm worker 2", "llm worker", "router", "router 2", "gateway")
    ]
    assert [part.name for part in several.routers] == ["router", "router 2"]
    there = {
        "slm-0": several.worker("slm").address,
        "slm-1": several.worker("slm", 1).address,
        "llm-0": several.worker("llm").address,
    }
    for router in several.routers:
        assert members(router.address) == there
        with Client(router.address) as client:
            assert isinstance(list(client.generate("2+2=", max_new_tokens=4))[-1], Finished)


def test_no_command_line_says_how_redis_is_reached(several: LocalStack) -> None:
    """There may be a password in it, and all on a machine may read what its processes were started with."""
    assert not [part.name for part in several.parts if any("redis://" in word for word in part.process.command)]


def test_one_of_several_is_started_again_and_is_one_of_them_again(several: LocalStack) -> None:
    told: list[str] = []
    supervisor = Supervisor(several.parts, lambda part, what, log: told.append(f"{part} {what}"))
    supervisor.look()
    several.worker("slm", 1).kill()
    while not any("ready again" in each for each in told):
        supervisor.look()
        time.sleep(0.05)
    assert all(each.startswith("slm worker 2 ") for each in told)
    while "slm-1" not in members(several.routers[1].address):
        time.sleep(0.05)


def test_a_gateway_asks_the_routers_that_there_are(several: LocalStack) -> None:
    body = json.dumps({"model": "rstitch", "prompt": "2+2=", "max_tokens": 4}).encode()
    url = f"http://{several.gateway.address}/v1/completions"

    def ask() -> int:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return int(reply.status)

    for killed in (None, *several.routers):
        if killed is not None:
            killed.kill()
        assert [ask() for _ in range(4)] == [200] * 4
        if killed is not None:
            killed.restart()
