"""The bundled pair as `rstitch ray` serves it: `rstitch up`'s answers, whoever is killed, while all of Ray sleeps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from router_svc.trajectory.keys import trajectory
from rstitch.client import Chunk, Client, Sampling, Threshold
from rstitch.local.stack import LocalStack
from tests.support.ray_cluster import LATE, WHY_LATE, ray_cluster
from tests.support.redis_process import RedisProcess
from tests.support.scraped import QUESTION

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
_ASKED: list[dict[str, Any]] = [
    {"policy": Threshold(0.02), "max_new_tokens": 150},
    {"policy": Threshold(0.1), "max_new_tokens": 150, "sampling": Sampling(temperature=0.8, seed=7)},
]

# A process that has torch in it takes seconds to end, on a machine that does much else a minute.
_PATIENT = ("--within", "300")


class _Fleet:
    """A fleet as the command line knows it."""

    def __init__(self, address: str) -> None:
        self._address = address

    def say(self, command: str, *flags: str) -> str:
        """Runs a command to its end, which must be a good one."""
        done = self._run(command, *flags)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def units(self) -> dict[str, Any]:
        """All units by id; the command's exit code says whether all are ready."""
        done = self._run("status", "--json")
        found = {unit["id"]: unit for unit in json.loads(done.stdout)["units"]}
        assert done.returncode == any(unit["state"] != "ready" for unit in found.values())
        return found

    def _run(self, command: str, *flags: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "rstitch.cli.app", "ray", command, "--address", self._address, *flags]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    def pids(self) -> dict[str, int]:
        return {each: unit["programs"][0]["pid"] for each, unit in self.units().items()}


@pytest.fixture(scope="module")
def right() -> list[tuple[int, ...]]:
    """What `rstitch up` answers."""
    with LocalStack() as stack, Client(stack.router_address) as client:
        return [_tokens(client, asked) for asked in _ASKED]


def _tokens(client: Client, asked: dict[str, Any]) -> tuple[int, ...]:
    return client.answer(QUESTION, **asked).tokens


@contextmanager
def _asleep(pids: set[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _actors(fleet: _Fleet) -> set[int]:
    """Processes of all actors of this cluster: a program's parent is its actor, whose own has started all of them."""
    nodes = {_parent(_parent(pid)) for pid in fleet.pids().values()}
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if (path / "cmdline").read_bytes().startswith(b"ray::") and _parent(int(path.name)) in nodes:
                found.add(int(path.name))
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_answers_are_those_of_a_stack_while_workers_die_and_ray_sleeps(
    right: list[tuple[int, ...]], redis_process: RedisProcess
) -> None:
    with ray_cluster() as cluster:
        fleet = _Fleet(cluster.address)
        started = fleet.say(
            "up", "--slm", "2", "--llm", "1", "--cpu", "--redis", redis_process.url, "--listen-host", "127.0.0.1"
        )
        assert "router-0" in started
        units = fleet.units()
        assert list(units) == ["router-0", "slm-0", "slm-1", "llm-0"]
        assert {unit["state"] for unit in units.values()} == {"ready"}
        actors = _actors(fleet)
        assert len(actors) > len(units)  # and the keeper
        with Client(units["router-0"]["programs"][0]["address"]) as client:
            # No token passes through Ray: nothing of ours that Ray runs does anything meanwhile.
            with _asleep(actors):
                assert [_tokens(client, asked) for asked in _ASKED] == right
            for number, asked in enumerate(_ASKED):
                pids, killed = fleet.pids(), ""
                tokens: list[int] = []
                for event in client.generate(QUESTION, session_id=f"session-{number}", **asked):
                    tokens += event.tokens if isinstance(event, Chunk) else ()
                    if not killed and len(tokens) >= 20:
                        killed = _bound(redis_process, f"session-{number}")
                        os.kill(pids[killed], signal.SIGKILL)
                assert tuple(tokens) == right[number]
                while (units := fleet.units())[killed]["state"] != "ready":
                    time.sleep(0.1)
                assert units[killed]["programs"][0]["pid"] != pids[killed]
            fleet.say("drain", "slm-0", *_PATIENT)
            assert list(fleet.units()) == ["router-0", "slm-1", "llm-0"]
            assert _tokens(client, _ASKED[0]) == right[0]
            fleet.say("scale", "--slm", "2")
            assert list(fleet.units()) == ["router-0", "slm-0", "slm-1", "llm-0"]
            assert _tokens(client, _ASKED[1]) == right[1]
        actors = _actors(fleet)
        fleet.say("down", *_PATIENT)
    assert not list(filter(_lives, actors))


def _bound(redis_process: RedisProcess, session_id: str) -> str:
    """The SLM worker that a session has."""
    with Redis.from_url(redis_process.url) as client:
        worker = client.hget(trajectory(session_id), "slm_worker")
    assert isinstance(worker, bytes)
    return worker.decode()


def test_a_fleet_of_ones_own_cluster_ends_with_its_command(right: list[tuple[int, ...]], tmp_path: Path) -> None:
    """Where there is no cluster: `--address local`, with a Redis and a gateway of its own."""
    output = tmp_path / "output"
    env = {**os.environ, "RAY_AUTH_TOKEN": "a" * 64}
    words = [sys.executable, "-m", "rstitch.cli.app", "ray", "up", "--address", "local", "--cpu", "--http"]
    with output.open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=env)
    try:
        while "Ctrl-C" not in output.read_text():
            if process.poll() is not None and LATE in output.read_text():
                pytest.skip(WHY_LATE)
            assert process.poll() is None, output.read_text()
            time.sleep(0.1)
        router = output.read_text().partition("--router ")[2].split()[0]
        with Client(router) as client:
            assert _tokens(client, _ASKED[0]) == right[0]
        started = _below(process.pid)
        assert len(started) > 5
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    assert code == 0, output.read_text()
    assert not list(filter(_lives, started))


def _below(pid: int) -> list[int]:
    """All processes that one has started, and these have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = _parent(int(path.name))
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]
