"""How questions come: a closed loop of so many sessions, or arrivals that do not wait for answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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


async def closed_loop(
    ask: Callable[[Question], Awaitable[Reply]], questions: Sequence[Question], num_sessions: int
) -> list[Reply]:
    """Asks all questions, never more than `num_sessions` at a time and never fewer while some are left.

    The first error ends all sessions and is raised. Replies come in the order of the questions.
    """
    left = iter(enumerate(questions))
    replies: dict[int, Reply] = {}

    async def session() -> None:
        for index, question in left:
            replies[index] = await ask(question)

    await _together(session() for _ in range(min(num_sessions, len(questions))))
    return [replies[index] for index in range(len(questions))]


async def open_loop(
    ask: Callable[[Question], Awaitable[Reply]], questions: Sequence[Question], arrivals_s: Sequence[float]
) -> list[Reply]:
    """Asks each question at its time, in seconds from now, whatever becomes of the others; else as `closed_loop`."""
    begin = time.perf_counter()
    replies: dict[int, Reply] = {}

    async def request(index: int, question: Question) -> None:
        await asyncio.sleep(begin + arrivals_s[index] - time.perf_counter())
        replies[index] = await ask(question)

    await _together(request(index, question) for index, question in enumerate(questions))
    return [replies[index] for index in range(len(questions))]


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
