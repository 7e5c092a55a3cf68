"""Child processes end when told, when killed, and when their program is killed; folders go with them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rstitch.local import processes
from rstitch.local.part import Part, StackError
from rstitch.local.processes import ChildProcess
from rstitch.local.reaper import Reaper
from rstitch.local.stack import LocalStack, RouterOptions

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    reaper = Reaper()
    yield reaper
    reaper.close()


def running(pid: int | None) -> bool:
    assert pid is not None
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def child(tmp_path: Path, reaper: Reaper, command: list[str]) -> ChildProcess:
    made = ChildProcess("part", command, env={}, log_path=tmp_path / "log", reaper=reaper)
    made.start()
    assert soon(lambda: "up" in made.log_tail())
    return made


def test_terminate_is_asked_first(tmp_path: Path, reaper: Reaper) -> None:
    process = child(tmp_path, reaper, SLEEP)
    process.terminate()
    process.wait_or_kill(10)
    assert process.exit_code == -signal.SIGTERM


def test_who_does_not_listen_is_killed(tmp_path: Path, reaper: Reaper) -> None:
    process = child(tmp_path, reaper, DEAF)
    process.terminate()
    process.wait_or_kill(0.2)
    assert process.exit_code == -signal.SIGKILL


def test_a_killed_process_starts_again_and_logs_to_the_same_file(tmp_path: Path, reaper: Reaper) -> None:
    process = child(tmp_path, reaper, SLEEP)
    first = process.pid
    process.kill()
    assert process.pid is None
    process.start()
    assert process.pid != first
    assert soon(lambda: process.log_tail() == ["up", "up"])
    process.kill()


def test_grandchildren_go_too(tmp_path: Path, reaper: Reaper) -> None:
    code = (
        "import subprocess; p = subprocess.Popen(['sleep', '60']);print(p.pid, 'up', sep='\\n', flush=True); p.wait()"
    )
    process = child(tmp_path, reaper, [sys.executable, "-c", code])
    grandchild = int(process.log_tail()[0])
    process.kill()
    assert soon(lambda: not running(grandchild))


def test_a_killed_program_leaves_neither_processes_nor_folders(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    code = f"""
import time
from pathlib import Path
from rstitch.local.processes import ChildProcess
from rstitch.local.reaper import Reaper
reaper = Reaper()
reaper.remove(Path({str(folder)!r}))
process = ChildProcess("part", ["sleep", "60"], env={{}}, log_path=Path({str(folder / "log")!r}), reaper=reaper)
process.start()
print(process.pid, flush=True)
time.sleep(60)
"""
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    with program.stdout:
        pid = int(program.stdout.readline())
    assert running(pid)
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    assert soon(lambda: not running(pid) and not folder.exists())


def test_a_part_that_dies_at_start_shows_its_log(tmp_path: Path, reaper: Reaper) -> None:
    command = [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"]
    part = Part(
        ChildProcess("slm worker", command, env={}, log_path=tmp_path / "log", reaper=reaper), "", lambda: False, 10
    )
    part.start()
    with pytest.raises(StackError, match="slm worker ended with code 3") as caught:
        part.wait_ready()
    assert (caught.value.part, caught.value.log) == ("slm worker", ["no such model"])


def test_a_part_that_never_gets_ready_is_given_up(tmp_path: Path, reaper: Reaper) -> None:
    process = ChildProcess("router", SLEEP, env={}, log_path=tmp_path / "log", reaper=reaper)
    part = Part(process, "", lambda: False, 0.2)
    part.start()
    with pytest.raises(StackError, match=r"not ready within 0\.2 s"):
        part.wait_ready()
    process.kill()


def test_a_port_that_is_taken_is_said_before_anything_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stack = LocalStack(router=RouterOptions(taken.getsockname()[1]))
        with pytest.raises(StackError, match="is in use"):
            stack.start()
    assert not stack.folder.exists()


def test_two_that_do_not_listen_yet_have_two_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PORTS", processes.PORTS[:64])
    monkeypatch.setattr(processes, "_given", deque(maxlen=32))
    drawn = [processes.free_port() for _ in range(200)]
    assert all(len({*drawn[begin : begin + 32]}) == 32 for begin in range(168))
