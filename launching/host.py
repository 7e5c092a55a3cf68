"""The actor of a unit: it keeps programs of ours running on the node that Ray placed it on.

A program that ends is started again here, after delays that grow: Ray would start the actor anew at once, as often as a
wrong flag ends it, and forget why. Ray starts the actor anew, elsewhere if need be, when its process or node is lost;
the reaper has killed its programs by then. It knows no fleet, no Redis and no token.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ray

from launching.plan import ADDRESS, BUNDLED, CONFIG, FIRST, HEADS, PYTHON, REDIS_SERVER, Program, Unit
from launching.states import ProgramState
from rstitch.cli.log_lines import last_lines
from rstitch.local.part import ROOT, Part, bundled_heads, bundled_model, redis_server
from rstitch.local.processes import ChildProcess, free_port
from rstitch.local.reaper import Reaper
from rstitch.local.supervisor import Supervisor

_LOOK_S = 0.2
_CONNECT_S = 0.5
_NUM_LOG_LINES = 3
# How lines begin that Ray writes into an actor's log for its own use.
_OF_RAY = (":job_id:", ":actor_name:", ":task_name:")


class _Running(Part):
    """A program that takes another port if somebody has its own by the time it is started."""

    __slots__ = ("num_starts", "on_start")

    def begin(self, on_start: Callable[[_Running], None]) -> None:
        self.num_starts = 0
        self.on_start = on_start
        self.start()

    def start(self) -> None:
        self.on_start(self)
        self.num_starts += 1
        super().start()


class Host:
    """Runs a unit's programs until it is told to stop, or its process ends."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._host = unit.listen_host or ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()
        self._stopping = False
        self._ended = False
        self._why: dict[str, str] = {}
        self._reaper = Reaper()
        self._folder = Path(tempfile.mkdtemp(prefix="rstitch-"))
        self._reaper.remove(self._folder)
        # Ray's own log of this actor, which its dashboard and its command line show; where Ray writes that through a
        # pipe, it has no end that could be read.
        stdout = Path("/proc/self/fd/1").resolve()
        self._log = stdout if stdout.is_file() else self._folder / "programs.log"
        self._parts: list[_Running] = []
        for program in unit.programs:
            self._parts.append(self._begun(program))
        self._supervisor = Supervisor(self._parts, self._say)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def state(self) -> tuple[ProgramState, ...]:
        """Tells of each program whether it runs, and where."""
        with self._lock:
            return tuple(
                ProgramState(
                    part.name,
                    part.address,
                    part.process.pid,
                    part.process.pid is not None and _is_listening(part.address),
                    part.num_starts,
                    self._why.get(part.name, ""),
                )
                for part in self._parts
            )

    def is_stopping(self) -> bool:
        """Says whether it was told to stop."""
        return self._stopping

    def stop(self, within_s: float) -> bool:
        """Has the programs end by themselves (SIGTERM: workers drain), and kills what is left after so long.

        Returns whether nothing had to be killed.
        """
        with self._lock:
            self._stopping = True  # from here on nobody starts one again
        deadline = time.monotonic() + within_s
        for part in reversed(self._parts):
            part.process.terminate()
        while any(part.process.exit_code is None for part in self._parts) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        with self._lock:
            if not self._ended:  # another call may have had less time
                self._ended = True
                for part in self._parts:
                    part.process.kill()
                self._reaper.close()
        return all(part.process.exit_code != -signal.SIGKILL for part in self._parts)

    def _begun(self, program: Program) -> _Running:
        process = ChildProcess(program.name, (), _environment(program, self._folder), self._log, self._reaper)
        part = _Running(process, "", lambda: _is_listening(part.address), float("inf"))
        part.begin(lambda part: self._prepare(program, part))
        return part

    def _prepare(self, program: Program, part: Part) -> None:
        """Finds a port, for as long as it can the last one, and fills in what a command says of this node."""
        last = int(part.address.rpartition(":")[2] or program.port)
        part.address = f"{self._host}:{last if last and _is_free(self._host, last) else free_port()}"
        first = self._parts[0].address if self._parts else part.address
        config = self._folder / f"{program.name}.conf"
        if program.config:
            _, _, port = part.address.rpartition(":")
            _write(config, program.config.replace("{host}", self._host).replace("{port}", port))
        part.process.command = [
            _filled(word, {ADDRESS: part.address, FIRST: first, CONFIG: str(config)}) for word in program.command
        ]

    def _watch(self) -> None:
        try:
            while not self._stopping:
                with self._lock:
                    if not self._stopping:
                        self._supervisor.look()
                time.sleep(_LOOK_S)
        finally:
            if not self._stopping:  # an actor that watches nothing is worse than none: Ray starts it anew
                traceback.print_exc()
                os._exit(1)

    def _say(self, program: str, told: str, log: Sequence[str]) -> None:
        print(f"{self._unit.id}: {program} {told}", flush=True)  # noqa: T201 - what an actor prints is its log
        if any(part.name == program and part.process.exit_code is not None for part in self._parts):
            theirs = (line for line in log if not line.startswith(_OF_RAY))
            self._why[program] = " | ".join([told, *last_lines(theirs, _NUM_LOG_LINES)])


def _environment(program: Program, folder: Path) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TMPDIR": str(folder),
    }
    return {**own, **{name: _filled(value, {}) for name, value in program.env.items()}}


def _filled(word: str, values: Mapping[str, str]) -> str:
    """Fills a word in that stands for something of this node; one that only holds braces stays as it is."""
    if word in values:
        return values[word]
    found: Callable[[], str] | None = {
        PYTHON: lambda: sys.executable,
        REDIS_SERVER: redis_server,
        HEADS: lambda: os.environ.get("RSTITCH_HEADS", bundled_heads()),
        BUNDLED["slm"]: lambda: bundled_model("tiny-slm"),
        BUNDLED["llm"]: lambda: bundled_model("tiny-llm"),
    }.get(word)
    return word if found is None else found()


def _write(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError:
            return False
    return True


def _is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), _CONNECT_S):
        return True
    return False
