"""How much room somebody new would find, in one figure. It gives nothing to anybody. No torch.

Idle sessions are evicted for whoever needs what they have, so only running ones count. What runs out first may be the
pages, the rooms that they have in windowed layers, or the slots for states: told is the scarcest, as a share of the
pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from model_worker.engine.bookkeeping.pages import PagePool
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.bookkeeping.states import States


def available_pages(sessions: Iterable[Session], pool: PagePool, states: States) -> int:
    """Returns how many pages somebody new could get, in [0, num_pages].

    It may be called from any thread, as it looks at copies; a step may lie between two of its looks.
    """
    running = [session for session in list(sessions) if session.running]
    slots: set[int] = set()  # several may hold one
    num_rooms = 0
    for session in running:
        num_rooms += max(0, len(session.pages) - session.num_left)
        # States that it might come back to are taken from it, too; not those that its next row begins with.
        slots.update(state.slot for state in list(session.states) if state.position >= session.num_computed)
    free = pool.num_pages - _num_held(running, pool)
    if (windows := pool.windows) is not None:
        free = min(free, pool.num_pages * (windows.num_rooms - num_rooms) // windows.num_rooms)
    if states.num_slots:
        free = min(free, pool.num_pages * (states.num_slots - len(slots)) // states.num_slots)
    return max(0, free)


def _num_held(sessions: Sequence[Session], pool: PagePool) -> int:
    """Counts the pages of these sessions, each once. There may be a million: they are looked at only if need be."""
    if not pool.num_shared:
        return sum(len(session.pages) for session in sessions)
    return len(set().union(*(session.pages for session in sessions)))
