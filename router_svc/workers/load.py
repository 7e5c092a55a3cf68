"""How many sessions a worker has, as one router sees it: what the worker said last, and what was placed there since.

It knows no clock: times are those of whoever calls, in s, and never run backwards.
"""

from __future__ import annotations

from collections import deque

# A session that was placed so long ago is counted by the worker itself, or never came there.
_ARRIVED_S = 3.0


class Load:
    """The sessions of one worker.

        said 12 as of t1      placed   placed   placed      now: 12 + 3
        ---------|---------------|--------|--------|---------|

    A worker speaks at a moment that nobody knows for certain: of what it says, some may be sessions that were placed
    here just before. These must not count twice, or a worker that spoke first would seem to be fuller than the others.
    """

    def __init__(self) -> None:
        self._num_said = 0
        self._num_before = 0  # of those that it said, how many are not among the placed
        self._placed: deque[float] = deque()

    def said(self, num_sessions: int, as_of: float) -> None:
        """Takes what the worker said of itself, which counts all that was placed there before `as_of`."""
        self._num_said = num_sessions
        self._settle(as_of)

    def place(self, now: float) -> None:
        """A session is placed there."""
        self._placed.append(now)

    def num_bound(self, now: float) -> int:
        """How many sessions it has by now."""
        self._settle(now - _ARRIVED_S)
        return self._num_before + len(self._placed)

    def num_new(self, now: float) -> int:
        """How many of them it has not counted yet."""
        return max(0, self.num_bound(now) - self._num_said)

    def _settle(self, before: float) -> None:
        num_placed = len(self._placed)
        while self._placed and self._placed[0] < before:
            self._placed.popleft()
        left = len(self._placed)
        # Between all of the placed and none of them are in what it said; else as many as there were.
        self._num_before = min(max(self._num_before + num_placed - left, self._num_said - left), self._num_said)
