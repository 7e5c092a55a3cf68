"""Traces by OTLP, or nothing at all.

With no endpoint every method is a no-op and the OpenTelemetry SDK is not imported. The interceptors are our own: those
of opentelemetry-instrumentation-grpc never end the span of a cancelled client call and report code 0 for cancelled and
timed out server calls. It does not know what is traced.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry import trace

from rstitch import __version__
from rstitch.errors import RstitchError
from rstitch.service.ending import SENDING_S, done_within
from rstitch.service.otlp import otlp_credentials
from rstitch.service.semconv import SEMCONV_SCHEMA_URL
from rstitch.service.tracecontext import context_from_traceparent, current_metadata, traceparent_of
from rstitch.service.tracing_interceptors import TracingServerInterceptor, tracing_client_interceptors

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["Telemetry", "context_from_traceparent", "current_metadata", "setup_telemetry", "traceparent_of"]

# The default of 2,048 overflows when a thousand answers end together.
_MAX_QUEUED_SPANS = 65_536


class Telemetry:
    """Takes spans, and sends them if `enabled`. Made by `setup_telemetry`."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self.enabled = provider is not None
        self.tracer: trace.Tracer = (
            provider.get_tracer("rstitch", __version__, SEMCONV_SCHEMA_URL) if provider else trace.NoOpTracer()
        )

    def server_interceptor(self) -> grpc.aio.ServerInterceptor | None:
        """Opens a SERVER span per call, child of the caller's; None if not enabled."""
        return TracingServerInterceptor(self.tracer) if self.enabled else None

    def client_interceptors(self) -> list[Any]:
        """Pass the current context on and, below an active span, open a CLIENT span per call; empty if not enabled."""
        return tracing_client_interceptors(self.tracer) if self.enabled else []

    def shutdown(self, timeout_s: float = SENDING_S) -> bool:
        """Sends what is queued, for at most `timeout_s`; returns whether that was done. Nothing is traced afterwards.

        Blocks. The library's own bounds are longer or none at all: it is given up with its thread.
        """
        provider, self._provider = self._provider, None
        return provider is None or done_within(timeout_s, provider.shutdown, "spans not sent")


def setup_telemetry(service_name: str, endpoint: str | None) -> Telemetry:
    """Exports spans by OTLP over gRPC to `endpoint` or else OTEL_EXPORTER_OTLP_ENDPOINT; without either it is off.

    An endpoint is `http://host:4317`, `host:4317`, or `https://host:4317` as `otlp_credentials` has it.
    """
    endpoint = endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint:
        return Telemetry(None)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    with named_settings("--otlp-endpoint"):
        credentials = otlp_credentials(url, "TRACES")
        exporter = OTLPSpanExporter(endpoint=url, insecure=credentials is None, credentials=credentials)
        resource = Resource.create({"service.name": service_name, "service.version": __version__})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_MAX_QUEUED_SPANS))
    return Telemetry(provider)


@contextlib.contextmanager
def named_settings(flag: str) -> Iterator[None]:
    """Raises RstitchError (BAD_TELEMETRY), naming what is set, for whatever the SDK says of its variables' values."""
    try:
        yield
    except RstitchError:
        raise
    except Exception as error:  # noqa: BLE001 - what the SDK raises differs
        given = ", ".join(sorted(name for name in os.environ if name.startswith("OTEL_")))
        what = f"{flag} or one of the SDK's variables cannot be used ({type(error).__name__})."
        remedy = f"Correct or unset these: {given}." if given else f"Correct {flag}: http://HOST:PORT."
        code = grpc.StatusCode.INVALID_ARGUMENT
        # Without a cause: the SDK quotes values, and those of headers are secrets.
        raise RstitchError(code, "BAD_TELEMETRY", what, remedy=remedy) from None
