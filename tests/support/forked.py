"""Services that start in a tenth of a second: forked from a process that has imported what they import.

Half of a test run went into importing torch and transformers once more for every worker that is started or restarted.
A forked service is as real as any other: a process and a process group of its own, its own log, its own exit code.
It differs in two things. A variable of the environment that is read when a library is imported or loaded
(OMP_NUM_THREADS and OMP_WAIT_POLICY, TRITON_INTERPRET, HF_HOME, PYTHON*) has the value that it had when the first
service was forked; and what was registered with `atexit` is not called at its end. A test of either starts its service
by `processes.spawn`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import BinaryIO

from rstitch.local.processes import Process, spawn

_PRELOADED = ["model_worker.main", "transformers.modeling_utils", "router_svc.main", "redis.asyncio"]


def spawn_forked(command: Sequence[str], env: Mapping[str, str], log: BinaryIO) -> Process:
    """Does what `processes.spawn` does; what is no module of Python is started as ever."""
    if list(command[:2]) != [sys.executable, "-m"]:
        return spawn(command, env, log)
    return _Forked(command[2:], env, log)


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


class _Forked:
    """The part of `subprocess.Popen` that a `ChildProcess` uses."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: BinaryIO) -> None:
        ours, theirs = multiprocessing.Pipe()
        # Daemonic: what a test forgot does not keep the run from ending.
        self._process = _context().Process(target=_run, args=(list(command), dict(env), log.name, theirs), daemon=True)
        self._process.start()
        theirs.close()
        ours.recv()  # from here on it has a group of its own, which can be killed
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


def _run(command: list[str], env: dict[str, str], log: str, started: Connection) -> None:
    os.setsid()
    for file, flags, number in (
        (os.devnull, os.O_RDONLY, 0),
        (log, os.O_WRONLY | os.O_APPEND, 1),
        (log, os.O_WRONLY | os.O_APPEND, 2),
    ):
        opened = os.open(file, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # its TMPDIR is another
    sys.argv = command
    started.send(None)
    started.close()
    # As `python -m` does, which puts the module's own path in place of the first argument.
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
