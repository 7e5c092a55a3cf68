"""How many answers are being written, and how many were on average while one was. It knows no clock."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class LoadMeter:
    """Counts answers as they begin and end. Times in s, of any clock that never goes back."""

    num: int = 0
    _area: float = 0.0  # answers x seconds
    _since: float = 0.0
    _marks: dict[str, tuple[float, float]] = field(default_factory=dict)

    def enter(self, session_id: str, now: float) -> None:
        """An answer begins."""
        self._settle(now)
        self._marks[session_id] = (now, self._area)
        self.num += 1

    def leave(self, session_id: str, now: float) -> float:
        """It ends. Returns: the mean load while it was written."""
        self._settle(now)
        begun, area = self._marks.pop(session_id)
        load = (self._area - area) / (now - begun) if now > begun else float(self.num)
        self.num -= 1
        return load

    def _settle(self, now: float) -> None:
        self._area += self.num * (now - self._since)
        self._since = now
