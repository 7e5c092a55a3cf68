"""`rstitch logs` finds the stack that runs on this machine, and shows what its parts have written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstitch.cli.logs import _STYLES
from rstitch.local.records import LogReader, Record, running_stacks
from tests.cli.conftest import Run

READY = {"event": "ready", "level": "info", "timestamp": "2026-01-02T03:04:05Z", "address": "127.0.0.1:1"}


@pytest.fixture(autouse=True)
def _tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def stack(tmp_path: Path, name: str, router: str, pid: int = os.getpid()) -> Record:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "llm-worker.log").write_text(f"{json.dumps(READY)}\nno JSON\n")
    (folder / "redis.log").write_text("".join(f"line {number}\n" for number in range(30)))
    made = Record(folder, pid, router)
    made.write()
    return made


@pytest.fixture
def ended() -> Iterator[int]:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_last_lines_of_each_part_with_its_name_and_the_time(run: Run, tmp_path: Path) -> None:
    stack(tmp_path, "rstitch-a", "127.0.0.1:5")
    shown = run("logs").stdout.splitlines()
    assert len(shown) == 2 + 20
    assert shown[0].startswith("llm worker  ")
    assert shown[0].endswith(":04:05  info: ready: address=127.0.0.1:1")
    assert shown[1] == "llm worker  no JSON"
    assert shown[-1] == "redis       line 29"
    assert run("logs", "redis", "-n", "1").stdout == "redis       line 29\n"
    assert run("logs", "redis", "-n", "0").stdout == ""
    assert json.loads(run("logs", "llm", "--raw").stdout.splitlines()[0]) == READY
    assert run("logs", "llm-worker").stdout == run("logs", "llm").stdout


def test_the_gateway_is_a_part_as_the_others_are(run: Run, tmp_path: Path) -> None:
    (stack(tmp_path, "rstitch-a", "127.0.0.1:5").folder / "gateway.log").write_text("here\n")
    assert run("logs", "gateway").stdout == "gateway     here\n"
    assert "router or gateway" in " ".join(run("logs", "--help").stdout.replace("│", " ").split())
    assert "gateway" in _STYLES


def test_one_of_several_stacks_is_named(run: Run, tmp_path: Path) -> None:
    stack(tmp_path, "rstitch-a", "127.0.0.1:5")
    stack(tmp_path, "rstitch-b", "127.0.0.1:6")
    result = run("logs")
    assert result.exit_code == 2
    assert "there are several stacks here: 127.0.0.1:5, 127.0.0.1:6. Name one of them." in result.stderr
    assert run("logs", "--router", "127.0.0.1:6", "redis", "-n", "1").exit_code == 0


def test_what_there_is_not_is_told_with_a_remedy(run: Run, tmp_path: Path, ended: int) -> None:
    assert "no stack runs on this machine. `rstitch up` starts one" in run("logs").stderr
    stack(tmp_path, "rstitch-gone", "127.0.0.1:4", ended)
    (tmp_path / "rstitch-odd").mkdir()
    (tmp_path / "rstitch-odd" / "stack.json").write_text("{")
    assert running_stacks() == []
    stack(tmp_path, "rstitch-a", "127.0.0.1:5")
    result = run("logs", "--router", "127.0.0.1:7")
    assert result.exit_code == 2
    assert "There are 127.0.0.1:5." in result.stderr
    assert "Choose one of llm worker, redis." in run("logs", "slm").stderr


def test_following_shows_what_comes_and_ends_with_the_stack(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = stack(tmp_path, "rstitch-a", "127.0.0.1:5")

    def next_moment(seconds: float) -> None:
        """In the place of the first pause a part writes, and one comes; in that of the second the stack ends."""
        late = record.folder / "router-2.log"
        if late.exists():
            (record.folder / "stack.json").unlink()
        with (record.folder / "redis.log").open("a") as log:
            log.write("more\nhalf a li" if not late.exists() else "ne\n")
        late.write_text("here\n")

    monkeypatch.setattr("rstitch.cli.logs.time.sleep", next_moment)
    shown = run("logs", "-f", "-n", "1").stdout.splitlines()
    assert shown == ["llm worker  no JSON", "redis       line 29", "redis       more", "router 2    here"]


def test_a_reader_gives_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    reader = LogReader(path)
    assert list(reader.new_lines()) == []
    path.write_bytes("one\nü".encode()[:-1])
    assert list(reader.new_lines()) == ["one"]
    with path.open("ab") as file:
        file.write("ü".encode()[-1:] + b"\n")
    assert list(reader.new_lines()) == ["ü"]
    assert list(reader.new_lines()) == []
