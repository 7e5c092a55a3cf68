"""The trace of an answer that is observed, one span below the call's, and what is counted of it.

The worker's calls hang below the span. Without telemetry nothing is made. It knows neither worker nor course.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace

from router_svc.trajectory.session_names import id_in, tenant_in
from rstitch.errors import RstitchError
from rstitch.service import semconv
from rstitch.service.metrics import Metrics
from rstitch.service.telemetry import Telemetry


class Observation:
    """One answer that is being observed."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.num_positions = self._num_told = 0

    def begins_at(self, position: int) -> None:
        """Says where the answer begins, as the SLM counts."""
        self._span.set_attribute(semconv.RSTITCH_OBSERVE_POSITION, position)

    def add(self, num_positions: int, num_told: int) -> None:
        """Counts positions that were looked at, and of these those that the caller is told of."""
        self.num_positions += num_positions
        self._num_told += num_told

    def end(self) -> None:
        self._span.set_attribute(semconv.RSTITCH_OBSERVE_NUM_POSITIONS, self.num_positions)
        self._span.set_attribute(semconv.RSTITCH_OBSERVE_NUM_TOLD, self._num_told)
        self._span.end()


class ObservingTrace:
    """Traces and counts all answers that a router observes."""

    def __init__(self, telemetry: Telemetry, metrics: Metrics) -> None:
        self._tracer = telemetry.tracer
        counter = metrics.meter.create_counter
        self._answers = counter(semconv.METRIC_OBSERVED, "{answer}", "Answers that were observed.")
        what = "Positions of answers that were looked at."
        self._positions = counter(semconv.METRIC_OBSERVED_POSITIONS, "{position}", what)

    @contextmanager
    def observation(self, name: str, tau: float) -> Iterator[Observation]:
        """Opens the span of a session's answer ("": of one that is given) and ends it however the observing ends."""
        attributes: dict[str, str | float] = {semconv.RSTITCH_OBSERVE_TAU: tau}
        if name:
            attributes[semconv.RSTITCH_SESSION_ID] = id_in(name)
        if tenant := tenant_in(name):
            attributes[semconv.RSTITCH_TENANT] = tenant
        span = self._tracer.start_span("rstitch.observe", attributes=attributes)
        made, error_type = Observation(span), "INTERNAL"
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield made
            error_type = ""
        except RstitchError as error:
            error_type = error.reason
            span.set_status(trace.StatusCode.ERROR, f"{error_type}: {error.message}")
            raise
        except Exception as error:
            span.set_status(trace.StatusCode.ERROR, f"{error_type}: {error!r}")
            raise
        except (asyncio.CancelledError, GeneratorExit):
            error_type = "CANCELLED"  # the caller left, which is no error of the span
            raise
        finally:
            made.end()
            self._answers.add(1, {semconv.ERROR_TYPE: error_type} if error_type else {})
            self._positions.add(made.num_positions)
