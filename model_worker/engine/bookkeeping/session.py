"""Sessions: the tokens that a KV cache stands for, and the pages that hold it. No torch, no scheduling."""

from __future__ import annotations

import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from model_worker.engine.bookkeeping.pages import PagePool


@dataclass(slots=True, eq=False)
class Session:
    """Tokens of one conversation on this worker.

    Invariant: 0 <= num_computed <= num_shallow <= len(tokens), and `pages` has room for `num_shallow` tokens.
    """

    #   tokens   0 ......... num_computed ......... num_shallow ......... len(tokens)
    #   KV       in all layers            in the shared layers   none yet
    #
    # Only a model whose first layers are the SLM has a part in the middle; elsewhere num_shallow is num_computed.

    session_id: str
    tokens: array[int] = field(default_factory=lambda: array("I"))
    num_computed: int = 0
    shallow_computed: int = 0
    pages: list[int] = field(default_factory=list)
    contiguous: bool = True  # each page follows the one before
    running: bool = False

    @property
    def held(self) -> int:
        return len(self.tokens)

    @property
    def num_shallow(self) -> int:
        """Number of tokens that the shared layers have computed, by a run of either role."""
        return max(self.num_computed, self.shallow_computed)

    @property
    def num_pending(self) -> int:
        return len(self.tokens) - self.num_computed

    def checksum(self, position: int) -> int:
        """Returns the CRC-32 of tokens [0, position) as little-endian uint32."""
        return zlib.crc32(memoryview(self.tokens)[:position].cast("B"))


class SessionTable:
    """All sessions of a worker, least recently used first, and their pages.

    Pages are taken and given back here and nowhere else.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self.num_evictions = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def get(self, session_id: str) -> Session | None:
        return self._sessions.get(session_id)

    def open(self, session_id: str) -> Session:
        """Returns the session, made if unknown, as the most recently used.

        There are never many more sessions than pages: one without pages costs little, but is not kept for ever.
        """
        session = self._sessions.get(session_id)
        if session is None:
            if len(self._sessions) >= self._pool.num_pages:
                self._evict(next((idle for idle in self if not idle.running), None))
            session = self._sessions[session_id] = Session(session_id)
        self.touch(session)
        return session

    def touch(self, session: Session) -> None:
        self._sessions.move_to_end(session.session_id)

    def truncate(self, session: Session, position: int) -> None:
        """Drops the session's tokens from `position` on, and the pages that become empty."""
        del session.tokens[position:]
        self.uncompute(session, position)

    def uncompute(self, session: Session, position: int) -> None:
        """Forgets the KV from `position` on; the tokens stay."""
        session.num_computed = min(session.num_computed, position)
        session.shallow_computed = min(session.shallow_computed, position)
        keep = self._pool.pages_for(session.num_shallow)
        self._pool.release(session.pages[keep:])
        del session.pages[keep:]
        session.contiguous = session.contiguous or _contiguous(session.pages)

    def close(self, session: Session) -> None:
        self.truncate(session, 0)
        del self._sessions[session.session_id]

    def reserve(self, session: Session, num_tokens: int) -> bool:
        """Gives the session pages for its first `num_tokens` tokens, evicting idle sessions if need be.

        Returns False, with nothing taken, when running sessions hold too many.
        """
        missing = self._pool.pages_for(num_tokens) - len(session.pages)
        if missing <= 0:
            return True
        # What is evicted for a reservation that then fails stays evicted: it was idle, and can be computed again.
        while self._pool.num_free < missing:
            if not self._evict(next((s for s in self if not s.running and s.pages and s is not session), None)):
                return False
        session.pages.extend(self._pool.allocate(missing, session.pages[-1] if session.pages else None))
        session.contiguous = _contiguous(session.pages)
        return True

    def check_integrity(self) -> None:
        """Raises AssertionError if a page is leaked or shared, or a session's invariant is broken."""
        for session in self:
            assert 0 <= session.num_shallow <= session.held, f"session {session.session_id}: computed beyond held"
            assert len(session.pages) >= self._pool.pages_for(session.num_shallow), "computed tokens without pages"
            assert session.contiguous == _contiguous(session.pages), "pages that are not where attention looks for them"
        self._pool.check_integrity([page for session in self for page in session.pages])

    def _evict(self, victim: Session | None) -> bool:
        """Closes an idle session; returns whether one was given."""
        if victim is None:
            return False
        self.close(victim)
        self.num_evictions += 1
        return True


def _contiguous(pages: list[int]) -> bool:
    return not pages or pages == list(range(pages[0], pages[0] + len(pages)))
