"""Growing, jittered delays within a bounded patience. It sleeps for nobody."""

from __future__ import annotations

import random
import time


class Backoff:
    """Delays that double from `first_s` to `max_s`, each shortened at random by up to a half.

    There are none once `patience_s` (None: without limit) has passed since the first failure after progress.
    """

    __slots__ = ("_delay_s", "_first_s", "_max_s", "_patience_s", "_since")

    def __init__(self, *, first_s: float, max_s: float, patience_s: float | None) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._patience_s = patience_s
        self.reset()

    def reset(self) -> None:
        """Starts again at the first delay: something succeeded."""
        self._delay_s = self._first_s
        self._since: float | None = None

    def next_s(self, at_least_s: float = 0.0) -> float | None:
        """Says how many seconds to wait before the next try; None when the patience is at its end."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if self._patience_s is not None and now - self._since >= self._patience_s:
            return None
        delay_s = max(at_least_s, self._delay_s) * random.uniform(0.5, 1.0) + at_least_s / 2
        self._delay_s = min(self._delay_s * 2, self._max_s)
        return delay_s
