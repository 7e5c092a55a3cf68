"""Where a session is placed: a function of who is there. It knows no Redis, no wire and no time.

Fewest sessions bound, then most free pages, then rendezvous hashing: routers that see the same then decide alike.

A chat that sends all of its conversation begins as the turn before did, which a worker has read: it goes there, and
where that has much more to do than others always to the same next one (consistent hashing with bounded loads: Mirrokni,
Thorup and Zadimoghaddam, 2018).

Of many workers a session chooses among a few of its own. What a router sees is up to a second old and lacks what others
placed since: if all chose among all, they would all choose the same workers, which then have several times the sessions
of others (Mitzenmacher, 2000; `rstitch plan simulate` measures it).
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
# Fewer see too little, more herd. Their indexes are drawn from a hash, more than are needed, since some come twice.
_FEW, _DRAWN = 6, 12
# A session leaves a worker that lives only if that has more than FACTOR x + SLACK times the sessions of the least: what
# is moved is computed again.
_FACTOR, _SLACK = 2, 4
# Who has more than FACTOR x + SLACK times the runs of the least has far more to do.
_BUSY_FACTOR, _BUSY_SLACK = 1.5, 4
# What begins alike is not to fill one worker with idle sessions either; of so few it does not matter.
_NEAR_SLACK = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that lives and takes sessions."""

    id: str
    num_bound: int
    num_free_pages: int
    num_busy: int = 0  # of its sessions, how many are being written


def few(session: str, workers: Sequence[T]) -> Sequence[T]:
    """Those among which a session chooses: all where they are few. All routers find the same in the same order of them.

    Whoever calls it before `place` needs no candidates of the others.
    """
    if len(workers) <= _FEW:
        return workers
    drawn = hashlib.blake2b(session.encode(), digest_size=4 * _DRAWN).digest()
    numbers = [int.from_bytes(drawn[start : start + 4]) for start in range(0, len(drawn), 4)]
    indexes = dict.fromkeys(number % len(workers) for number in numbers)
    return [workers[index] for index in indexes][:_FEW]


def place(session: str, candidates: Iterable[Candidate]) -> Candidate | None:
    """Whom a session is bound to that is bound to nobody; None where there is nobody.

    Many of them come in an order that all routers have, such as that of their ids.
    """
    chosen = few(session, tuple(candidates))
    most_busy = _most_busy(chosen)
    best: list[Candidate] = []
    least: tuple[bool, int, int] | None = None
    for candidate in chosen:
        # Idle sessions count as bound: who has few may be the one that all are writing on.
        rank = candidate.num_busy > most_busy, candidate.num_bound, -candidate.num_free_pages
        if least is None or rank < least:
            best, least = [candidate], rank
        elif rank == least:
            best.append(candidate)
    if len(best) < 2:
        return best[0] if best else None
    return max(best, key=lambda candidate: (_weight(session, candidate.id), candidate.id))


def is_overloaded(current: Candidate, candidates: Iterable[Candidate]) -> bool:
    """Whether a conversation does better to leave its worker at its next turn, though what that holds is lost to it.

    Candidates are those among which it would choose (`few`): if one empty worker had all conversations leave theirs, it
    would be full at once, and all that they held be computed anew.
    """
    least = min((candidate.num_bound for candidate in candidates), default=current.num_bound)
    return current.num_bound > _FACTOR * least + _SLACK


def nearest(beginning: str, worker_ids: Iterable[str]) -> list[str]:
    """The few that sessions which begin alike go to, the first one first.

    Of workers that come and go only those whose own share they are, or would be, find another order.
    """
    return heapq.nlargest(_FEW, worker_ids, key=lambda worker_id: (_weight(beginning, worker_id), worker_id))


def near(candidates: Sequence[Candidate], others: Sequence[Candidate] = ()) -> Candidate | None:
    """The first of the nearest that has no less room and not far more to do than another; None: none has.

    Others are whom it would go to if nobody were near.
    """
    seen = (*candidates, *others)
    if not seen:
        return None
    most_busy = _most_busy(seen)
    most_bound = _FACTOR * min(each.num_bound for each in seen) + _NEAR_SLACK
    least_free = max(1, max(each.num_free_pages for each in seen) / 4)
    for candidate in candidates:
        has_room = candidate.num_free_pages >= least_free and candidate.num_bound <= most_bound
        if has_room and candidate.num_busy <= most_busy:
            return candidate
    return None


def _most_busy(candidates: Iterable[Candidate]) -> float:
    return _BUSY_FACTOR * min((each.num_busy for each in candidates), default=0) + _BUSY_SLACK


def _weight(session: str, worker_id: str) -> bytes:
    """The rendezvous weight of a worker for a session (Thaler and Ravishankar, 1998): the largest one has it."""
    return hashlib.blake2b(f"{session}\0{worker_id}".encode(), digest_size=8).digest()
