"""All cores for the worker that steps while the other rests, and a share for each while both have work.

Routing, one session's models step by turns, and an answer by the LLM alone leaves the SLM without work: with a fixed
share, half of the machine would idle then. Before each step a worker looks whether the other has work now. The sign of
it is a lock that ends with its process, so a worker that dies frees its cores. A step that has begun is not changed; if
the other begins meanwhile, they overlap for the rest of it. Threads must not spin where they wait then
(OMP_WAIT_POLICY=PASSIVE): one that waits for a thread without a core would keep the core.

It knows nothing of models and engines.

    path.slm    locked by the SLM's worker while it has work
    path.llm    likewise by the LLM's
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal


class SpareCores:
    """The side of one worker, whose steps take `share` threads, or `everything` while the other has no work.

    Args:
        path: a file on this host, the same for both workers; those named after it are made if need be.
        set_threads: called in the thread that steps, before a step that takes another number than the last.
    """

    def __init__(
        self, path: Path, role: Literal["slm", "llm"], share: int, everything: int, set_threads: Callable[[int], None]
    ) -> None:
        own, other = (path.with_name(f"{path.name}.{name}") for name in (role, "llm" if role == "slm" else "slm"))
        self._own, self._other = _open(own), _open(other)
        self._share = share
        self._everything = everything
        self._set_threads = set_threads
        self._num_threads = 0

    def begin(self) -> None:
        """A step with work begins: says so, and takes the threads that it may."""
        fcntl.flock(self._own, fcntl.LOCK_EX)
        num_threads = self._share if self._other_has_work() else self._everything
        if num_threads != self._num_threads:
            self._set_threads(num_threads)
            self._num_threads = num_threads

    def end(self) -> None:
        """There is no more work for now."""
        fcntl.flock(self._own, fcntl.LOCK_UN)

    def close(self) -> None:
        for file in (self._own, self._other):
            os.close(file)

    def _other_has_work(self) -> bool:
        """Whether the other side holds its sign; to see that, this one locks it for a moment."""
        try:
            fcntl.flock(self._other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._other, fcntl.LOCK_UN)
        return False


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
