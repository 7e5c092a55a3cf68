"""Asks every system every problem and writes down what came back. It knows neither flags nor how files are made."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from evals.checking.checker import Checker
from evals.evaluation.record import Key, Record, entropies_of, parts_of
from evals.evaluation.run_file import RunFile
from evals.tasks.data import Problem
from evals.tasks.task import Task
from rstitch.client.aio import AsyncClient
from rstitch.client.specs import Spec
from rstitch.client.types import Answer, Chunk, Event, Message, Policy, Random, Sampling, Started
from rstitch.errors import RstitchError

Order = Literal["interleaved", "blocks"]
# Refusals of a question, not of a system that is not there: it counts as a wrong answer.
_REFUSALS = {"INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION"}
# Of an answer that is begun to see whether it can be.
_TRY_TOKENS = 8
GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class System:
    """Something to be asked: its name and what it is made of."""

    name: str
    spec: Spec


@dataclass(frozen=True, slots=True)
class Plan:
    """How questions are put.

    Attributes:
        samples: answers per problem and system.
        sampling: of the first sample; those after it have the seeds that follow.
        concurrency: questions open at a time.
        order: all systems on a problem before the next one (noise then hits all alike), or one system after the other.
        keep_traces: whether records hold tokens, entropies and text.
    """

    max_new_tokens: int
    samples: int = 1
    sampling: Sampling = GREEDY
    concurrency: int = 1
    order: Order = "interleaved"
    keep_traces: bool = True


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to be had."""

    system: System
    problem: Problem
    sample: int

    @property
    def key(self) -> Key:
        """As its record's."""
        return self.system.name, self.problem.index, self.sample


def jobs(systems: Sequence[System], problems: Sequence[Problem], plan: Plan) -> Iterator[Job]:
    """In the order of asking. Interleaved, each system is first as often as last."""
    if plan.order == "blocks":
        yield from (
            Job(system, problem, sample) for system in systems for problem in problems for sample in range(plan.samples)
        )
        return
    for problem in problems:
        for sample in range(plan.samples):
            turn = (problem.index + sample) % len(systems)
            yield from (Job(system, problem, sample) for system in (*systems[turn:], *systems[:turn]))


class Runner:
    """Asks a router."""

    def __init__(self, client: AsyncClient, task: Task, checker: Checker, plan: Plan) -> None:
        self._client = client
        self._task = task
        self._checker = checker
        self._plan = plan

    async def try_out(self, systems: Sequence[System], problem: Problem) -> None:
        """Has each system begin an answer, uncounted: one that is not there, or has no room for such an answer, is
        refused now, and the first real answer finds a warm stack. Raises: RstitchError with the system's name.
        """
        for system in systems:
            session_id, enough = "", 0
            try:
                async with aclosing(self._events(Job(system, problem, 0))) as events:
                    async for event in events:
                        if isinstance(event, Started):
                            session_id, enough = event.session_id, event.position + _TRY_TOKENS
                        elif isinstance(event, Chunk) and event.position + len(event.tokens) >= enough:
                            break
                await self._client.delete_trajectory(session_id)  # stops it, too
            except RstitchError as error:
                error.message = f"{system.name}: {error.message}"
                raise

    async def run(self, left: Sequence[Job], file: RunFile, on_record: Callable[[Record], None]) -> None:
        """Asks what is left. Raises: RstitchError if the service is lost; what is had by then is kept."""
        waiting = iter(left)

        async def session() -> None:
            for job in waiting:
                record = await self._answer(job)
                file.append(record)
                on_record(record)

        lost: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._plan.concurrency):
                    group.create_task(session())
        except* RstitchError as errors:
            lost += errors.exceptions
        if lost:
            raise lost[0]

    async def _answer(self, job: Job) -> Record:
        record = Record(
            system=job.system.name,
            problem=job.problem.index,
            id=job.problem.id,
            sample=job.sample,
            seed=self._plan.sampling.seed + job.sample,
        )
        begin = time.perf_counter()
        try:
            events = [event async for event in self._events(job)]
        except RstitchError as error:
            if error.code.name not in _REFUSALS:
                raise
            return dataclasses.replace(record, error=str(error))
        client_ms = 1000 * (time.perf_counter() - begin)
        answer = Answer.of(events)
        verdict = await self._checker.check(job.problem, answer.text)
        finished = answer.finished
        trace: dict[str, Any] = {}
        if self._plan.keep_traces:
            trace = {"parts": parts_of(events), "tokens": answer.tokens, "entropies": entropies_of(answer)}
        return dataclasses.replace(
            record,
            session_id=answer.session_id,
            trace_id=next(event.trace_id for event in events if isinstance(event, Started)),
            correct=verdict.correct,
            answer=verdict.answer,
            detail=verdict.detail,
            finish=finished.reason.value,
            budget_spent=tuple(finished.budget_spent),
            exited_early=finished.early_exit is not None,
            client_ms=round(client_ms, 3),
            usage=dataclasses.asdict(finished.usage),
            **trace,
        )

    def _events(self, job: Job) -> AsyncGenerator[Event, None]:
        spec, seed = job.system.spec, self._plan.sampling.seed + job.sample
        events = self._client.generate(
            **question_of(self._task, job.problem),
            policy=seeded(spec.policy, seed * 1_000_003 + job.problem.index),
            early_exit=spec.early_exit,
            budget=spec.budget,
            sampling=dataclasses.replace(self._plan.sampling, seed=seed),
            max_new_tokens=self._plan.max_new_tokens,
            stop=self._task.stop,
            guard=False,  # what was asked for is what is measured
        )
        assert isinstance(events, AsyncGenerator)
        return events


def question_of(task: Task, problem: Problem) -> dict[str, Any]:
    """The input of `generate`: plain text, or a chat for the models' template."""
    if task.input == "text":
        return {"text": problem.prompt}
    system = [Message("system", task.system)] if task.system else []
    return {"chat": [*system, Message("user", problem.prompt)]}


def seeded(policy: Policy | None, seed: int) -> Policy | None:
    """The policy with this seed, if it flips coins and has none: the same answers another time."""
    if isinstance(policy, Random) and policy.seed is None:
        return dataclasses.replace(policy, seed=seed)
    return policy
