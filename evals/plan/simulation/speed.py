"""What a decision of the placement code costs by how many workers there are, timed here and now."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from evals.figures.report import Row
from fleet.placement import Candidate, few, is_overloaded, place

SIZES = (10, 100, 1000)
_TIMES = 2000


def speeds(sizes: tuple[int, ...] = SIZES, times: int = _TIMES) -> Iterator[Row]:
    """Yields decisions a second for each number of workers: the fastest of five rounds, for a busy machine's sake.

    `place` is given candidates, `made` makes those it needs as a router does, in `alike` all workers are as full.
    """
    rng = random.Random(0)
    for size in sizes:
        loads = [(f"slm-{number}", rng.randrange(5, 20), rng.randrange(1000)) for number in range(size)]
        candidates = [Candidate(*load) for load in loads]
        alike = [Candidate(name, 5, 100) for name, _, _ in loads]

        yield {
            "workers": size,
            "place": _rate(partial(_placed, candidates), times),
            "alike": _rate(partial(_placed, alike), times),
            "made": _rate(partial(_made, loads), times),
            "overloaded": _rate(partial(_overloaded, candidates), times),
        }


def _placed(candidates: Sequence[Candidate], session: str) -> None:
    place(session, candidates)


def _made(loads: Sequence[tuple[str, int, int]], session: str) -> None:
    place(session, [Candidate(*load) for load in few(session, loads)])


def _overloaded(candidates: Sequence[Candidate], session: str) -> None:
    is_overloaded(candidates[0], few(session, candidates))


def _rate(decide: Callable[[str], None], times: int) -> float:
    sessions = [f"session-{number}" for number in range(times // 5)]
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for session in sessions:
            decide(session)
        best = min(best, time.perf_counter() - begin)
    return len(sessions) / best
