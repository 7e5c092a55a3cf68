"""What is measured, as text for whoever scrapes it: OpenMetrics with exemplars, or Prometheus' older format.

opentelemetry-exporter-prometheus would do, but it drops exemplars; so a reader of the SDK is turned into the families
of prometheus-client here, which writes them. Names are those that Prometheus itself gives to what it is sent by OTLP:
`rstitch.answers` is `rstitch_answers_total`, a time in s ends in `_seconds`, and attributes have `_` for `.`. It does
not know what is measured, nor who asks.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from opentelemetry.sdk.metrics.export import (
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    MetricsData,
    NumberDataPoint,
    Sum,
)
from opentelemetry.trace import format_span_id, format_trace_id
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from rstitch.service.handmade import Handmade

_OPENMETRICS = "application/openmetrics-text"
_UNITS = {"s": "seconds", "By": "bytes"}
_RATIO = "ratio"  # of a gauge that has no unit ("1"); units such as `{token}` are no part of a name
_Labels = tuple[str, ...]


class ScrapeReader(Collector):
    """Reads the instruments of a provider that `sdk` was given to, whenever somebody asks.

    The last exemplar of each bucket stays until a newer one takes its place, so that several may scrape.
    """

    def __init__(self, handmade: Handmade) -> None:
        self.sdk = InMemoryMetricReader()
        self._handmade = handmade
        self._exemplars: dict[tuple[str, _Labels, int], Exemplar] = {}
        self._lock = threading.Lock()  # one at a time: a reader keeps what it has read in itself

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Writes all there is now, in the format that an HTTP header `Accept` asks for.

        Returns: the body and its content type.
        """
        with self._lock:
            if any(part.split(";")[0].strip().lower() == _OPENMETRICS for part in accept.split(",")):
                body = openmetrics.generate_latest(self)  # type: ignore[no-untyped-call]
                return body, openmetrics.CONTENT_TYPE_LATEST
            return generate_latest(self), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Family]:
        """Yields a family for each instrument that has values."""
        data = self.sdk.get_metrics_data()
        if data is None:
            return
        yield from _target(data)
        for metric in self._handmade.added_to(data):
            yield self._family(metric)

    def _family(self, metric: Metric) -> Family:
        points: Sequence[Any] = metric.data.data_points
        labels = sorted({name for point in points for name in point.attributes or ()})
        names, unit = [name_of(label) for label in labels], _UNITS.get(metric.unit or "", "")
        name, told = name_of(metric.name), metric.description or metric.name
        values = [
            (tuple(_text((point.attributes or {}).get(label, "")) for label in labels), point) for point in points
        ]
        if isinstance(metric.data, Histogram):
            timed = HistogramMetricFamily(name, told, labels=names, unit=unit)
            for row, point in values:
                timed.add_metric(row, self._buckets(name, row, point), point.sum)
            return timed
        made: CounterMetricFamily | GaugeMetricFamily
        if isinstance(metric.data, Sum) and metric.data.is_monotonic:
            made = CounterMetricFamily(name, told, labels=names, unit=unit)
        else:
            made = GaugeMetricFamily(name, told, labels=names, unit=_RATIO if metric.unit == "1" else unit)
        for row, point in values:
            assert isinstance(point, NumberDataPoint)
            made.add_metric(row, point.value)
        return made

    def _buckets(self, name: str, row: _Labels, point: HistogramDataPoint) -> list[Any]:
        """Gives the buckets as the library wants them: bound, number of values up to it, and an exemplar or none."""
        bounds = [*point.explicit_bounds, float("inf")]
        for found in point.exemplars or ():
            if found.trace_id is None or found.span_id is None:
                continue
            index = next(index for index, bound in enumerate(bounds) if found.value <= bound)
            labels = {"trace_id": format_trace_id(found.trace_id), "span_id": format_span_id(found.span_id)}
            self._exemplars[name, row, index] = Exemplar(labels, found.value, found.time_unix_nano / 1e9)
        made, num = [], 0
        for index, (bound, count) in enumerate(zip(bounds, point.bucket_counts, strict=True)):
            num += count
            exemplar = self._exemplars.get((name, row, index))
            told = "+Inf" if bound == float("inf") else str(float(bound))
            made.append((told, num) if exemplar is None else (told, num, exemplar))
        return made


def name_of(name: str) -> str:
    """Writes the name of a metric or attribute as Prometheus does: whatever is no letter or digit is `_`."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _target(data: MetricsData) -> Iterable[Family]:
    """Yields `target_info`: which service this is, and of which version."""
    for found in data.resource_metrics[:1]:
        told = {name_of(name): _text(found.resource.attributes[name]) for name in ("service.name", "service.version")}
        yield InfoMetricFamily("target", "Which service this is.", value=told)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
