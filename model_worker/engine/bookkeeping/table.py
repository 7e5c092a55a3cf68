"""All sessions of a worker and their pages: who gets one, who shares one, who gives one up. No torch, no scheduling."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from model_worker.engine.bookkeeping.pages import PagePool
from model_worker.engine.bookkeeping.session import Session, is_contiguous
from model_worker.engine.bookkeeping.states import NO_STATES, States
from model_worker.engine.bookkeeping.table_checks import check_sessions
from model_worker.engine.bookkeeping.victims import victims
from model_worker.engine.types import PrefixCache


class SessionTable:
    """All sessions of a worker, least recently used first, and their pages.

    Pages are taken and given back here and nowhere else.
    """

    # Who may write where. A page in a page table is either the session's own, or others hold it too or find it in the
    # index. A forward does not tell them apart: it only reads below `num_computed`:
    #
    #   tokens  0 ............... 16 ............... 32 .............. 48 ...... 55
    #   page    shared            offered            own                own
    #                                                          ^ num_computed: written from here on
    #
    # Nothing is ever written to a page that is shared or in the index. A session that goes back into one (a rollback, a
    # distribution asked for again) gets a page of its own, with a copy of what is kept, in `reserve`: before a write.

    def __init__(self, pool: PagePool, mode: PrefixCache = "off", states: States = NO_STATES) -> None:
        assert mode == "off" or (states is NO_STATES and pool.windows is None), "a page is no prefix without the rest"
        self._pool = pool
        self._states, self.has_states = states, states is not NO_STATES
        self._mode = mode
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._copies: dict[int, int] = {}  # pages to be copied before the next forward: to, from
        self._moment = 0  # counts the uses of sessions
        self.num_evictions = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    @property
    def has_unclean(self) -> bool:
        """Whether pages that nobody holds wait to be zeroed, and are free after that."""
        return self._pool.num_unclean > 0

    def get(self, session_id: str) -> Session | None:
        return self._sessions.get(session_id)

    def open(self, session_id: str, salt: str | None = None) -> Session:
        """Returns the session, made if unknown, as the most recently used.

        Under another salt than before it computes all of its tokens again. There are hardly more sessions than pages.
        """
        session = self._sessions.get(session_id)
        if session is None:
            if len(self._sessions) >= self._pool.num_pages:
                self._evict([idle for idle in self if not idle.running][:1])
            session = self._sessions[session_id] = Session(session_id, salt=salt)
        elif session.salt != salt:
            self.uncompute(session, 0)
            session.salt = salt
        self.touch(session)
        return session

    def touch(self, session: Session) -> None:
        self._moment += 1
        session.last_used = self._moment
        self._sessions.move_to_end(session.session_id)

    def truncate(self, session: Session, position: int) -> None:
        """Drops the session's tokens from `position` on, and the pages that become empty."""
        session.cut(position)
        self.uncompute(session, position)

    def restorable(self, session: Session, position: int) -> int:
        """Returns from where a session that is to go back to `position` goes on: from there or before.

        Windows may have lost what a token there sees, and there are states of some positions only.
        """
        windows, position = self._pool.windows, self._states.restorable(session, position)
        return position if windows is None or windows.first_needed(position) >= session.num_left else 0

    def keep_state(self, session: Session) -> None:
        """Makes sure that the session can come back to what it has computed now, once it has gone on."""
        self._states.keep(session)

    def leave_windows(self, session: Session) -> None:
        """Gives back what the session no longer needs in layers that see a window only."""
        if (windows := self._pool.windows) is None:
            return
        until = windows.first_kept(session.num_computed)
        for page in session.pages[session.num_left : until]:
            self._pool.leave_window(page)
        session.num_left = max(session.num_left, until)

    def uncompute(self, session: Session, position: int) -> None:
        """Forgets the KV from `position` on, or more where it cannot be gone on from there; the tokens stay."""
        if position < session.num_computed:
            position = self.restorable(session, position)
        session.num_computed = min(session.num_computed, position)
        self._states.forget(session, session.num_computed)
        session.shallow_computed = min(session.shallow_computed, position)
        session.changed_from(position // self._pool.page_size)
        keep = self._pool.pages_for(session.num_shallow)
        self._pool.release(reversed(session.pages[keep:]), session.last_used)
        del session.pages[keep:]
        session.num_left = min(session.num_left, keep)
        session.contiguous = session.contiguous or is_contiguous(session.pages)

    def close(self, session: Session) -> None:
        self.truncate(session, 0)
        del self._sessions[session.session_id]

    def reserve(self, session: Session, num_tokens: int, cuts: Sequence[int] = (), kept: int = 0) -> bool:
        """Gives the session pages of its own for what it lacks of its first `num_tokens` tokens.

        Where layers have states it gets slots for those of the positions `cuts`, too; that of `kept` stays. Idle
        sessions are evicted if need be. Returns False, with nothing taken, when running sessions hold too many.
        """
        while not self._states.reserve(session, cuts or (num_tokens,), kept, self):
            idle = [other for other in self if other.states and not other.running and other is not session]
            if not idle:
                return False
            self._evict(idle[:1])
        if not (has_pages := self._reserve_pages(session, num_tokens)):
            self._states.forget(session, session.num_computed)  # others may have them while it waits
        return has_pages

    def _reserve_pages(self, session: Session, num_tokens: int) -> bool:
        missing = max(0, self._pool.pages_for(num_tokens) - len(session.pages))
        place = session.num_computed // self._pool.page_size  # what is written comes there first
        own = session.pages[place] if place < len(session.pages) else None
        if own is not None and self._pool.num_holders(own) > 1:
            if not self._make_room(session, missing + 1):
                return False
            self._copy(session, place, own)
            session.contiguous = is_contiguous(session.pages)
        elif own is not None and own in self._pool.prefixes:
            self._pool.prefixes.remove(own)
        if missing and not self._make_room(session, missing):
            return False
        if missing:
            session.pages.extend(self._pool.allocate(missing, session.pages[-1] if session.pages else None))
            session.contiguous = is_contiguous(session.pages)
        return True

    def adopt(self, session: Session, limit: int) -> None:
        """Lets a session have what others have computed of the tokens that it lacks, up to position `limit` at most."""
        if self._mode == "off" or session.salt is None:
            return
        size = self._pool.page_size
        before = session.num_computed
        while (end := (session.num_computed // size + 1) * size) <= limit:
            place = end // size - 1
            page = self._pool.prefixes.find(session.digest(place, size), session.page_tokens(place, size))
            if page is None or not self._take(session, place, page):
                break
            session.num_computed = end
        if session.num_computed > before:
            session.num_offered = max(session.num_offered, session.num_computed // size)
            session.contiguous = is_contiguous(session.pages)

    def wanted(self, session: Session, limit: int) -> bytes | None:
        """Returns the digest of the page that `adopt` did not find; None where it looks for none."""
        place = session.num_computed // (size := self._pool.page_size)
        if self._mode == "off" or session.salt is None or (place + 1) * size > limit:
            return None
        return session.digest(place, size)

    def coming(self, session: Session) -> list[bytes]:
        """Returns the digests of the pages that the session is about to fill with tokens that it holds."""
        size = self._pool.page_size
        if self._mode == "off" or session.salt is None:
            return []
        return [session.digest(place, size) for place in range(session.num_computed // size, session.held // size)]

    def offer(self, session: Session) -> None:
        """Lets others find the pages that the session has filled since the last call."""
        size = self._pool.page_size
        num_full = session.num_computed // size
        if session.num_offered >= num_full or self._mode == "off" or session.salt is None:
            return
        for place in range(session.num_offered, num_full):
            self._pool.offer(session.pages[place], session.digest(place, size), session.page_tokens(place, size))
        session.num_offered = num_full

    def fork(self, source: Session, session_id: str, position: int) -> Session:
        """Makes a session that begins with the source's tokens [0, position); one of this id is replaced.

        It has their KV as far as the source has computed it and there is room; `take_copies` says what is to be copied.
        """
        if (known := self.get(session_id)) is not None:
            self.close(known)
        was_running, source.running = source.running, True  # so that it is not evicted to make room for its own copy
        made = self.open(session_id, source.salt)
        made.tokens.extend(source.tokens[:position])
        size, computed = self._pool.page_size, min(position, source.num_computed)
        computed = self.restorable(source, computed)
        for place in range(self._pool.pages_for(computed)):
            end = min(computed, (place + 1) * size)
            page = source.pages[place]
            if self._mode == "share" and end % size == 0:
                self._pool.share(page)
                made.pages.append(page)
            elif self._make_room(made, 1):
                self._copy(made, place, page)
            else:
                break
            if place < source.num_left:  # at once: what the source has no room for takes none of the others'
                self._pool.leave_window(made.pages[-1])
            made.num_computed = end
        made.num_left = min(source.num_left, len(made.pages))
        self._states.share(source, made)
        self.uncompute(made, self.restorable(made, made.num_computed))  # there may be no state of just that many
        made.num_offered = min(source.num_offered, made.num_computed // size)
        made.contiguous = is_contiguous(made.pages)
        source.running = was_running
        return made

    def spoil(self, session: Session, position: int) -> None:
        """Forgets the session's KV from the page of `position` on, in which a forward left infinities or NaN.

        These pages are the session's own, as they were just written, and are zeroed before the next forward.
        """
        place = position // self._pool.page_size
        for page in session.pages[place:]:
            self._pool.taint(page)
        self.uncompute(session, place * self._pool.page_size)

    def poison(self, session: Session) -> None:
        """Forgets the session's KV, in which a forward left infinities or NaN: nobody will find its pages any more.

        A session that has some of them, or copies, may go on until its own distributions are no more finite; its pages
        are zeroed before another gets them.
        """
        digests = session.known_digests()
        for digest in digests:
            if (page := self._pool.prefixes.page_of(digest)) is not None:
                self._pool.taint(page)
        for other in self:
            # Chained digests: where one is equal, all before it are.
            for page, digest, own in zip(other.pages, other.known_digests(), digests, strict=False):
                if digest != own:
                    break
                self._pool.taint(page)
        for page in session.pages:
            self._pool.taint(page)
        self.uncompute(session, 0)

    def take_copies(self) -> dict[int, int]:
        """Returns which pages must get the content of which others before the next forward, all at once: to, from."""
        copies, self._copies = self._copies, {}
        return copies

    def check_integrity(self) -> None:
        """Raises AssertionError if a page is leaked or counted wrong, or a session's invariant is broken."""
        check_sessions(self, self._pool)
        self._states.check_integrity(self)

    def _take(self, session: Session, place: int, page: int) -> bool:
        """Gives a session a page of the index, or a copy of it, as number `place`; returns whether there was room."""
        pages = session.pages
        own = pages[place] if place < len(pages) else None
        if own == page:
            return True
        self._pool.share(page)
        is_next = own is None and (not pages or pages[-1] + 1 == page)
        if self._mode == "share" or (is_next and self._pool.num_holders(page) == 1):
            if own is None:
                pages.append(page)
            else:
                pages[place] = page
                self._pool.release([own], session.last_used)
            return True
        # Held meanwhile, so that the page stays while room is made.
        if has_room := self._make_room(session, 1):
            self._copy(session, place, page)
        self._pool.release([page], session.last_used)
        return has_room

    def _copy(self, session: Session, place: int, page: int) -> None:
        """Gives a session a page of its own as number `place`, to be filled with what `page` holds now."""
        pages = session.pages
        (fresh,) = self._pool.allocate(1, pages[place - 1] if place else None)
        self._copies[fresh] = page
        if place == len(pages):
            pages.append(fresh)
        else:
            self._pool.release([pages[place]], session.last_used)
            pages[place] = fresh

    def _make_room(self, session: Session, num_pages: int) -> bool:
        """Makes so many pages spare; returns whether it could.

        What is evicted for a need that is then not met stays evicted: it was idle, and can be computed again.
        """
        # What goes first: pages that nobody holds and one session had; then whichever was left alone for longer, the
        # idle sessions that have a page for themselves, or the page that nobody holds and several sessions had.
        while self._pool.num_spare < num_pages:
            found, since = victims(self, session, self._pool), self._pool.oldest_valued
            if since is not None and (not found or since < found[-1].last_used):
                self._pool.drop_valued()
            elif found:
                self._evict(found)
            else:
                return False
        return True

    def _evict(self, victims: list[Session]) -> None:
        for session in victims:
            self.close(session)
            self.num_evictions += 1
