"""How questions come: a closed loop of so many sessions, or arrivals that do not wait for answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Question = TypeVar("Question")
Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Load:
    """`num_sessions` that each ask their next question when the one before is answered, or, with a `rate`, that many
    questions a second with exponential gaps between them (a Poisson process), whatever becomes of the answers.
    """

    num_sessions: int = 1
    rate: float = 0.0

    @property
    def label(self) -> str:
        if self.rate:
            return f"Poisson arrivals, {self.rate:g}/s"
        return f"{self.num_sessions} session{'s' if self.num_sessions > 1 else ''}"

    @property
    def is_alone(self) -> bool:
        """Whether there is never more than one question at a time."""
        return self.num_sessions == 1 and not self.rate


@dataclass(frozen=True, slots=True)
class Timed(Generic[Reply]):
    """A reply and when it was asked for (or was to be) and given, by time.perf_counter()."""

    index: int
    start_s: float
    end_s: float
    reply: Reply


async def closed_loop(
    ask: Callable[[Question], Awaitable[Reply]], questions: Sequence[Question], num_sessions: int
) -> list[Timed[Reply]]:
    """Asks all questions, never more than `num_sessions` at a time and never fewer while some are left.

    The first error ends all sessions and is raised.
    """
    left = iter(enumerate(questions))
    done: list[Timed[Reply]] = []

    async def session() -> None:
        for index, question in left:
            start = time.perf_counter()
            reply = await ask(question)
            done.append(Timed(index, start, time.perf_counter(), reply))

    await _together(session() for _ in range(min(num_sessions, len(questions))))
    return done


async def open_loop(
    ask: Callable[[Question], Awaitable[Reply]], questions: Sequence[Question], arrivals_s: Sequence[float]
) -> list[Timed[Reply]]:
    """Asks each question at its time, in seconds from now. A late start counts as waiting, not as a later arrival."""
    begin = time.perf_counter()
    done: list[Timed[Reply]] = []

    async def request(index: int, question: Question, due: float) -> None:
        await asyncio.sleep(due - time.perf_counter())
        reply = await ask(question)
        done.append(Timed(index, due, time.perf_counter(), reply))

    numbered = enumerate(zip(questions, arrivals_s, strict=True))
    await _together(request(index, question, begin + arrival) for index, (question, arrival) in numbered)
    return done


def poisson_arrivals(rate: float, n: int, seed: object) -> list[float]:
    """Times of n arrivals in seconds; the first is at 0, so that no block begins idle. Same seed, same times."""
    rng = random.Random(repr(seed))
    times = [0.0]
    while len(times) < n:
        times.append(times[-1] + rng.expovariate(rate))
    return times


async def _together(sessions: Iterable[Coroutine[Any, Any, None]]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(session)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
