"""What the SLM writes ahead, on from its own discarded proposal, while its session waits for the LLM.

If the LLM writes the proposal too, then what the SLM wrote after it is what the SLM would write now, for a token is a
function of the tokens before it: it is kept at once. Else the worker drops it at its next run, as any rollback. So a
run-ahead changes the time of an answer and nothing else; nothing of it is stored. It knows neither worker nor policy.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from router_svc.workers.accounting import Accounting
from router_svc.workers.runs import PendingRun, Reply, RunEnd

# Weight of one try in the running mean of steps saved: a try is forgotten after some tens of them.
_WEIGHT = 1 / 32
# While a try saves fewer steps than this, only one switch in sixteen is tried, to notice when that changes.
_MIN_SAVED = 0.5
_PROBE_EVERY = 16


class RunAhead:
    """One run in spare rows that began with a proposal, which would stand at `position`."""

    __slots__ = ("_num_agreed", "_position", "_proposal", "_written", "agrees", "run")

    def __init__(self, run: PendingRun, position: int, proposal: int) -> None:
        self.run = run
        self.agrees = True  # whether what the LLM has written meanwhile is what stands here, as far as both go
        self._position = position
        self._proposal = proposal
        #   position                       agreed_end            end
        #   [proposal | same as the session's ) not compared yet )     its first _num_agreed tokens are the session's
        self._written = Reply([], [], None)  # the tokens after the proposal
        self._num_agreed = 0

    @property
    def end(self) -> int:
        return self._position + 1 + len(self._written.tokens)

    @property
    def agreed_end(self) -> int:
        """Position up to which the worker holds the session's own tokens."""
        return self._position + self._num_agreed

    @property
    def num_written(self) -> int:
        """Tokens after the proposal that have come."""
        return len(self._written.tokens)

    def compare_with(self, tokens: array[int]) -> None:
        """Takes what has come meanwhile and compares it with what the session's tokens have become."""
        reply = self.run.poll()
        if reply is not None:
            self._written.add(reply)
        num = min(self.end, len(tokens)) - self._position
        while self._num_agreed < num and self._token(self._num_agreed) == tokens[self.agreed_end]:
            self._num_agreed += 1
        self.agrees = self._num_agreed == num

    def _token(self, index: int) -> int:
        return self._written.tokens[index - 1] if index else self._proposal

    def is_ahead(self, length: int) -> bool:
        """Whether it is what a run of the SLM from position `length` on would be, and not at its end before that."""
        return self.run.failure is None and self.agrees and self.end >= length and self.num_saved(length) > 0

    def num_saved(self, length: int) -> int:
        """Steps of the SLM that a run from position `length` on need not make: what came, and what is being made."""
        finish = self.run.finish
        return self.end - length + (finish is None or finish.end is RunEnd.HANDOFF)

    def take_over(self, length: int) -> int:
        """Turns its run into that from `length` on, which will give what it wrote there again. Returns how much."""
        num = self.end - length
        if num or self.run.finish is not None:
            again = self._written.part(len(self._written.tokens) - num)
            again.consultations = [each for each in self._written.consultations if each.context_length >= length]
            again.finish = self.run.finish
            self.run.unread(again)
        return num


@dataclass(slots=True)
class RunAheadGate:
    """Whether running ahead is worth it in this router now; shared by all of its answers.

    `auto` has two conditions. The SLM's worker has room: at most `max_running` answers are being written here, for
    among many a spare row is somebody else's time. And it pays: the running mean of SLM steps saved per try is not
    below a half; while it is, one switch in sixteen is tried all the same.
    """

    mode: Literal["auto", "on", "off"]
    max_tokens: int  # written ahead of one switch
    max_running: int
    num_running: Callable[[], int]  # answers being written in this router
    _saved: float = 2 * _MIN_SAVED  # a new router gives it a try
    _num_passed: int = 0

    def num_tokens(self) -> int:
        """Number of tokens to write ahead of the switch that is being made; 0: it is not worth it now."""
        return 0 if self.mode == "off" or (self.mode == "auto" and not self._pays()) else self.max_tokens

    def record_outcome(self, num_saved: int) -> None:
        """Learns from a run-ahead that is over: so many SLM steps need not be waited for."""
        self._saved += (num_saved - self._saved) * _WEIGHT

    def _pays(self) -> bool:
        if self.num_running() > self.max_running:
            return False
        if self._saved >= _MIN_SAVED:
            return True
        self._num_passed += 1
        return self._num_passed % _PROBE_EVERY == 0


class RunAheadSlot:
    """The place for one run-ahead beside a session, and for one that nobody wants any more but still costs."""

    def __init__(self, gate: RunAheadGate, accounting: Accounting) -> None:
        self._gate = gate
        self._accounting = accounting
        self._ahead: RunAhead | None = None
        self._num_to_keep = 0  # tokens at the front of the next reply that were written ahead
        self.unwanted: PendingRun | None = None  # its finish may be still to come

    @property
    def is_taken(self) -> bool:
        return self._ahead is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is written ahead, and nothing is still to come of what was."""
        return self._ahead is None and self.unwanted is None

    @property
    def max_tokens(self) -> int:
        """The most tokens to write ahead of the switch that is being made; 0: it is not worth it now."""
        return self._gate.num_tokens()

    def begin(self, run: PendingRun, position: int, proposal: int) -> None:
        self._ahead = RunAhead(run, position, proposal)

    def take_over(self, tokens: array[int]) -> PendingRun | None:
        """Gives the run-ahead away as the session's own run, if it is what would be asked for now."""
        ahead = self._ahead
        if ahead is None:
            return None
        ahead.compare_with(tokens)
        if not ahead.is_ahead(len(tokens)):
            return None
        self._ahead = None
        # A run from which nothing has come may not have begun, for want of spare rows.
        self._gate.record_outcome(ahead.num_saved(len(tokens)) if ahead.run.accepted else 0)
        self._num_to_keep = ahead.take_over(len(tokens))
        self._accounting.count_ahead(0, ahead.num_written - self._num_to_keep)
        return ahead.run

    def may_be_right(self, tokens: array[int], catch_up_tokens: int) -> bool:
        """Whether it can still be taken over: not if the LLM wrote something else, or is further and will stay so."""
        ahead = self._ahead
        if ahead is None:
            return False
        ahead.compare_with(tokens)
        if ahead.run.failure is not None or not ahead.agrees:
            return False
        lag = len(tokens) - ahead.end
        return lag <= 0 or not (ahead.run.finish is not None or 0 < catch_up_tokens <= lag)

    def drop(self, tokens: array[int]) -> int | None:
        """Gives the run-ahead up, if there is one. Nothing is sent: the worker truncates when its next run begins.

        Returns: the position up to which the worker holds the session's tokens; None if that is not known from this.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        ahead.compare_with(tokens)
        self.unwanted = ahead.run
        self._gate.record_outcome(0)
        self._accounting.count_ahead(0, ahead.num_written)
        return ahead.agreed_end if ahead.run.failure is None else None

    def confirm_kept(self, num_tokens: int) -> int:
        """Tokens of the session's run were kept. Returns how many of them were written ahead."""
        num_ahead = min(num_tokens, self._num_to_keep)
        self._accounting.count_ahead(num_ahead, self._num_to_keep - num_ahead)
        self._num_to_keep = 0
        return num_ahead

    def read_unwanted(self) -> PendingRun | None:
        """Counts what came of the unwanted run since the last call. Returns the run if it is over, once."""
        run = self.unwanted
        if run is None:
            return None
        reply = run.poll()
        self._accounting.count_ahead(0, len(reply.tokens) if reply is not None else 0)
        if run.failure is None and run.finish is None:
            return None
        self.unwanted = None
        return run
