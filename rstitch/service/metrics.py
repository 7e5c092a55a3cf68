"""Metrics, sent by OTLP or scraped or both from the same instruments, or none at all.

With neither every instrument is a no-op and the OpenTelemetry SDK is not imported. Sending has an endpoint of its own,
for what takes traces need not take metrics. It does not know what is measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from opentelemetry import metrics

from rstitch import __version__
from rstitch.service.ending import SENDING_S, done_within
from rstitch.service.otlp import otlp_credentials
from rstitch.service.semconv import SEMCONV_SCHEMA_URL
from rstitch.service.tally import Buckets
from rstitch.service.telemetry import named_settings

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader

    from rstitch.service.exposition import ScrapeReader
    from rstitch.service.handmade import Handmade

# A value with its attributes.
Reading = tuple[int | float, Mapping[str, str | bool]]


class Listener(Protocol):
    """A port on which metrics are scraped."""

    port: int

    def close(self) -> None: ...


class Metrics:
    """Takes metrics, and sends them or lets them be scraped if `enabled`. Made by `setup_metrics`.

    Attributes:
        listener: closed in the end; None: there is no port of its own for them.
    """

    def __init__(
        self,
        provider: MeterProvider | None,
        handmade: Handmade | None = None,
        scraped: ScrapeReader | None = None,
    ) -> None:
        self._provider = provider
        self._handmade = handmade
        self._scraped = scraped
        self.listener: Listener | None = None
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

    def histogram_of(
        self, name: str, unit: str, description: str, bounds: Sequence[float], read: Callable[[], Iterable[Buckets]]
    ) -> None:
        """Adds a histogram that is counted elsewhere (`Tally`), by buckets up to `bounds`; read as in `sum_of`."""
        if self._handmade is not None:
            self._handmade.add(name, unit, description, bounds, read)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Writes all metrics for a scraper: OpenMetrics with exemplars if its header `Accept` says so, else plain text.

        Returns: the body and its content type; an empty body unless they were set up to be scraped. Any thread may call
        it; it takes milliseconds.
        """
        return self._scraped.exposition(accept) if self._scraped is not None else (b"", "text/plain; charset=utf-8")

    def shutdown(self, timeout_s: float = SENDING_S) -> bool:
        """Sends what there is, for at most `timeout_s`; returns whether that was done. Nothing is recorded afterwards.

        Blocks. The library's own bound may be passed: it is given up with its thread.
        """
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.close()
        provider, self._provider = self._provider, None
        return provider is None or done_within(timeout_s, provider.shutdown, "metrics not sent")


# For those that measure nothing.
NO_METRICS = Metrics(None)


def setup_metrics(service_name: str, endpoint: str | None, *, scraped: bool = False) -> Metrics:
    """Sends metrics by OTLP over gRPC every OTEL_METRIC_EXPORT_INTERVAL ms (60,000) and at the end.

    Nothing is sent without `endpoint` (as that of traces) and OTEL_EXPORTER_OTLP_METRICS_ENDPOINT. With `scraped`,
    `exposition` has all of them at any time. With neither, there are none.
    """
    endpoint = endpoint or os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    if not endpoint and not scraped:
        return NO_METRICS
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource

    from rstitch.service.exposition import ScrapeReader
    from rstitch.service.handmade import Handmade

    handmade = Handmade()
    reader = ScrapeReader(handmade) if scraped else None
    readers: list[MetricReader] = [reader.sdk] if reader is not None else []
    with named_settings("--metrics-endpoint" if endpoint else "--metrics-listen"):
        if endpoint:
            readers.append(_sender(endpoint, handmade))
        resource = Resource.create({"service.name": service_name, "service.version": __version__})
        provider = MeterProvider(readers, resource, shutdown_on_exit=False)
    return Metrics(provider, handmade, reader)


def _sender(endpoint: str, handmade: Handmade) -> MetricReader:
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    from rstitch.service.handmade import HandmadeExporter

    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    credentials = otlp_credentials(url, "METRICS")
    exporter = HandmadeExporter(handmade, endpoint=url, insecure=credentials is None, credentials=credentials)
    return PeriodicExportingMetricReader(exporter)


def _callback(
    read: Callable[[], Iterable[Reading]],
) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
    def observe(_options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return [metrics.Observation(value, dict(attributes)) for value, attributes in read()]

    return observe
