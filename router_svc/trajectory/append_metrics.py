"""How long Redis takes to store what was written, by round trips: one carries the appends of many answers.

It knows neither the appends nor what comes of them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from rstitch.service import semconv
from rstitch.service.metrics import Metrics, Reading
from rstitch.service.tally import Tally
from storage.confirming import Confirming

T = TypeVar("T")
R = TypeVar("R")
# In s; a Redis on the same machine takes a fifth of a millisecond.
_DURATIONS = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]


class AppendMetrics:
    """The instruments of one store. A failed round trip has the exception's class as its `error.type`."""

    def __init__(self, metrics: Metrics, confirming: Confirming | None = None) -> None:
        self._durations = Tally(_DURATIONS)
        self._done = self._durations.row({})
        self._num_appends = 0
        what = "A round trip to Redis that stores what answers have written."
        metrics.histogram_of(semconv.METRIC_REDIS_APPEND_DURATION, "s", what, _DURATIONS, self._durations.read)
        what_else = "Of these round trips those that too few replicas had in time."
        metrics.sum_of(semconv.METRIC_REDIS_UNCONFIRMED, "{round_trip}", what_else, self._unconfirmed)
        self._confirming = confirming
        metrics.sum_of(semconv.METRIC_REDIS_APPENDS, "{append}", "Appends in these round trips.", self._appends)

    def timed(self, send: Callable[[list[T]], Awaitable[Sequence[R]]]) -> Callable[[list[T]], Awaitable[Sequence[R]]]:
        """Gives back what sends appends, timed."""

        async def timed_send(appends: list[T]) -> Sequence[R]:
            since = time.perf_counter()
            row = self._done
            try:
                return await send(appends)
            except Exception as error:
                row = self._durations.row({semconv.ERROR_TYPE: type(error).__name__})
                raise
            finally:
                row.add(time.perf_counter() - since)
                self._num_appends += len(appends)

        return timed_send

    def _unconfirmed(self) -> Iterator[Reading]:
        yield (self._confirming.num_unconfirmed if self._confirming is not None else 0), {}

    def _appends(self) -> Iterator[Reading]:
        yield self._num_appends, {}
