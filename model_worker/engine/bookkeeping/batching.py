"""When a step starts: at once, or after a moment, for a fuller batch. Pure bookkeeping: it reads no clock.

A step costs a model nearly the same for one row as for ten, so a row that comes just after a step has begun costs a
step of its own. Let n rows be ready, t(n) be the time of their step and w the time until the next row comes. Starting
now, the n rows have their token at t(n) and the late one has its own at t(n) + t(1). Waiting, all of them have it at
w + t(n + 1). Summed over the rows, waiting is better by

    (n + 1) t(n) + t(1) - (n + 1) (w + t(n + 1)) = (n + 1) (b - w),  b = t(1) / (n + 1) - (t(n + 1) - t(n))

b is the *break-even*: the late row's own step shared by all that wait for it, less what its row costs in theirs. To
wait for a time h in vain costs n h. So with w as random as the gaps between recent arrivals say, given the time since
the last one, the rule waits for the h below b that gains most, and starts at once if none gains. Only sessions that are
away at the other model can come: with one session none is, and no step waits.

docs/batching.md has the measurements.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

from model_worker.engine.bookkeeping.cost_model import CostModel

_GAPS = 32  # how many recent gaps between arrivals count
_OVERDUE = 4.0  # a session that has been away for so many mean absences is not waited for any more


@dataclass(frozen=True, slots=True)
class Load:
    """What somebody waits for in a step: its rows, how many of them are one token, and the tokens of the others."""

    num_rows: int
    num_decode_rows: int
    num_other_tokens: int


@dataclass(slots=True)
class Arrivals:
    """The sessions that are away at the other model, how long that takes, and how they come back: singly or at once."""

    _mean_away_s: float = 0.0
    _last: float = 0.0
    _gaps: deque[float] = field(default_factory=lambda: deque(maxlen=_GAPS))
    _away: dict[str, float] = field(default_factory=dict)

    def left(self, session_id: str, now: float) -> None:
        """Notes that a run ended in a hand-off: its session is away at the other model."""
        self._away[session_id] = now

    def came(self, session_id: str, now: float) -> None:
        """Notes that a session has a run again that somebody waits for."""
        since = self._away.pop(session_id, None)
        if since is None:
            return
        # An exponential mean over about 16 absences, which the first one sets.
        self._mean_away_s += (now - since - self._mean_away_s) / (16 if self._mean_away_s else 1)
        self._gaps.append(now - self._last)
        self._last = now

    def forget(self, session_id: str) -> None:
        """Notes that a session will not come back: its stream is closed."""
        self._away.pop(session_id, None)

    def any_expected(self, now: float) -> bool:
        """Returns whether a session is away and not overdue."""
        return any(now - since < _OVERDUE * self._mean_away_s for since in self._away.values())

    def waits(self, now: float) -> list[float]:
        """Returns times until the next arrival, ascending: the rest of each recent gap longer than the present."""
        age = now - self._last
        gaps = sorted(self._gaps)
        return [gap - age for gap in gaps[bisect_right(gaps, age) :]]


def break_even_s(costs: CostModel, load: Load) -> float:
    """Returns the longest wait for one more row that pays for the rows that wait."""
    decode, other = load.num_decode_rows, load.num_other_tokens
    marginal_us = costs.step_us(decode + 1, other) - costs.step_us(decode, other)
    return max(0.0, costs.step_us(1) / (load.num_rows + 1) - max(0.0, marginal_us)) / 1e6


def best_wait_s(waits: list[float], num_rows: int, break_even: float) -> float:
    """Returns the wait that gains most on average, if the next row comes after one of `waits`; 0: none gains.

    They are ascending, and all equally likely.
    """
    # Waiting for waits[i] catches the row in i + 1 of the cases and costs num_rows * waits[i] in the others. All gains
    # are summed over the cases and not divided by their number, which is the same for every wait.
    best, best_gain, caught = 0.0, 0.0, 0.0
    for index, wait in enumerate(waits):
        if wait >= break_even:
            break
        caught += (num_rows + 1) * (break_even - wait)
        gain = caught - (len(waits) - index - 1) * num_rows * wait
        if gain > best_gain:
            best, best_gain = wait, gain
    return best


@dataclass(slots=True, eq=False)
class BatchingRule:
    """Holds steps back. Where every step starts at once, there is no rule."""

    costs: CostModel | None  # without them only `size` holds a step back
    max_delay_s: float  # no step is held back longer
    size: int = 0  # hold steps back until they have so many rows, while more may come; 0: by the rule above
    _held_since: float | None = None
    _num_rows: int = 0
    _until: float = 0.0

    def delay(self, now: float, load: Load, arrivals: Arrivals) -> float:
        """Returns how long to wait for another row before the step; 0: start it. Ask again when something has come."""
        if load.num_rows == 0 or not arrivals.any_expected(now):
            return 0.0
        if load.num_rows != self._num_rows:  # a row came: what was waited for it is over
            self._num_rows = load.num_rows
            since = now if self._held_since is None else self._held_since
            self._until = min(now + self._patience_s(now, load, arrivals), since + self.max_delay_s)
        delay = max(0.0, self._until - now)
        if delay and self._held_since is None:
            self._held_since = now
        return delay

    def started(self, now: float) -> float:
        """Call when the step begins; returns how long it was held back."""
        held = 0.0 if self._held_since is None else now - self._held_since
        self._held_since, self._num_rows = None, 0
        return held

    def _patience_s(self, now: float, load: Load, arrivals: Arrivals) -> float:
        if self.size:
            return self.max_delay_s if load.num_rows < self.size else 0.0
        if self.costs is None:
            return 0.0
        return best_wait_s(arrivals.waits(now), load.num_rows, break_even_s(self.costs, load))
