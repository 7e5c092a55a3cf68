"""Spans of a worker: one for each run of a stream, one for each text that is observed. It knows no message."""

from __future__ import annotations

from dataclasses import fields
from types import TracebackType

from opentelemetry import trace

from model_worker.engine.observing import Observed
from model_worker.engine.types import RunFinished, RunRequest, Timing
from model_worker.metrics import WorkerMetrics
from rstitch.errors import RstitchError
from rstitch.service import semconv
from rstitch.service.telemetry import context_from_traceparent

_CORRECTIONS = ("HELD_TOO_SHORT", "PREFIX_MISMATCH")


def open_span(tracer: trace.Tracer, run: RunRequest, traceparent: str) -> trace.Span:
    """Begins the span of a run, below that of its traceparent if there is one."""
    return tracer.start_span(
        "catch-up" if not run.max_tokens else "run-ahead" if run.is_background else "decode",
        context=context_from_traceparent(traceparent) if traceparent else None,
        attributes={semconv.RSTITCH_SESSION_ID: run.session_id, semconv.RSTITCH_RUN_POSITION: run.position},
    )


def close_span(span: trace.Span, event: RunFinished) -> None:
    """Ends a run's span, with how it ended and where its time went."""
    if span.is_recording():
        span.set_attribute(semconv.RSTITCH_RUN_REASON, event.reason.value)
        _set_timing(span, event.timing)
    span.end()


def fail_span(span: trace.Span, error: RstitchError) -> None:
    """Says why a run failed; one whose position did not fit is no error, as its caller sends what is missing then."""
    span.set_attribute(semconv.RSTITCH_RUN_REASON, error.reason.lower())
    if error.reason not in _CORRECTIONS:
        span.set_status(trace.StatusCode.ERROR, str(error))


class ObserveSpan:
    """The span of one text that is observed, below that of the call, and what is counted of it.

    It ends with what was looked at until then, also where the caller left.
    """

    def __init__(self, tracer: trace.Tracer, run: RunRequest, metrics: WorkerMetrics) -> None:
        assert run.observe is not None
        self._metrics = metrics
        self._timing = Timing()
        self._num_positions = self._num_told = 0
        self._span = tracer.start_span(
            "worker.observe", attributes={semconv.RSTITCH_OBSERVE_POSITION: run.observe.start}
        )

    def __enter__(self) -> ObserveSpan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._metrics.record_observed(self._num_positions)
        if self._span.is_recording():
            self._span.set_attribute(semconv.RSTITCH_OBSERVE_NUM_POSITIONS, self._num_positions)
            self._span.set_attribute(semconv.RSTITCH_OBSERVE_NUM_TOLD, self._num_told)
            _set_timing(self._span, self._timing)
            if isinstance(error, Exception):  # a caller that leaves is no error
                self._span.set_status(trace.StatusCode.ERROR, str(error))
        self._span.end()

    def add(self, event: Observed) -> None:
        """Counts the positions of a step."""
        self._num_positions += event.num_positions
        self._num_told += len(event.positions)

    def add_slice(self, timing: Timing) -> None:
        """Counts where the time of a slice went."""
        self._metrics.record_observing(timing)
        for field in fields(Timing):
            setattr(self._timing, field.name, getattr(self._timing, field.name) + getattr(timing, field.name))


def _set_timing(span: trace.Span, timing: Timing) -> None:
    span.set_attributes(
        {
            semconv.RSTITCH_RUN_NUM_TOKENS: timing.num_computed_tokens,
            semconv.RSTITCH_RUN_NUM_CACHED_TOKENS: timing.num_cached_tokens,
            semconv.RSTITCH_RUN_QUEUE_US: timing.queue_us,
            semconv.RSTITCH_RUN_FORWARD_US: timing.forward_us,
        }
    )
