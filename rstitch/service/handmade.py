"""Histograms of `tally` as the SDK's own: what is sent and what is scraped has them beside all others.

The SDK takes sums and gauges that are counted elsewhere (observable instruments), but no histograms. It does not know
who counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
)

from rstitch.service.tally import Buckets

# The least and the greatest value are not kept; the wire has a way to say so, the SDK's types have none.
_UNKNOWN: Any = None


@dataclass(frozen=True, slots=True)
class _Kept:
    name: str
    unit: str
    description: str
    bounds: Sequence[float]
    read: Callable[[], Iterable[Buckets]]


@dataclass(slots=True)
class Handmade:
    """The histograms of a process that the SDK does not count."""

    _kept: list[_Kept] = field(default_factory=list)
    _since_ns: int = field(default_factory=time.time_ns)

    def add(
        self, name: str, unit: str, description: str, bounds: Sequence[float], read: Callable[[], Iterable[Buckets]]
    ) -> None:
        """Adds a histogram, which `read` tells of."""
        self._kept.append(_Kept(name, unit, description, bounds, read))

    def metrics(self) -> Iterator[Metric]:
        """Yields those that have a value."""
        for kept in self._kept:
            points = [self._point(kept, *row) for row in kept.read()]
            if points:
                data = Histogram(points, AggregationTemporality.CUMULATIVE)
                yield Metric(kept.name, kept.description, kept.unit, data)

    def added_to(self, data: MetricsData) -> Iterator[Metric]:
        """Yields the SDK's metrics, then these."""
        for of_resource in data.resource_metrics:
            for of_scope in of_resource.scope_metrics:
                yield from of_scope.metrics
        yield from self.metrics()

    def _point(self, kept: _Kept, counts: Sequence[int], total: float, attributes: Any) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes=attributes,
            start_time_unix_nano=self._since_ns,
            time_unix_nano=time.time_ns(),
            count=sum(counts),
            sum=total,
            bucket_counts=counts,
            explicit_bounds=kept.bounds,
            min=_UNKNOWN,
            max=_UNKNOWN,
        )


class HandmadeExporter(OTLPMetricExporter):
    """Sends by OTLP what the SDK counts, and with it what is counted by hand."""

    def __init__(self, handmade: Handmade, **settings: Any) -> None:
        super().__init__(**settings)
        self._handmade = handmade

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Sends it, and says whether that was done."""
        return super().export(self._with_handmade(metrics_data), timeout_millis, **kwargs)

    def _with_handmade(self, data: MetricsData) -> MetricsData:
        first, *rest = data.resource_metrics
        scope, *scopes = first.scope_metrics
        metrics = [*scope.metrics, *self._handmade.metrics()]
        widened = replace(first, scope_metrics=[replace(scope, metrics=metrics), *scopes])
        return replace(data, resource_metrics=[widened, *rest])
