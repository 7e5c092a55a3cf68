"""A part that dies is started again, after delays that grow, and it is said: on processes that do nothing."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from rstitch.local import supervisor
from rstitch.local.part import Part
from rstitch.local.processes import ChildProcess
from rstitch.local.reaper import Reaper
from rstitch.local.supervisor import Supervisor

# Each says by a file that it is ready.
RUNS = "import os, pathlib, sys, time; (pathlib.Path(sys.argv[1]) / str(os.getpid())).touch(); time.sleep(600)"
RUNS_ONCE = f"import pathlib, sys; list(pathlib.Path(sys.argv[1]).iterdir()) and sys.exit('no more'); {RUNS}"


class Watched:
    """A part under a supervisor, and what that says of it."""

    def __init__(self, folder: Path, reaper: Reaper, code: str) -> None:
        ready = folder / "ready"
        ready.mkdir()
        command = [sys.executable, "-c", code, str(ready)]
        process = ChildProcess("part", command, {}, folder / "part.log", reaper)
        self.part = Part(process, "", lambda: (ready / str(process.pid)).exists(), 60)
        self.told: list[str] = []
        self.logs: list[Sequence[str]] = []
        self._supervisor = Supervisor([self.part], self._say)
        self.part.start()
        self.part.wait_ready()

    def _say(self, part: str, told: str, log: Sequence[str]) -> None:
        self.told.append(f"{part} {told}")
        self.logs.append(log)

    def look_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._supervisor.look()
            time.sleep(0.005)

    def kill(self) -> None:
        assert self.part.process.pid is not None
        os.kill(self.part.process.pid, signal.SIGKILL)


@pytest.fixture
def watched(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Watched]:
    reaper = Reaper()
    made = Watched(tmp_path, reaper, getattr(request, "param", RUNS))
    yield made
    made.part.kill()
    reaper.close()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_DELAY_S", 0.2)


def delays(told: list[str]) -> list[float]:
    return [float(found) for line in told for found in re.findall(r"started again in (\d+\.\d) s", line)]


def test_a_part_that_dies_is_started_again_each_time(watched: Watched) -> None:
    for time_ in (1, 2):
        before = watched.part.process.pid
        watched.kill()
        watched.look_until(lambda: len(watched.told) == 2 * time_)  # noqa: B023 - called here
        died, ready = watched.told[-2:]
        assert re.fullmatch(r"part was killed by signal 9; it is started again in \d\.\d s", died)
        assert re.fullmatch(r"part ready again after \d+\.\d s", ready)
        assert watched.part.process.pid not in (None, before)


@pytest.mark.parametrize("watched", [RUNS_ONCE], indirect=True, ids=["ends"])
def test_one_that_dies_at_once_waits_longer_each_time_and_shows_its_log(watched: Watched) -> None:
    watched.kill()
    watched.look_until(lambda: len(watched.told) == 3)
    first, second, third = delays(watched.told)
    assert third > first
    assert third > second
    assert all(told.startswith("part ended with code 1;") for told in watched.told[1:])
    assert watched.logs[0] == []
    assert watched.logs[2] == ["no more", "no more"]


def test_one_that_was_sound_for_long_is_started_soon(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_SOUND_S", 0.0)
    for time_ in range(1, 5):
        watched.kill()
        watched.look_until(lambda: len(watched.told) == 2 * time_)  # noqa: B023 - called here
    assert max(delays(watched.told)) <= 0.2


def test_one_that_does_not_become_ready_is_started_again(watched: Watched) -> None:
    watched.part.is_ready = lambda: False
    watched.part.timeout_s = 0.05
    watched.kill()
    watched.look_until(lambda: len(watched.told) == 2)
    assert watched.told[1].startswith("part was not ready within 0.05 s; it is started again in ")
