"""Programs that models wrote: they pass or fail for their own reasons, and none gets out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from evals.checking import sandbox
from evals.checking.sandbox import Isolation, run
from rstitch.errors import RstitchError

pytestmark = pytest.mark.timeout(120)
isolated = pytest.mark.skipif(
    sandbox.isolation() is not Isolation.NAMESPACES, reason="this machine allows no namespaces"
)


def test_a_program_passes_if_it_reaches_its_end() -> None:
    assert run("import collections, json, math, re\nassert math.comb(4, 2) == 6").passed
    wrong = run("assert 1 == 2, 'no'")
    assert (wrong.result, wrong.detail) == ("failed", "AssertionError: no")
    assert run("def f(:").detail.startswith("SyntaxError")


@pytest.mark.parametrize("early", ["import sys; sys.exit(0)", "import os; os._exit(0)", "print('0' * 32); exit()"])
def test_leaving_early_is_not_passing(early: str) -> None:
    assert run(f"{early}\nassert False").result == "failed"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("x = bytearray(4 << 30)", "MemoryError"),
        ("import os\nwhile True: os.fork()", "BlockingIOError"),
        (
            "from threading import Event, Thread\nwhile True: Thread(target=Event().wait, daemon=True).start()",
            "RuntimeError",
        ),
        ("f = open('large', 'wb')\nwhile True: f.write(bytes(1 << 20))", "OSError"),
        ("while True: print('x' * 1_000_000)", "OSError"),
        ("files = []\nwhile True: files.append(open('program.py'))", "OSError"),
        ("import os\nos.setuid(0)", "PermissionError"),
    ],
    ids=["memory", "processes", "threads", "file", "output", "open files", "root"],
)
def test_what_takes_too_much_fails(program: str, said: str) -> None:
    outcome = run(program, timeout_s=30)
    assert outcome.result == "failed", outcome
    assert said in outcome.detail


@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(60)"], ids=["busy", "idle"])
def test_what_takes_too_long_is_stopped(program: str) -> None:
    assert run(program, timeout_s=1).result == "timeout"


@pytest.mark.skipif(
    sandbox.isolation() is Isolation.LIMITS and os.geteuid() != 0, reason="programs run with our own rights here"
)
def test_nothing_is_written_outside(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in (tmp_path, Path(__file__).parent):
        target = folder / "escaped"
        assert not run(f"open({str(target)!r}, 'w').write('x')").passed or sandbox.isolation() is Isolation.LIMITS
        assert not (Path(__file__).parent / "escaped").exists()


@isolated
def test_there_is_no_network() -> None:
    for address in ("1.1.1.1", "127.0.0.1"):
        outcome = run(f"import socket\nsocket.create_connection(({address!r}, 53), timeout=5)")
        assert outcome.result == "failed"
        assert "unreachable" in outcome.detail


@isolated
def test_files_and_processes_of_ours_are_not_there() -> None:
    assert run(f"import os\nassert not os.path.exists({__file__!r}) and not os.path.exists('/proc/1')").passed
    assert "ProcessLookupError" in run(f"import os\nos.kill({os.getpid()}, 9)").detail


@isolated
def test_what_a_program_leaves_running_dies_with_it() -> None:
    mark = "rstitch-sandbox-left-behind"
    program = f"import os, time\nif os.fork() == 0:\n  os.setsid()\n  os.execv('/bin/sleep', ['{mark}', '60'])"
    assert run(program).passed
    assert mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_what_limits_alone_leave_open_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Isolation.NAMESPACES.lacks == ""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "as another user" in Isolation.LIMITS.lacks
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "with your own rights" in Isolation.LIMITS.lacks


@isolated
def test_a_program_that_leaves_its_group_is_stopped_too() -> None:
    mark = "rstitch-sandbox-runaway"
    asks_to_outlive_its_parent = "import ctypes, os\nos.setsid()\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)"
    outcome = run(f"{asks_to_outlive_its_parent}\nos.execv('/bin/sleep', ['{mark}', '30'])", timeout_s=3)
    assert outcome.result == "timeout"
    assert mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_without_fewer_rights_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.isolation.cache_clear()
    monkeypatch.setattr(sandbox, "_CHILD", Path("/nowhere.py"))
    with pytest.raises(RstitchError, match="fewer rights"):
        run("")
    monkeypatch.undo()
    sandbox.isolation.cache_clear()
