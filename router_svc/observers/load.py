"""How many answers are being written, and how many were on average while one was. It knows no clock.

    answers being written     2 |     ______
                              1 |____|      |______
                              0 |__________________|__  time
                                a    b      a      b      (a begins, b begins, a ends, b ends)

The area below that line only grows. What it grew by while an answer was written, over the time, is the mean load of
that answer; so an event costs the same however many answers run.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class LoadMeter:
    """Counts answers as they begin and end. Times are in s, of any clock that never goes back.

    Attributes:
        num: number of answers being written now.
    """

    num: int = 0
    _area: float = 0.0  # answers x seconds, up to `_since`
    _since: float = 0.0
    _marks: dict[str, tuple[float, float]] = field(default_factory=dict)  # by session: when it began, and the area then

    def enter(self, session_id: str, now: float) -> None:
        """Counts an answer that begins; a session has one at a time."""
        self._settle(now)
        self._marks[session_id] = (now, self._area)
        self.num += 1

    def leave(self, session_id: str, now: float) -> float:
        """Counts the end of a session's answer and returns the mean load while it was written, itself included."""
        self._settle(now)
        begun, area = self._marks.pop(session_id)
        load = (self._area - area) / (now - begun) if now > begun else float(self.num)
        self.num -= 1
        return load

    def _settle(self, now: float) -> None:
        self._area += self.num * (now - self._since)
        self._since = now
