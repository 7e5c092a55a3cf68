"""A router as placement sees it: what workers announced, what it placed since, and whom it suspects.

Placed is by `fleet.placement`, as routers do. To compare with: on the worker that has least of all that a router sees,
at random, and in turn; the last two move no conversation.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Literal

from evals.plan.simulation.worker import Worker
from fleet.placement import Candidate, few, is_overloaded, place
from router_svc.workers.load import Load

Way = Literal["fleet", "least", "random", "turns"]
WAYS: tuple[Way, ...] = ("fleet", "least", "random", "turns")
TTL_S = 3.0  # of an announcement


class _Seen:
    """A worker as one router sees it."""

    __slots__ = ("as_of", "load", "pages", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.as_of = -1.0
        self.load = Load()
        self.pages = 0

    def candidate(self, now: float) -> Candidate:
        return Candidate(self.worker.id, self.load.num_bound(now), self.pages)


class Roster:
    """The workers of one role as one router knows them."""

    def __init__(self, workers: Iterable[Worker], way: Way, rng: random.Random) -> None:
        self._seen = {worker.id: _Seen(worker) for worker in sorted(workers, key=lambda each: each.id)}
        self._way = way
        self._rng = rng
        self._read_at = -1.0
        self._turn = 0
        self._suspects: set[str] = set()
        self._takers: list[_Seen] = []  # living, not draining, not suspect
        self.num_decisions = 0

    def read(self, now: float) -> None:
        """Reads the registry: who is there, and what was announced since it was read before."""
        takers = []
        for name, seen in self._seen.items():
            said_at, sessions, pages, is_draining = seen.worker.said
            if said_at > seen.as_of:
                seen.load.said(sessions, self._read_at)
                seen.as_of, seen.pages = said_at, pages
                self._suspects.discard(name)
            if now - said_at <= TTL_S and not is_draining and name not in self._suspects:
                takers.append(seen)
        self._takers, self._read_at = takers, now

    def suspect(self, name: str) -> None:
        """A stream to it broke: nothing is placed there until it announces itself again."""
        if name not in self._suspects:
            self._suspects.add(name)
            self._takers = [seen for seen in self._takers if seen.worker.id != name]

    def place(self, session: str, now: float, besides: Worker | None = None) -> Worker | None:
        """Places a session on another worker, of which it is not known that it is dead; None where there is none."""
        self.num_decisions += 1
        takers = self._others(besides)
        if not takers:
            return None
        chosen = self._choose(session, now, takers)
        chosen.load.place(now)
        return chosen.worker

    def _choose(self, session: str, now: float, takers: Sequence[_Seen]) -> _Seen:
        if self._way == "fleet":
            found = place(session, [seen.candidate(now) for seen in few(session, takers)])
            assert found is not None
            return self._seen[found.id]
        if self._way == "least":
            return min(takers, key=lambda seen: (seen.load.num_bound(now), -seen.pages))
        self._turn += 1
        index = self._turn if self._way == "turns" else self._rng.randrange(len(takers))
        return takers[index % len(takers)]

    def _others(self, besides: Worker | None) -> Sequence[_Seen]:
        return [seen for seen in self._takers if seen.worker is not besides] if besides is not None else self._takers

    def is_overloaded(self, session: str, worker: Worker, now: float) -> bool:
        """Whether a conversation is to leave its worker at its next turn."""
        if self._way in ("random", "turns"):
            return False
        others = self._others(worker)
        if self._way == "fleet":
            others = few(session, others)
        return is_overloaded(self._seen[worker.id].candidate(now), [seen.candidate(now) for seen in others])
