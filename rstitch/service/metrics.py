"""Metrics by OTLP, or nothing at all.

With no endpoint every instrument is a no-op and the OpenTelemetry SDK is not imported. It has an endpoint of its own,
for what takes traces need not take metrics. It does not know what is measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from opentelemetry import metrics

from rstitch import __version__
from rstitch.service.ending import SENDING_S, done_within
from rstitch.service.otlp import otlp_credentials
from rstitch.service.semconv import SEMCONV_SCHEMA_URL
from rstitch.service.telemetry import named_settings

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider

# A value with its attributes.
Reading = tuple[int | float, Mapping[str, str | bool]]


class Metrics:
    """Takes metrics, and sends them if `enabled`. Made by `setup_metrics`."""

    def __init__(self, provider: MeterProvider | None) -> None:
        self._provider = provider
        self.enabled = provider is not None
        self.meter: metrics.Meter = (
            provider.get_meter("rstitch", __version__, SEMCONV_SCHEMA_URL) if provider else metrics.NoOpMeter("rstitch")
        )

    def sum_of(self, name: str, unit: str, description: str, read: Callable[[], Iterable[Reading]]) -> None:
        """Adds a sum that only grows. `read` is called in the thread that sends metrics, and must not wait."""
        self.meter.create_observable_counter(name, [_callback(read)], unit, description)

    def gauge_of(self, name: str, unit: str, description: str, read: Callable[[], Iterable[Reading]]) -> None:
        """Adds a value of the moment, which is read as in `sum_of`."""
        self.meter.create_observable_gauge(name, [_callback(read)], unit, description)

    def shutdown(self, timeout_s: float = SENDING_S) -> bool:
        """Sends what there is, for at most `timeout_s`; returns whether that was done. Nothing is recorded afterwards.

        Blocks. The library's own bound may be passed: it is given up with its thread.
        """
        provider, self._provider = self._provider, None
        return provider is None or done_within(timeout_s, provider.shutdown, "metrics not sent")


# For those that measure nothing.
NO_METRICS = Metrics(None)


def setup_metrics(service_name: str, endpoint: str | None) -> Metrics:
    """Exports metrics by OTLP over gRPC every OTEL_METRIC_EXPORT_INTERVAL ms (60,000) and at the end.

    It is off without `endpoint` (as that of traces) and OTEL_EXPORTER_OTLP_METRICS_ENDPOINT.
    """
    endpoint = endpoint or os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    if not endpoint:
        return NO_METRICS
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    with named_settings("--metrics-endpoint"):
        credentials = otlp_credentials(url, "METRICS")
        exporter = OTLPMetricExporter(endpoint=url, insecure=credentials is None, credentials=credentials)
        resource = Resource.create({"service.name": service_name, "service.version": __version__})
        reader = PeriodicExportingMetricReader(exporter)
        provider = MeterProvider([reader], resource, shutdown_on_exit=False)
    return Metrics(provider)


def _callback(
    read: Callable[[], Iterable[Reading]],
) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
    def observe(_options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return [metrics.Observation(value, dict(attributes)) for value, attributes in read()]

    return observe
