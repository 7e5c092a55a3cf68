"""Child processes that write to a log file, can be killed and started again, and never outlive this program.

It does not know what the processes are.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

from rstitch.local.reaper import Reaper

_LOCALHOST = "127.0.0.1"
# What `free_port` draws from. Processes that start many services at once, as tests do, each take a part of it.
PORTS = range(16384, 32768)
# Of a log, in which its last lines are looked for: it may have grown for months.
_TAIL_BYTES = 1 << 18
_given: deque[int] = deque(maxlen=1024)  # by `free_port` of late: whoever asked may not listen yet


def free_port() -> int:
    """Finds a port of this machine that nobody listens on, and that this process was not given lately.

    It is below those that systems hand out by themselves (from 32768 on, or higher): a part may need seconds until it
    listens, and meanwhile no connection and no server with port 0 may be given it.
    """
    draw = random.SystemRandom().choice
    port = next(port for port in iter(lambda: draw(PORTS), None) if port not in _given and is_free(port))
    _given.append(port)
    return port


def is_free(port: int) -> bool:
    """Says whether this machine's `port` can be listened on."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((_LOCALHOST, port))
        except OSError:
            return False
        return True


class Process(Protocol):
    """The part of `subprocess.Popen` that is used here."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...


def spawn(command: Sequence[str], env: Mapping[str, str], log: BinaryIO) -> Process:
    """Starts a program in a process group of its own with just this environment; it writes to `log`."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True
    )


@dataclass(slots=True, eq=False)
class ChildProcess:
    """A program in a process group of its own, started, ended and started again."""

    # Tests start hundreds of services: theirs forks a process that has imported them already.
    spawn: ClassVar[Callable[[Sequence[str], Mapping[str, str], BinaryIO], Process]] = staticmethod(spawn)

    name: str
    command: Sequence[str]
    env: Mapping[str, str]  # on top of this program's
    log_path: Path  # gets stdout and stderr, appended over restarts
    reaper: Reaper  # kills it if this program is killed
    _process: Process | None = None

    @property
    def pid(self) -> int | None:
        """Gives the process id; None if it is not running."""
        return self._process.pid if self._process is not None and self.exit_code is None else None

    @property
    def exit_code(self) -> int | None:
        """Says how it ended (negative: by that signal); None if it runs or was never started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Starts it; it must not be running."""
        assert self.pid is None, f"{self.name} is running"
        with self.log_path.open("ab") as log:
            self._process = ChildProcess.spawn(self.command, {**os.environ, **self.env}, log)
        self.reaper.watch(self._process.pid)

    def kill(self) -> None:
        """Ends it at once (SIGKILL), with whatever it started."""
        if self._process is not None:
            # The group may live on without its leader: what the process itself had started.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self.reaper.forget(self._process.pid)

    def terminate(self) -> None:
        """Asks it to end (SIGTERM) and returns; `wait_or_kill` follows."""
        if self._process is not None and self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def wait_or_kill(self, grace_s: float) -> None:
        """Waits until it has ended; after `grace_s` it is killed."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # killed below, as promised
                self._process.wait(grace_s)
            self.kill()

    def log_tail(self, num_lines: int = 20) -> list[str]:
        """Reads the last lines of its log; none before its first start."""
        if not self.log_path.exists():
            return []
        with self.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-num_lines:]
