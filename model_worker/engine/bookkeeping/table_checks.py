"""What must hold of all sessions and the pages that they have: for tests. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

from model_worker.engine.bookkeeping.pages import PagePool
from model_worker.engine.bookkeeping.session import Session, is_contiguous


def check_sessions(sessions: Iterable[Session], pool: PagePool) -> None:
    """Raises AssertionError if a page is leaked or counted wrong, or a session's invariant is broken."""
    size, sessions = pool.page_size, list(sessions)
    for session in sessions:
        assert 0 <= session.num_shallow <= session.held, f"session {session.session_id}: computed beyond held"
        assert len(session.pages) >= pool.pages_for(session.num_shallow), "computed tokens without pages"
        assert session.contiguous == is_contiguous(session.pages), "pages that are not where attention looks for them"
        assert session.num_offered * size <= session.num_computed, "offered before it was computed"
        if (windows := pool.windows) is not None:
            needed = session.pages[windows.first_needed(session.num_computed) :]
            assert all(windows.has(page) for page in needed), "a page without a room that its session needs"
        for place, page in enumerate(session.pages):
            if page in pool.prefixes:
                own = session.tokens[place * size : min(session.num_computed, (place + 1) * size)].tobytes()
                assert pool.prefixes.tokens_of(page).startswith(own), "a page that holds other tokens"
    pool.check_integrity([page for session in sessions for page in session.pages])
