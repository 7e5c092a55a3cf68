"""Real OTLP receivers on a port, of traces and of metrics: what a collector is, in forty lines each."""

from __future__ import annotations

import threading
from concurrent import futures
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpReceiver(pb_grpc.TraceServiceServicer):
    """Keeps every span it is sent. `endpoint` is what an exporter wants."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.spans: list[Span] = []
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        pb_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = _endpoint(self._server, credentials)

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:
        with self._lock:
            self.spans += [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
        return pb.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        with self._lock:
            return [span for span in self.spans if span.name == name]

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._server.stop(None).wait()


def _endpoint(server: grpc.Server, credentials: grpc.ServerCredentials | None) -> str:
    if credentials is None:
        return f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    return f"https://127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"


def attributes(span: Any) -> dict[str, Any]:
    """The attributes of a span, or of a metric's point, as plain values."""
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes}


class MetricsReceiver(metrics_grpc.MetricsServiceServicer):
    """The same for metrics: keeps the last state of every metric it is sent, by name."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self._metrics: dict[str, Metric] = {}
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        metrics_grpc.add_MetricsServiceServicer_to_server(self, self._server)
        self.endpoint = _endpoint(self._server, credentials)

    def Export(
        self, request: metrics_pb.ExportMetricsServiceRequest, context: Any
    ) -> metrics_pb.ExportMetricsServiceResponse:
        with self._lock:
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    self._metrics |= {metric.name: metric for metric in scope.metrics}
        return metrics_pb.ExportMetricsServiceResponse()

    @property
    def names(self) -> set[str]:
        with self._lock:
            return set(self._metrics)

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Attributes and value of each point: a number, or a histogram's (count, sum)."""
        with self._lock:
            metric = self._metrics[name]
        kind = str(metric.WhichOneof("data"))
        points = getattr(metric, kind).data_points
        return [(attributes(p), (p.count, p.sum) if kind == "histogram" else _number(p)) for p in points]

    def total(self, name: str) -> Any:
        return sum(value for _, value in self.points(name))

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._server.stop(None).wait()


def _number(point: Any) -> Any:
    return getattr(point, point.WhichOneof("value"))
