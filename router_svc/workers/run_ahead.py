"""What the SLM writes ahead, on from its own discarded proposal, while its session waits for the LLM.

If the LLM writes the proposal too, then what the SLM wrote after it is what the SLM would write now, for a token is a
function of the tokens before it: it is kept at once. Else the worker drops it at its next run, as any rollback. So a
run-ahead changes the time of an answer and nothing else; nothing of it is stored. It knows neither worker nor policy.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Literal

from router_svc.workers.runs import PendingRun, Reply, RunEnd

# Of the running mean of steps saved per try: a weight of 1/32 forgets a try after some tens of them.
_WEIGHT = 1 / 32
# Below so many steps saved per try, only one switch in so many is tried, to notice when that changes.
_MIN_SAVED = 0.5
_PROBE_EVERY = 16


class RunAhead:
    """One run in spare rows that began with a proposal.

    Attributes:
        run: the worker's.
        agrees: whether nothing that the LLM has written speaks against it.

    Args:
        position: of the proposal.
    """

    __slots__ = ("_entropies", "_num_agreed", "_position", "_tokens", "_uncertainties", "agrees", "run")

    def __init__(self, run: PendingRun, position: int, proposal: int) -> None:
        self.run = run
        self.agrees = True
        self._position = position
        self._tokens = [proposal]
        self._entropies: list[float] = []  # of the tokens after the proposal
        self._uncertainties: list[float] = []  # likewise, where the signal is another
        self._num_agreed = 0

    @property
    def end(self) -> int:
        """Position after the last token that has come."""
        return self._position + len(self._tokens)

    @property
    def agreed_end(self) -> int:
        """What the worker holds before this position is the session's."""
        return self._position + self._num_agreed

    @property
    def num_written(self) -> int:
        """Tokens after the proposal that have come."""
        return len(self._entropies)

    def look(self, tokens: array[int]) -> None:
        """Takes what has come meanwhile and compares it with what the session's tokens have become."""
        reply = self.run.poll()
        if reply is not None:
            self._tokens += reply.tokens
            self._entropies += reply.entropies
            self._uncertainties += reply.uncertainties
        num = min(self.end, len(tokens)) - self._position
        while self._num_agreed < num and self._tokens[self._num_agreed] == tokens[self.agreed_end]:
            self._num_agreed += 1
        self.agrees = self._num_agreed == num

    def is_ahead(self, length: int) -> bool:
        """Whether it is what a run of the SLM from position `length` on would be, and not at its end before that."""
        return self.run.failure is None and self.agrees and self.end >= length and self.num_saved(length) > 0

    def num_saved(self, length: int) -> int:
        """Steps of the SLM that a run from position `length` on need not make: what came, and what is being made."""
        finish = self.run.finish
        return self.end - length + (finish is None or finish.end is RunEnd.HANDOFF)

    def take_over(self, length: int) -> int:
        """Makes of its run the run that begins at `length`: what was written from there on is read from it again.

        Returns: how many tokens that is.
        """
        num = self.end - length
        if num or self.run.finish is not None:
            keep = len(self._tokens) - num
            entropies, uncertainties = self._entropies[keep - 1 :], self._uncertainties[keep - 1 :]
            self.run.unread(Reply(self._tokens[keep:], entropies, self.run.finish, uncertainties))
        return num


class RunAheadGate:
    """Whether running ahead is worth it in this router now; shared by all of its answers.

    `auto` has two conditions. The SLM's worker has room: at most `max_running` answers are being written here, for
    among many a spare row is somebody else's time. And it pays: the running mean of SLM steps saved per try is not
    below a half; while it is, one switch in sixteen is tried all the same.

    Args:
        max_tokens: written ahead of one switch.
        num_running: answers being written in this router.
    """

    def __init__(
        self, mode: Literal["auto", "on", "off"], max_tokens: int, max_running: int, num_running: Callable[[], int]
    ) -> None:
        self._mode = mode
        self._max_tokens = max_tokens
        self._max_running = max_running
        self._num_running = num_running
        self._saved = 2 * _MIN_SAVED  # a new router gives it a try
        self._num_passed = 0

    def num_tokens(self) -> int:
        """How many tokens to write ahead of the switch that is being made; 0: none."""
        if self._mode == "off" or (self._mode == "auto" and not self._pays()):
            return 0
        return self._max_tokens

    def tried(self, num_saved: int) -> None:
        """A run-ahead is over; so many SLM steps need not be waited for."""
        self._saved += (num_saved - self._saved) * _WEIGHT

    def _pays(self) -> bool:
        if self._num_running() > self._max_running:
            return False
        if self._saved >= _MIN_SAVED:
            return True
        self._num_passed += 1
        return self._num_passed % _PROBE_EVERY == 0
