"""What an actor does on its node, without Ray: programs that end are started again, and drain before they go."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launching.host import Host
from launching.plan import ADDRESS, CONFIG, FIRST, PYTHON, Program, Unit
from launching.states import ProgramState
from tests.support.redis_process import RedisProcess
from tests.support.scripted_fleet import scripted_plan, set_load


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    made: list[Host] = []
    yield made
    for host in made:
        host.stop(0)


def _until(host: Host, found: Callable[[ProgramState], bool]) -> ProgramState:
    deadline = time.monotonic() + 60
    while not found(state := host.state()[-1]):
        assert time.monotonic() < deadline, state
        time.sleep(0.05)
    return state


def _worker(hosts: list[Host], redis: RedisProcess, folder: Path) -> Host:
    plan = scripted_plan(folder.name, redis.url, folder)
    hosts.append(Host(plan.unit("slm", 0, plan.redis_url)))
    return hosts[-1]


def test_a_program_that_is_killed_comes_back_at_its_address(
    hosts: list[Host], redis_process: RedisProcess, tmp_path: Path
) -> None:
    host = _worker(hosts, redis_process, tmp_path)
    before = _until(host, lambda state: state.is_listening)
    assert before.pid
    assert before.why == ""
    os.kill(before.pid, signal.SIGKILL)
    after = _until(host, lambda state: state.num_starts == 2 and state.is_listening)
    assert after.address == before.address
    assert after.pid != before.pid
    assert "signal 9" in after.why, after


def test_a_program_whose_port_somebody_took_meanwhile_takes_another(
    hosts: list[Host], redis_process: RedisProcess, tmp_path: Path
) -> None:
    host = _worker(hosts, redis_process, tmp_path)
    before = _until(host, lambda state: state.is_listening)
    assert before.pid
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    os.kill(before.pid, signal.SIGKILL)
    with taken:
        _until(host, lambda state: state.pid is None)
        address, _, port = before.address.rpartition(":")
        taken.bind((address, int(port)))
        taken.listen()
        after = _until(host, lambda state: state.num_starts == 2 and state.address != before.address)
        assert _until(host, lambda state: state.is_listening).address == after.address


def test_stop_waits_for_what_is_under_way_and_starts_nothing_again(
    hosts: list[Host], redis_process: RedisProcess, tmp_path: Path
) -> None:
    set_load(tmp_path, "slm", num_running=1)
    host = _worker(hosts, redis_process, tmp_path)
    _until(host, lambda state: state.is_listening)
    set_load(tmp_path, "slm", num_running=0)
    assert host.stop(30)
    assert host.is_stopping()
    assert [state.pid for state in host.state()] == [None]
    assert [state.num_starts for state in host.state()] == [1]


def test_stop_kills_what_is_not_done_in_time(hosts: list[Host], redis_process: RedisProcess, tmp_path: Path) -> None:
    set_load(tmp_path, "slm", num_running=1)
    host = _worker(hosts, redis_process, tmp_path)
    _until(host, lambda state: state.is_listening)
    assert not host.stop(0.5)
    assert [state.pid for state in host.state()] == [None]


def test_why_a_program_ends_is_told_in_its_own_words(hosts: list[Host]) -> None:
    program = Program("worker", (PYTHON, "-m", "slm_worker", "--model", "/nowhere", "--listen", ADDRESS))
    hosts.append(Host(Unit("slm-0", "slm", (program,), listen_host="127.0.0.1")))
    state = _until(hosts[-1], lambda state: bool(state.why))
    assert "ended with code" in state.why
    assert "/nowhere" in state.why


def test_words_in_braces_are_filled_in_and_a_config_is_for_its_user_alone(hosts: list[Host], tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = (
        f"import os, socket, stat, sys, time; config = sys.argv[3]; said = open({str(said)!r}, 'w');"
        "print(*sys.argv[1:], oct(stat.S_IMODE(os.stat(config).st_mode)), open(config).read(), os.environ['X'],"
        " sep=chr(10), file=said, flush=True);"
        "server = socket.create_server(('127.0.0.1', int(sys.argv[1].split(':')[1]))); time.sleep(600)"
    )
    first = Program("first", (PYTHON, "-c", "import time; time.sleep(600)"))
    second = Program(
        "second",
        (PYTHON, "-c", script, ADDRESS, FIRST, CONFIG, "{odd}"),
        env={"X": "{x}"},
        config="port {port} on {host}",
    )
    hosts.append(Host(Unit("router-0", "router", (first, second), listen_host="127.0.0.1")))
    state = _until(hosts[-1], lambda state: state.is_listening)
    address, first_address, _, odd, mode, config, variable = said.read_text().splitlines()
    assert address == state.address
    assert first_address == hosts[-1].state()[0].address
    assert (odd, mode, variable) == ("{odd}", "0o600", "{x}")
    assert config == f"port {address.rpartition(':')[2]} on 127.0.0.1"
