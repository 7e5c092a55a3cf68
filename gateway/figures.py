"""What the gateway counts and times of its requests, for whoever scrapes `/metrics`. It knows no body."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rstitch.service import semconv
from rstitch.service.metrics import Metrics

# In s. Streams last as long as answers do.
_DURATIONS = [0.001 * 2**power for power in range(18)]
_METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})
_OTHER = "_OTHER"


class Figures:
    """The instruments of one gateway."""

    def __init__(self, metrics: Metrics) -> None:
        self._active = 0
        what = "From a request's head to the end of its answer."
        self._duration = metrics.meter.create_histogram(
            semconv.METRIC_HTTP_DURATION, "s", what, explicit_bucket_boundaries_advisory=_DURATIONS
        )
        what = "Requests that are being answered."
        metrics.gauge_of(semconv.METRIC_HTTP_ACTIVE, "{request}", what, lambda: [(self._active, {})])

    @contextmanager
    def active(self) -> Iterator[None]:
        """Counts a request while it is answered."""
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    def took(self, seconds: float, method: str, route: str, status: int) -> None:
        """Counts an answered request; `route` is a path as it was declared, "" where there is none of that name."""
        attributes: dict[str, str | int] = {
            semconv.HTTP_METHOD: method if method in _METHODS else _OTHER,
            semconv.HTTP_STATUS: status,
            semconv.HTTP_ROUTE: route or _OTHER,
        }
        self._duration.record(seconds, attributes)
