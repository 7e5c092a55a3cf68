"""The other end of `--telemetry`: takes traces and metrics over OTLP and drops them, so that only sending costs."""

from __future__ import annotations

from concurrent import futures
from types import TracebackType
from typing import Any, Self

import grpc

_SERVICES = [f"opentelemetry.proto.collector.{kind}.v1.{kind.capitalize()}Service" for kind in ("trace", "metrics")]


class Collector:
    """Listens on a free port of this machine while the block lasts; `endpoint` is what an exporter wants."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._server = grpc.server(futures.ThreadPoolExecutor(1))
        # Neither request nor response is parsed: an empty message is a full acceptance.
        export: Any = grpc.unary_unary_rpc_method_handler(self._export)
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {"Export": export}) for service in _SERVICES]
        )
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._server.stop(None).wait()

    def _export(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.num_bytes += len(request)
        return b""
