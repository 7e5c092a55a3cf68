"""Runs one part with its limit. Its output goes to a file; what it started ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from evals.gpu.parts import Part

_GRACE_S = 5.0
_ENV = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a part ended: exit code (None: it was stopped at its limit), seconds, and its last lines."""

    name: str
    about: str
    code: int | None
    seconds: float
    tail: list[str]

    @property
    def verdict(self) -> str:
        if self.code is None:
            return "stopped at its limit"
        return "passed" if self.code == 0 else f"failed (exit code {self.code})"


def run_part(part: Part, folder: Path, limit_s: float) -> Ended:
    """Runs it for `limit_s` at most; then it is asked to end (SIGTERM), and killed five seconds later."""
    log = folder / f"{part.name}.log"
    begin = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            part.command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | _ENV | part.env,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
            _end(process)
        except BaseException:
            _end(process)
            raise
    text = log.read_text(errors="replace").splitlines()
    return Ended(part.name, part.about, code, time.monotonic() - begin, text[-25:])


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
