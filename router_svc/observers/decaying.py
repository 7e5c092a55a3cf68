"""The recent values of one measure, the older ones weighing less. It knows no clock: its caller counts.

    seen            now - 2h   now - h   now
    weight          1/4        1/2       1          (h: half-life)

It keeps h values at most: each one left out would weigh half of a fresh one, or less.
"""

from __future__ import annotations

from collections import deque


class DecayingSample:
    """Values with the times at which they were seen; all questions are asked as of a time `now`."""

    def __init__(self, half_life: int) -> None:
        self._half_life = half_life
        self._values: deque[tuple[int, float]] = deque(maxlen=half_life)  # time seen, value

    def __len__(self) -> int:
        return len(self._values)

    def add(self, now: int, value: float) -> None:
        """Adds a value that was seen `now`, which must not lie before the time of another."""
        self._values.append((now, value))

    def weight(self, now: int) -> float:
        """The number of fresh values that these are worth."""
        return sum(weight for _, weight in self._weighted(now))

    def mean(self, now: int) -> tuple[float, float]:
        """The weighted mean and its relative variance. There must be a value."""
        values, total = self._weighted(now), self.weight(now)
        mean = sum(value * weight for value, weight in values) / total
        variance = sum(weight * (value - mean) ** 2 for value, weight in values) / total
        return mean, variance / mean**2 / total

    def _weighted(self, now: int) -> list[tuple[float, float]]:
        return [(value, 0.5 ** ((now - seen) / self._half_life)) for seen, value in self._values]
