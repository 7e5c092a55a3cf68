"""A router as placement sees it: what workers announced, what it placed since, and whom it suspects.

Placed is by `fleet.placement`, as routers do. To compare with: on the worker that has least of all that a router sees,
at random, and in turn; the last two move no conversation.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Literal

from evals.plan.simulation.worker import Worker
from fleet.placement import Candidate, few, is_overloaded, place

Way = Literal["fleet", "least", "random", "turns"]
WAYS: tuple[Way, ...] = ("fleet", "least", "random", "turns")
TTL_S = 3.0  # of an announcement


class _Seen:
    """A worker as one router sees it: bound = announced + placed since."""

    __slots__ = ("as_of", "placed", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.as_of = -1.0
        self.placed: list[float] = []


class Roster:
    """The workers of one role as one router knows them."""

    def __init__(self, workers: Iterable[Worker], way: Way, rng: random.Random) -> None:
        self._seen = {worker.id: _Seen(worker) for worker in workers}
        self._way = way
        self._rng = rng
        self._read_at = -1.0
        self._turn = 0
        self._candidates: dict[str, Candidate] = {}  # living, not draining, not suspect
        self.num_decisions = 0

    def read(self, now: float) -> None:
        """Reads the registry: who is there, and what was announced since it was read before."""
        for name, seen in self._seen.items():
            said_at, sessions, pages, is_draining = seen.worker.said
            if now - said_at > TTL_S or is_draining:
                self._candidates.pop(name, None)
            elif said_at > seen.as_of:
                # What was placed before the last reading had arrived when this was said.
                seen.placed = [time for time in seen.placed if time >= self._read_at]
                self._candidates[name] = Candidate(name, sessions + len(seen.placed), pages)
            seen.as_of = max(seen.as_of, said_at)
        self._read_at = now

    def suspect(self, name: str) -> None:
        """A stream to it broke: nothing is placed there until it announces itself again."""
        self._candidates.pop(name, None)

    def place(self, session: str, now: float) -> Worker | None:
        """Places a session on a worker, of which it is not known that it is dead; None where there is none."""
        self.num_decisions += 1
        candidates = self._candidates
        if not candidates:
            return None
        if self._way == "fleet":
            chosen = place(session, candidates.values())
            assert chosen is not None
        elif self._way == "least":
            chosen = min(candidates.values(), key=_rank)
        else:
            names = list(candidates)
            self._turn += 1
            index = self._turn if self._way == "turns" else self._rng.randrange(len(names))
            chosen = candidates[names[index % len(names)]]
        seen = self._seen[chosen.id]
        seen.placed.append(now)
        candidates[chosen.id] = Candidate(chosen.id, chosen.num_bound + 1, chosen.num_free_pages)
        return seen.worker

    def is_overloaded(self, worker: Worker, session: str) -> bool:
        """Whether a conversation is to leave its worker at its next turn."""
        current = self._candidates.get(worker.id)
        if self._way in ("random", "turns") or current is None:
            return False
        return is_overloaded(current, few(session, tuple(self._candidates.values())))


def _rank(candidate: Candidate) -> tuple[int, int]:
    return candidate.num_bound, -candidate.num_free_pages
