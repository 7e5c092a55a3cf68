"""A worker whose ranks are forked from it, so that none imports torch once more.

`python -m tests.support.forked_ranks llm_worker --tp 3 ...`. They are told what they are by the same pipe, and end by
it.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from typing import IO

from model_worker import rank, rank_processes
from model_worker.settings import WorkerSettings


class _Forked:
    """The part of `subprocess.Popen` that `RankProcesses` uses."""

    def __init__(self, pid: int, stdin: IO[str]) -> None:
        self.pid, self.stdin = pid, stdin

    def wait(self, timeout: float | None = None) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


_writers: list[int] = []  # of which a rank must have none


def fork_rank(settings: WorkerSettings, told: dict[str, object]) -> subprocess.Popen[str]:
    """Does what `rank_processes._start` does."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        for each in (*_writers, writer):
            os.close(each)
        sys.stdin = os.fdopen(reader)
        try:
            rank.main()
        finally:
            os._exit(1)
    os.close(reader)
    _writers.append(writer)
    stdin = os.fdopen(writer, "w")
    stdin.write(json.dumps(told | {"settings": settings.model_dump(mode="json")}) + "\n")
    stdin.flush()
    return _Forked(pid, stdin)  # type: ignore[return-value]


if __name__ == "__main__":
    rank_processes._start = fork_rank
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
