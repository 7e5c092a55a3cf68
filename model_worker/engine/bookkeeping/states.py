"""Where sessions keep the states of recurrent and convolution layers: slots, and to which positions one can go back.

A KV cache can be cut off at any position. A state cannot: it is of all tokens up to one position. So a session has
states of several positions, and goes back to the last of them at or before the position that it is asked for; what lies
between is computed again. It knows no torch, no page and no run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from model_worker.engine.bookkeeping.session import SavedState, Session

# The most states that a session keeps besides those of its last tokens, and how far apart it keeps them as it grows.
MAX_KEPT = 4
KEPT_EVERY = 128
# A row needs as many at most: where it begins, where what was sent ends, before its last token, after it.
LEAST_STATES = 4


class States:
    """What the table of sessions asks about states. This is the answer where no layer has any."""

    num_slots = 0

    @property
    def num_free(self) -> int:
        """Number of slots that no session has."""
        return 0

    def restorable(self, session: Session, position: int) -> int:
        """Returns the last position up to this one that the session can go on from without computing it."""
        return position

    def keep(self, session: Session) -> None:
        """Keeps the state of what the session has computed: there it may come back to."""

    def forget(self, session: Session, position: int) -> None:
        """Gives back the states beyond a position."""

    def reserve(self, session: Session, positions: Sequence[int], kept: int, sessions: Iterable[Session]) -> bool:
        """Gives the session slots for the states of positions, ascending; that of position `kept` will be kept.

        If need be they are taken from states that `sessions` may not need, idle ones first, in their order. Returns
        False, with nothing taken, where those do not suffice.
        """
        return True

    def share(self, source: Session, made: Session) -> None:
        """Gives a new session the source's states of what the new one has computed."""

    def check_integrity(self, sessions: Iterable[Session]) -> None:
        """Raises AssertionError if a slot is leaked, or a session lacks the state of what it has computed."""


NO_STATES = States()


class StateTable(States):
    """The slots of all sessions' states. A slot is written once, by the step that it is reserved for, and read after.

    So sessions can have slots in common, and nothing that a step does has to be undone.
    """

    # A session's states, by position (. is a token):
    #
    #   tokens   0 ................................. num_computed ....... held
    #   states        kept        kept    kept      x            |
    #                                          before the last   +-- of what is computed: the next row begins with it
    #
    # Of a step that is being computed there are states beyond `num_computed`, which count once it is committed.
    #
    # Which are kept: where a run began, and where what it was sent ends, as there one comes back to when what was
    # written after it is rejected; and one every so many tokens. Of too many the one goes that spares least.

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots))
        self._holders = [0] * num_slots

    @property
    def num_free(self) -> int:
        return len(self._free)

    def restorable(self, session: Session, position: int) -> int:
        last = min(position, session.num_computed)
        return next((state.position for state in reversed(session.states) if state.position <= last), 0)

    def keep(self, session: Session) -> None:
        for state in session.states:
            state.kept = state.kept or state.position == session.num_computed

    def forget(self, session: Session, position: int) -> None:
        while session.states and session.states[-1].position > position:
            self._release(session.states.pop())

    def reserve(self, session: Session, positions: Sequence[int], kept: int, sessions: Iterable[Session]) -> bool:
        self._tidy(session)
        while len(self._free) < len(positions):
            if not self._drop_one(sessions, session):
                return False
        for position in positions:
            slot = self._free.pop()
            self._holders[slot] = 1
            session.states.append(SavedState(position, slot, position == kept))
        return True

    def share(self, source: Session, made: Session) -> None:
        for state in source.states:
            if state.position <= made.num_computed:
                self._holders[state.slot] += 1
                made.states.append(SavedState(state.position, state.slot, state.kept))

    def check_integrity(self, sessions: Iterable[Session]) -> None:
        held: Counter[int] = Counter()
        for session in sessions:
            positions = [state.position for state in session.states]
            assert positions == sorted(set(positions)), f"session {session.session_id}: states out of order"
            assert session.num_computed in (0, *positions), f"session {session.session_id}: computed without a state"
            held.update(state.slot for state in session.states)
        assert self._holders == [held[slot] for slot in range(self.num_slots)], "states leaked or counted wrong"
        assert sorted(self._free) == [slot for slot in range(self.num_slots) if not held[slot]], "a free state is held"

    def _tidy(self, session: Session) -> None:
        """Gives back what the session need not come back to: what its next row does not begin with, and is not kept."""
        self.forget(session, session.num_computed)
        before, last_kept = session.states[:-1], 0
        for state in before:
            state.kept = state.kept or state.position - last_kept >= KEPT_EVERY
            last_kept = state.position if state.kept else last_kept
        kept = [state for state in before if state.kept]
        while len(kept) > MAX_KEPT:
            kept.pop(_least_useful(kept, session.num_computed))
        for state in before:
            if state not in kept:
                self._release(state)
        session.states[:-1] = kept

    def _drop_one(self, sessions: Iterable[Session], asking: Session) -> bool:
        """Gives back a state that a session may want to come back to; returns whether there was one.

        None loses the state of what it has computed, and that of one token before goes last: it is asked for most.
        """

        def worth(session: Session) -> tuple[bool, bool, bool]:
            return session.states[0].position == session.num_computed - 1, session is asking, session.running

        chosen = min((session for session in sessions if self._has_spare(session)), key=worth, default=None)
        if chosen is None:
            return False
        self._release(chosen.states.pop(0))
        return True

    @staticmethod
    def _has_spare(session: Session) -> bool:
        return bool(session.states) and session.states[0].position < session.num_computed

    def _release(self, state: SavedState) -> None:
        self._holders[state.slot] -= 1
        if not self._holders[state.slot]:
            self._free.append(state.slot)


def _least_useful(kept: Sequence[SavedState], end: int) -> int:
    """Returns the place of the state without which least more is computed, in proportion to the way back."""
    # Without it, whoever comes back to just before the next state computes all from the one before. So states come to
    # lie the farther apart, the older they are.
    at = [0, *(state.position for state in kept), end]
    worst = [(after - before) / (end - after + KEPT_EVERY / 2) for before, after in zip(at, at[2:], strict=False)]
    return worst.index(min(worst))
