"""The paired matrix: all systems under a load on the same problems, block by block, so that noise hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from evals.asking.ask import Job, ask, turned
from evals.asking.load import Load
from evals.asking.record import Record
from evals.asking.systems import System
from evals.checking.checker import Checker
from evals.tasks.data import Problem

# Blocks of a load whose answers run together: pairs are only as fine as its blocks.
_MIN_BLOCKS = 2
_ARRIVAL_BLOCKS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked.

    Attributes:
        num_problems: of each system under each load, at least; whole blocks are asked.
        rounds: questions of each session in a block. The more, the less weighs its end, where sessions idle.
        seed: of arrivals.
    """

    num_problems: int
    rounds: int = 4
    seed: int = 0

    def block_size(self, load: Load) -> int:
        """Questions of a block; one where they come one at a time, so that the systems alternate on each problem."""
        if load.is_alone:
            return 1
        return max(1, self.num_problems // _ARRIVAL_BLOCKS) if load.rate else self.rounds * load.num_sessions

    def num_blocks(self, load: Load) -> int:
        return max(ceil(self.num_problems / self.block_size(load)), 1 if load.is_alone else _MIN_BLOCKS)

    def most_at_once(self, load: Load) -> int:
        """Questions that can be open at the same time."""
        return self.block_size(load) if load.rate else load.num_sessions

    def num_asked(self, load: Load) -> int:
        return self.block_size(load) * self.num_blocks(load)


def taking_part(systems: Sequence[System], load: Load) -> list[System]:
    """Those of the systems that a load suits."""
    return [system for system in systems if load.is_alone or not system.is_single]


async def measure(
    systems: Sequence[System],
    problems: Sequence[Problem],
    load: Load,
    plan: Plan,
    checker: Checker | None = None,
    practice: Sequence[Problem] = (),
    on_record: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """All answers under one load. `practice` warms each system up under that load and is not counted."""
    found: list[Record] = []
    for system in systems:
        await ask([Job(system, problem) for problem in practice], Load(load.num_sessions))
        await system.forget()
    size = plan.block_size(load)
    for block in range(plan.num_blocks(load)):
        chosen = problems[block * size : (block + 1) * size]
        for system in turned(systems, block):
            wanted = [Job(system, problem) for problem in chosen]
            found += await ask(wanted, load, checker, on_record, block, plan.seed)
            await system.forget()
    return found
