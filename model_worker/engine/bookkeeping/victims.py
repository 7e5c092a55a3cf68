"""Which idle sessions go when pages run short. It evicts none itself, and knows no states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from model_worker.engine.bookkeeping.pages import PagePool
from model_worker.engine.bookkeeping.session import Session


def victims(sessions: Iterable[Session], asking: Session, pool: PagePool) -> list[Session]:
    """Returns the idle sessions to evict for a page that nobody else holds, the last used of them last.

    `sessions` come least recently used first. That is one session as a rule, and several where they have a page in
    common. Of all such pages it is the one whose holders were left alone for longest. Whose pages are all held by
    others that stay is never among them: it would be gone, and no page gained. Empty if there is none.
    """
    holders = pool.num_holders
    seen: list[Session] = []
    found: Counter[int] = Counter()  # pages by how many of their holders were seen
    for session in sessions:
        if session.running or not session.pages or session is asking:
            continue
        if any(holders(page) == 1 for page in reversed(session.pages)):
            return [session]
        seen.append(session)
        found.update(session.pages)
        gained = [page for page in session.pages if found[page] == holders(page)]
        if gained:
            page = min(gained, key=holders)
            return [each for each in seen if page in each.pages]
    return []
