"""What steps cost in CPU time, fitted on whole answers by several policies and at several loads of a running stack.

Time says little of a step where others take the cores in between; the CPU time of a process does. A worker's is that of
its steps, more by the row and more by each other token, and of whatever it does around them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.asking.access import access
from evals.asking.record import Record
from evals.latency.fit import relative_nnls
from evals.plan.load import ROLES, Role
from evals.plan.metering import Look
from rstitch.v1 import worker_pb2, worker_pb2_grpc


@dataclass(frozen=True, slots=True)
class LinearSteps:
    """Seconds of CPU of a step, of each of its rows, and of each other token."""

    base_s: float
    row_s: float
    other_s: float

    def step_s(self, rows: int, other_tokens: float, context: float) -> float:
        return self.base_s + self.row_s * rows + self.other_s * other_tokens


@dataclass(frozen=True, slots=True)
class Counted:
    """What a worker counted so far: steps, tokens computed, tokens that came of it."""

    steps: int
    computed: int
    kept: int

    def since(self, before: Counted) -> Counted:
        return Counted(self.steps - before.steps, self.computed - before.computed, self.kept - before.kept)


@dataclass(frozen=True, slots=True)
class Spent:
    """Answers under one load: what they took of each process, in seconds of a core, and what both workers counted."""

    records: Sequence[Record]
    took_s: float
    cores: float  # that the stack had or could have had
    cpu_s: Mapping[str, float]
    counted: Mapping[Role, Counted]

    @property
    def tokens(self) -> int:
        return sum(record.num_tokens for record in self.records)

    @property
    def cpu_ms(self) -> float:
        """Of an answer, in all processes together."""
        return 1000 * sum(self.cpu_s.values()) / len(self.records)


class Spending:
    """A running stack that is metered while it is asked."""

    def __init__(self, processes: Mapping[str, int], workers: Sequence[str]) -> None:
        self._processes = processes
        self._workers = dict(zip(ROLES, workers, strict=True))

    async def over(self, asked: Callable[[], Awaitable[list[Record]]]) -> Spent:
        """Has answers asked for. Raises RstitchError if the service is lost."""
        counted, before = await self._counted(), Look.at(self._processes)
        records = await asked()
        after, again = Look.at(self._processes), await self._counted()
        more = {role: again[role].since(counted[role]) for role in ROLES}
        return Spent(records, after.clock_s - before.clock_s, after.cores(before), after.spent(before), more)

    async def _counted(self) -> dict[Role, Counted]:
        found: dict[Role, Counted] = {}
        for role, address in self._workers.items():
            async with access().aio_channel(address) as channel:
                stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
                counters = (await stub.GetInfo(worker_pb2.GetInfoRequest(), timeout=30)).counters
                found[role] = Counted(counters.num_steps, counters.num_computed_tokens, counters.num_kept_tokens)
        return found


def fit_steps(role: Role, runs: Sequence[Spent]) -> LinearSteps:
    """Least squares over runs in which the worker took at least a step, residuals relative to what it spent."""
    used = [(run.counted[role], run.cpu_s[f"{role} worker"]) for run in runs if run.counted[role].steps]
    columns = np.array([[each.steps, each.kept, max(0, each.computed - each.kept)] for each, _ in used], float)
    spent = np.maximum(np.array([cpu_s for _, cpu_s in used]), 1e-3)
    base, row, other = relative_nnls(columns, spent, spent)
    return LinearSteps(max(base, 1e-6), row, other)
