"""The paired matrix: every system under every load on the same problems, block by block, so that noise hits all alike.

It knows neither flags nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from evals.asking.load import Load, Timed, closed_loop, open_loop, poisson_arrivals
from evals.bench import records
from evals.bench.records import Record, Row, by_problem
from evals.bench.systems import Reply, System
from evals.tasks.tiny.arithmetic import Problem, is_correct

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
        """Blocks of a system under a load."""
        return max(ceil(self.num_problems / self.block_size(load)), 1 if load.is_alone else _MIN_BLOCKS)

    def most_at_once(self, load: Load) -> int:
        """Questions that can be open at the same time."""
        return self.block_size(load) if load.rate else load.num_sessions

    def num_asked(self, load: Load) -> int:
        """Questions that a system is asked under a load."""
        return self.block_size(load) * self.num_blocks(load)


def taking_part(systems: Sequence[System], load: Load) -> list[System]:
    """Those that a load suits."""
    return [system for system in systems if load.is_alone or not system.is_single]


async def measure(
    systems: Sequence[System],
    problems: Sequence[Problem],
    practice: Sequence[Problem],
    load: Load,
    plan: Plan,
    on_progress: Callable[[str, int], None] = lambda system, num_answers: None,
) -> dict[str, list[Record]]:
    """All answers under one load, by system. `practice` warms each system up under that load and is not counted."""
    found: dict[str, list[Record]] = {system.name: [] for system in systems}
    for system in systems:
        await closed_loop(system.answer, [problem.question for problem in practice], load.num_sessions)
        await system.forget()
    size = plan.block_size(load)
    for block in range(plan.num_blocks(load)):
        numbers = range(block * size, (block + 1) * size)
        # Each goes first in turn: what comes after something else may find the machine warmer or more tired.
        turn = block % len(systems)
        for system in [*systems[turn:], *systems[:turn]]:
            timed = await _ask(system, [problems[number] for number in numbers], load, (plan.seed, block))
            await system.forget()
            found[system.name] += _records(system.name, block, numbers, timed, problems)
            on_progress(system.name, size)
    return {name: by_problem(chosen) for name, chosen in found.items()}


def baseline_of(found: Mapping[str, object]) -> str:
    """The system that the others are measured against: LLM-only on our own stack where it takes part."""
    return "llm_only" if "llm_only" in found else next(iter(found))


def variant_name(system: str, variant: str) -> str:
    """Of a system on a stack with other settings; a variant without a name is the system itself."""
    return f"{system} ({variant})" if variant else system


def rows(found: dict[str, list[Record]], load: Load) -> list[Row]:
    """One row per system: what was written, how fast, where the time went; of a variant, what it changes."""
    baseline = found[baseline_of(found)]
    table = []
    for name, chosen in found.items():
        row: Row = {"system": name, "load": load.label, "num_sessions": load.num_sessions, "rate": load.rate}
        row |= records.quality(chosen, baseline) | records.speed(chosen, baseline)
        row["parts_ms_per_token"] = records.parts(chosen)
        varied = name.partition(" (")[0]
        row["variation"] = records.variation(chosen, found[varied]) if varied != name else None
        table.append(row)
    return table


async def _ask(system: System, problems: Sequence[Problem], load: Load, seed: object) -> list[Timed[Reply]]:
    questions = [problem.question for problem in problems]
    if load.rate:
        return await open_loop(system.answer, questions, poisson_arrivals(load.rate, len(questions), seed))
    return await closed_loop(system.answer, questions, load.num_sessions)


def _records(
    system: str, block: int, numbers: range, timed: Sequence[Timed[Reply]], problems: Sequence[Problem]
) -> list[Record]:
    begin = min(one.start_s for one in timed)
    return [
        Record(
            system=system,
            block=block,
            problem=numbers[one.index],
            start_s=one.start_s - begin,
            end_s=one.end_s - begin,
            ttft_ms=1000 * (one.reply.first_token_s - one.start_s),
            correct=is_correct(one.reply.text, problems[numbers[one.index]]),
            num_slm_tokens=one.reply.num_slm_tokens,
            num_llm_tokens=one.reply.num_llm_tokens,
            num_switches=one.reply.num_switches,
            num_discarded=one.reply.num_discarded,
            parts_us=one.reply.parts_us,
        )
        for one in timed
    ]
