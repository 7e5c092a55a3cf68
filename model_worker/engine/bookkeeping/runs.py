"""A run, and the row that it has in a step. No torch; which runs go into a step is the scheduler's business."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from model_worker.engine.bookkeeping.masks import Mask
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.bookkeeping.signals import SignalMeter
from model_worker.engine.bookkeeping.token_counts import Counted, TokenCounts
from model_worker.engine.observing import MAX_OBSERVED, MIN_OBSERVED
from model_worker.engine.types import RunRequest, Timing


@dataclass(slots=True, eq=False)
class Run:
    """A request that the engine works on. `run_id` grows with arrival: a smaller one is older."""

    # The session's tokens while a run goes on, and the row of its last step:
    #
    #   0 ....... num_computed ............. request.end ............. held
    #   KV        sent, no KV yet            the draft; without one, what was kept
    #             |--------- num_pending tokens ---------------------|
    #                                  |--- num_asked distributions -|    after the last sent token and each drafted one

    run_id: int
    request: RunRequest
    session: Session
    draft: Sequence[int] = ()
    meter: SignalMeter | None = None  # None: the hand-off, if there is one, compares the entropy
    mask: Mask | None = None  # None: the model has all of its tokens
    num_kept: int = 0
    num_consultations: int = 0
    timing: Timing = field(default_factory=Timing)
    arrived: float = field(default_factory=time.perf_counter)
    _counts: TokenCounts | None = None  # of the answer; None: no penalty has asked yet

    @property
    def num_computed(self) -> int:
        """Number of its session's tokens that it need not compute."""
        return self.session.num_computed

    @property
    def num_pending(self) -> int:
        """Number of tokens that its next row may have."""
        return self.session.num_pending

    def computed(self, num_tokens: int) -> None:
        """Notes that a row of so many tokens is in the KV cache."""
        self.session.num_computed += num_tokens

    def cuts(self, num_tokens: int) -> list[int]:
        """Returns the positions in its next row of so many tokens, and at its end, to which one may come back.

        What was drafted may be rejected, and the distribution after the last token may be asked for once more.
        """
        start, end, sent = self.num_computed, self.num_computed + num_tokens, self.request.end
        before_last = end - 1 if end == self.session.held else end
        return sorted({position for position in (sent, before_last, end) if start < position <= end})

    def answer_until(self, position: int) -> Counted:
        """Returns how often the answer has each token before `position`: what penalties look at."""
        if self._counts is None:
            self._counts = TokenCounts(self.request.sampling.penalized_from)
        return self._counts.until(self.session.tokens, position)

    @property
    def is_background(self) -> bool:
        return self.request.is_background

    @property
    def fills_pages(self) -> bool:
        """Whether others can have the pages that its rows fill."""
        return True

    @property
    def num_asked(self) -> int:
        """Number of distributions still asked for, after the last tokens; one row has all, unless the run observes."""
        if (observe := self.request.observe) is not None:
            return self.session.held - max(observe.start - 1, self.num_computed)
        return len(self.draft) + 1 if self.request.wants_token else 0

    @property
    def ends_next(self) -> bool:
        """Whether its next row has all that it asks for, and no token more."""
        return self.request.observe is None and self.num_pending <= max(self.num_asked, 1)

    @property
    def least_tokens(self) -> int:
        """Size of the smallest row that is worth a step."""
        if self.request.observe is not None:
            return min(self.num_pending, MIN_OBSERVED)
        return self.num_asked if self.num_pending == self.num_asked else 1

    def row_tokens(self, room: int, observable: int = MAX_OBSERVED) -> int:
        """Returns the size of its next row: all tokens left, or a chunk before the distributions asked for.

        A run that observes has them in any of its rows, as many as are `observable` at most.
        """
        pending = self.num_pending
        if (observe := self.request.observe) is not None:
            return min(room, pending, max(observe.start - 1 - self.num_computed, 0) + observable)
        return pending if pending <= room else max(0, min(room, pending - self.num_asked))


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens [start, start + num_tokens) of a run's session; `is_last` if none is left after them."""

    run: Run
    start: int
    num_tokens: int
    is_last: bool

    @property
    def num_asked(self) -> int:
        """Number of distributions that it is to give, after its last tokens."""
        if (observe := self.run.request.observe) is not None:
            return min(self.num_tokens, max(0, self.start + self.num_tokens - (observe.start - 1)))
        return self.run.num_asked if self.is_last else 0
