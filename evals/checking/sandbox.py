"""Runs a Python program that a model wrote: in a process of its own, behind what doors this machine can shut.

The program passes if it reaches its end. Nothing it does is in our process; what became of it is an `Outcome`.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Literal

from rstitch.errors import invalid

_CHILD = Path(__file__).with_name("sandbox_child.py")
# What a failing program said; its last line is the exception.
_MAX_SAID = 2_000
_GRACE_S = 5.0
_CPU_LIMIT_EXIT = {-signal.SIGXCPU, 0x100 - signal.SIGXCPU, -signal.SIGKILL, 0x100 - signal.SIGKILL}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may take. `processes` counts those of one user, threads too."""

    cpu_s: int = 10
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    processes: int = 64
    open_files: int = 64


class Isolation(StrEnum):
    """What else than limits stands around a program."""

    NAMESPACES = "namespaces"  # no network, no file of ours, no process of ours
    LIMITS = "limits"  # the limits, and another user where we are root: this machine allows no namespaces

    @property
    def lacks(self) -> str:
        """What a program can do beyond its limits, for people; "" if nothing."""
        if self is Isolation.NAMESPACES:
            return ""
        whom = "as another user" if os.geteuid() == 0 else "with your own rights, your files among them"
        return f"this machine allows no namespaces: what models write runs {whom}, and can reach the network"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a program; `detail` is the last that it said, of one that did not pass."""

    result: Literal["passed", "failed", "timeout"]
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.result == "passed"


def run(program: str, timeout_s: float = 10.0, limits: Limits | None = None) -> Outcome:
    """Runs a program and waits for it, at most `timeout_s` seconds.

    Raises: RstitchError (INVALID_ARGUMENT) where it could only run as root.
    """
    return _run(program, timeout_s, limits or Limits(), isolation())


@functools.cache
def isolation() -> Isolation:
    """What this machine allows, tried once. Raises: RstitchError (INVALID_ARGUMENT) if not even limits."""
    for kind in Isolation:
        if _run("", 30.0, Limits(), kind).passed:
            return kind
    raise invalid("check", "code cannot be run here with fewer rights than ours.", "Run as a user that is not root.")


def _run(program: str, timeout_s: float, limits: Limits, kind: Isolation) -> Outcome:
    token = secrets.token_hex(16)  # so that a program that ends early (sys.exit) has not passed
    with tempfile.TemporaryDirectory(prefix="rstitch-sandbox-") as folder:
        for name in ("root", "work"):
            (Path(folder) / name).mkdir()
        Path(folder).chmod(0o755)
        path = Path(folder) / "work" / "program.py"
        path.write_text(f"{program}\nprint({token!r}, flush=True)\n", encoding="utf-8", errors="replace")
        spec = {
            "program": str(path),
            "root": str(Path(folder) / "root"),
            "python": os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
            "prefix": os.path.realpath(sys.base_prefix),
            "isolate": kind is Isolation.NAMESPACES,
            "limits": asdict(limits),
        }
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = subprocess.Popen(
                [sys.executable, "-I", str(_CHILD), json.dumps(spec)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True, env={},
            )  # fmt: skip
            timed_out = _wait(child, timeout_s)
            if child.returncode == 0 and _tail(out, 100).rstrip().endswith(token):
                return Outcome("passed")
            if timed_out or child.returncode in _CPU_LIMIT_EXIT:
                return Outcome("timeout", f"not done after {timeout_s:g} s")
            said = _tail(err, _MAX_SAID).strip().splitlines()
            return Outcome("failed", said[-1] if said else f"ended by itself with code {child.returncode}")


def _wait(child: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether it had to be killed. With it go all that it started."""
    try:
        child.wait(timeout_s)
        return False
    except subprocess.TimeoutExpired:
        child.terminate()  # within namespaces the child kills the program, which may have left our group
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
        return True
    finally:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            assert child.poll() is not None, "a group without processes has ended"
        child.wait()


def _tail(file: IO[bytes], size: int) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - size))
    return file.read(size).decode("utf-8", "replace")
