"""Turns on a device that two workers share: one step at a time, and so many of the SLM for each of the LLM.

Left alone, two processes on one device slow each other down by time slices, and the LLM steps whenever one session
wants it. In turns, the LLM's rows gather while the SLM steps, and each step has the device for itself.

The state is three files, held by locks that end with their process, so a worker that dies never blocks the other. It
knows nothing of models, engines or threads.

    path        locked during a step; its content is the number of SLM steps since the LLM's last
    path.slm    locked by the SLM's worker while somebody waits for a step of it
    path.llm    likewise by the LLM's
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

Role = Literal["slm", "llm"]
_COUNT_BYTES = 8


class DeviceTurns:
    """The side of the worker that steps `role`: `slm_steps` SLM steps for each of the LLM's while both have work.

    Both sides are given the same `slm_steps` and the same `path`, a file on this host, which is made if need be.
    """

    def __init__(self, path: Path, role: Role, slm_steps: int) -> None:
        self._role = role
        self._slm_steps = slm_steps
        self._device = _open(path)
        self._work = {name: _open(path.with_name(f"{path.name}.{name}")) for name in ("slm", "llm")}
        self._other: Role = "llm" if role == "slm" else "slm"
        self._stepping = False

    def begin(self, has_work: bool, somebody_waits: bool) -> bool:
        """Takes the device for a step if it is free and this side's turn; else returns False: ask again soon.

        A step that nobody waits for takes no turn: it goes when the other side has no work. One that has nothing to do
        goes at once, without the device.
        """
        fcntl.flock(self._work[self._role], fcntl.LOCK_EX if somebody_waits else fcntl.LOCK_UN)
        if not has_work:
            return True
        if not _try_lock(self._device, fcntl.LOCK_EX):
            return False
        if self._other_has_work() and not (somebody_waits and self._is_my_turn()):
            fcntl.flock(self._device, fcntl.LOCK_UN)
            return False
        self._stepping = True
        return True

    def end(self, somebody_waits: bool) -> None:
        """Gives the device back after a step, if that took it; `somebody_waits` for the next one or does not."""
        if not self._stepping:
            return
        self._stepping = False
        count = self._count() + 1 if self._role == "slm" else 0
        os.pwrite(self._device, count.to_bytes(_COUNT_BYTES, "little"), 0)
        if not somebody_waits:
            fcntl.flock(self._work[self._role], fcntl.LOCK_UN)
        fcntl.flock(self._device, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps the device for what is not a step, such as measuring at the start; waits until it is free.

        The other side, if it serves already, does not step meanwhile.
        """
        fcntl.flock(self._device, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._device, fcntl.LOCK_UN)

    def close(self) -> None:
        """Gives back the device and the signs of work."""
        for file in (self._device, *self._work.values()):
            os.close(file)

    def _is_my_turn(self) -> bool:
        return (self._count() < self._slm_steps) == (self._role == "slm")

    def _count(self) -> int:
        return int.from_bytes(os.pread(self._device, _COUNT_BYTES, 0), "little")

    def _other_has_work(self) -> bool:
        """Returns whether the other side holds its sign; to see that, it locks the sign for a moment."""
        sign = self._work[self._other]
        if not _try_lock(sign, fcntl.LOCK_SH):
            return True
        fcntl.flock(sign, fcntl.LOCK_UN)
        return False


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
