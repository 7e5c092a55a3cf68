"""Puts questions to systems under a load and yields one record an answer. It knows neither flags nor files."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evals.asking.load import Load, closed_loop, open_loop, poisson_arrivals
from evals.asking.record import Key, Record
from evals.asking.systems import System
from evals.checking.checker import Checker
from evals.tasks.data import Problem

Order = Literal["interleaved", "blocks"]


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to be had."""

    system: System
    problem: Problem
    sample: int = 0

    @property
    def key(self) -> Key:
        return self.system.name, self.problem.index, self.sample


def jobs(
    systems: Sequence[System], problems: Sequence[Problem], samples: int = 1, order: Order = "interleaved"
) -> Iterator[Job]:
    """All jobs in the order of asking.

    Args:
        samples: answers per problem and system.
        order: all systems on a problem before the next one (noise then hits all alike, and each is first as often as
            last), or one system after the other.
    """
    asked = [(problem, sample) for problem in problems for sample in range(samples)]
    if order == "blocks":
        yield from (Job(system, *each) for system in systems for each in asked)
        return
    for problem, sample in asked:
        yield from (Job(system, problem, sample) for system in turned(systems, problem.index + sample))


def turned(systems: Sequence[System], turn: int) -> list[System]:
    """The systems with another one first: what comes after something else may find the machine warmer."""
    turn %= max(1, len(systems))
    return [*systems[turn:], *systems[:turn]]


async def ask(
    wanted: Sequence[Job],
    load: Load | None = None,
    checker: Checker | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
    block: int = 0,
    seed: int = 0,
) -> list[Record]:
    """Has all jobs done under one load, as one block; the records come in the order of the jobs.

    Args:
        load: default: one question at a time.
        checker: judges the answers, outside of their time; None: nobody does.
        on_record: told each record as it comes, so that what is had is kept if the service is lost.
        block: number of the block, in its records; with `seed` it also decides the times of arrivals.

    Raises: RstitchError if the service is lost.
    """
    load = load or Load()
    begin = time.perf_counter()
    arrivals = poisson_arrivals(load.rate, len(wanted), (seed, block)) if load.rate else None

    async def one(numbered: tuple[int, Job]) -> Record:
        index, job = numbered
        called = time.perf_counter()
        start = called if arrivals is None else begin + arrivals[index]
        record = await job.system.answer(job.problem, job.sample)
        # An answer that was to be asked for earlier has waited since then.
        timed: dict[str, Any] = {
            "client_ms": round(1000 * (time.perf_counter() - start), 3),
            # 0 stays 0: nobody saw the first token.
            "client_ttft_ms": round((ttft := record.client_ttft_ms) and ttft + 1000 * (called - start), 3),
        }
        if checker is not None and not record.error:
            timed |= dataclasses.asdict(await checker.check(job.problem, record.text))
        record = dataclasses.replace(record, load=load.label, block=block, start_s=round(start - begin, 6), **timed)
        on_record(record)
        return record

    numbered = list(enumerate(wanted))
    if arrivals is None:
        return await closed_loop(one, numbered, load.num_sessions)
    return await open_loop(one, numbered, arrivals)


def without_trace(record: Record) -> Record:
    """The record without tokens, entropies and text."""
    return dataclasses.replace(record, parts=(), tokens=(), entropies=())
