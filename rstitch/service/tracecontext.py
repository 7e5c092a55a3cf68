"""W3C trace context, in and out of a call. It records nothing and does not know who does."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

Metadata = Sequence[tuple[str, str | bytes]]

_PROPAGATOR = TraceContextTextMapPropagator()


def traceparent_of(source: trace.Span | Context | None) -> str:
    """Writes the `traceparent` of a span or of the span in a context (None: the current one); "" without one."""
    span = source if isinstance(source, trace.Span) else trace.get_current_span(source)
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    trace_id, span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    return f"00-{trace_id}-{span_id}-{context.trace_flags:02x}"


def context_from_traceparent(traceparent: str, tracestate: str = "") -> Context:
    """Reads the context that `traceparent` names; an empty one if it names none."""
    carrier = {TRACEPARENT: traceparent, TRACESTATE: tracestate} if traceparent else {}
    return _PROPAGATOR.extract(carrier, context=Context())


def context_from_metadata(metadata: Metadata | None) -> Context:
    """Reads the caller's context from the metadata of its call."""
    found = {key: value for key, value in metadata or () if key in (TRACEPARENT, TRACESTATE)}
    return context_from_traceparent(str(found.get(TRACEPARENT, "")), str(found.get(TRACESTATE, "")))


def current_metadata(context: Context | None = None) -> list[tuple[str, str]]:
    """Makes metadata that pass `context` (None: the current one) on to a call; empty if there is no span in it."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context)
    return list(carrier.items())
