"""Counts the calls that ended with an error, by reason and method. It does not know what they asked for."""

from __future__ import annotations

from rstitch.errors import RstitchError
from rstitch.service import semconv
from rstitch.service.metrics import Metrics


class RefusedCalls:
    """The counter of one process; servers of one process share it."""

    def __init__(self, metrics: Metrics) -> None:
        what = "Calls that ended with an error, answers that broke off included."
        self._counter = metrics.meter.create_counter(semconv.METRIC_REFUSALS, "{call}", what)

    def count(self, method: str, error: RstitchError) -> None:
        """Counts a call of `method`, /SERVICE/NAME as gRPC has it; reasons are constants, so there are few."""
        name = method.rpartition("/")[2]
        self._counter.add(1, {semconv.RPC_METHOD: name, semconv.ERROR_TYPE: error.reason})
