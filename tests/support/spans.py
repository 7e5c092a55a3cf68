"""Spans that a service has ended, kept in memory."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rstitch.service.telemetry import Telemetry


def recording() -> tuple[Telemetry, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Telemetry(provider), exporter


def segments_of(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in named(exporter, "") if " writes" in span.name]


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    found = [span for span in exporter.get_finished_spans() if span.name.startswith(name)]
    return sorted(found, key=lambda span: span.start_time or 0)
