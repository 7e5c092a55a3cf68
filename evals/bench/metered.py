"""A system whose processes are metered while it is asked: CPU time says more than time does on a busy machine.

Read from /proc, so on Linux only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from evals.asking.record import Record
from evals.asking.systems import System
from evals.tasks.data import Problem

_TICKS = os.sysconf("SC_CLK_TCK")


class Metered(System):
    """Another system, with what some processes take between its first question at a time and its last answer.

    Practice does not count: whatever comes before the first `forget`. What else these processes do meanwhile counts.
    """

    def __init__(self, inner: System, processes: Mapping[str, int]) -> None:
        super().__init__(inner.name)
        self.is_single = inner.is_single
        self._inner = inner
        self._processes = processes
        self._num_open = self._num_answers = 0
        self._has_practised = False
        self._spent_s = dict.fromkeys(processes, 0.0)

    @property
    def ms_per_answer(self) -> dict[str, float]:
        """Gives the CPU milliseconds of an answer, by process."""
        return {name: 1000 * spent / max(1, self._num_answers) for name, spent in self._spent_s.items()}

    async def answer(self, problem: Problem, sample: int = 0) -> Record:
        """As the other system answers."""
        if not self._num_open:
            self._add(-1)
        self._num_open += 1
        try:
            return await self._inner.answer(problem, sample)
        finally:
            self._num_open -= 1
            self._num_answers += 1
            if not self._num_open:
                self._add(+1)

    async def try_out(self, problem: Problem) -> None:
        await self._inner.try_out(problem)

    async def forget(self) -> None:
        await self._inner.forget()
        if not self._has_practised:
            self._has_practised, self._num_answers = True, 0
            self._spent_s = dict.fromkeys(self._processes, 0.0)

    def _add(self, sign: int) -> None:
        for name, pid in self._processes.items():
            self._spent_s[name] += sign * cpu_s(pid)


def cpu_s(pid: int) -> float:
    """Gives the seconds of CPU that a process has taken, in it and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
