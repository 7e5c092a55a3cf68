"""The port of the metrics: `GET /metrics` over HTTP, in threads of its own, with the service's certificates.

In clear on this machine; beyond it by TLS, to any client with a certificate of the service's authorities, whatever its
name (`--tls-client-name` is not asked). No keys are asked for. It does not know what is measured.
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

import grpc
import structlog
from pydantic import AfterValidator, Field

from rstitch.certificates import CertificateFiles
from rstitch.errors import RstitchError
from rstitch.limits import host_and_port
from rstitch.service.exposure import check_exposure
from rstitch.service.metrics import Metrics, setup_metrics
from rstitch.service.tls import ServerTls, TlsSettings

_log = structlog.get_logger(__name__)
_FLAG = "--metrics-listen"
# Who says nothing for so long is hung up on; a scrape takes milliseconds.
_PATIENCE_S = 10.0
# Connections at once: a Prometheus has one.
_MAX_CONNECTIONS = 16


def _host_and_port_or_none(value: str) -> str:
    return value and host_and_port(value)


class MetricsSettings(TlsSettings):
    """The flags of a service's metrics, the same for router and workers."""

    metrics_endpoint: Annotated[str, Field(description="OTLP gRPC endpoint for metrics; empty: none are sent.")] = ""
    metrics_listen: Annotated[
        str,
        AfterValidator(_host_and_port_or_none),
        Field(
            description="HOST:PORT where metrics can be scraped (/metrics), by the same TLS; names and keys are not"
            " asked. Empty: nowhere."
        ),
    ] = ""

    def make_metrics(self, service_name: str, *, insecure: bool) -> Metrics:
        """Makes what takes metrics, sends them and opens the port to scrape them, as far as these settings want it.

        Raises: RstitchError about the setting that cannot be met, such as a port that is taken.
        """
        if not self.metrics_listen:
            return setup_metrics(service_name, self.metrics_endpoint)
        check_exposure(
            self.metrics_listen,
            has_keys=False,  # a scraper shows none
            has_tls=bool(self.tls_cert),
            has_client_ca=bool(self.tls_client_ca),
            insecure=insecure,
            flag=_FLAG,
        )
        metrics = setup_metrics(service_name, self.metrics_endpoint, scraped=True)
        metrics.listener = MetricsListener(self.metrics_listen, metrics.exposition, self.server_tls())
        return metrics


class MetricsListener:
    """Listens from the start on, in threads that end with the process. Its `port` is the one that it got.

    Raises: RstitchError (UNAVAILABLE, CANNOT_LISTEN) where the address cannot be had.
    """

    def __init__(self, listen: str, exposition: Callable[[str], tuple[bytes, str]], tls: ServerTls | None) -> None:
        host, _, port = listen.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        context = _Context(tls) if tls is not None else None
        try:
            family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
            self._server = _Server(family, (host, int(port)), exposition, context)
        except OSError as error:
            raise RstitchError(
                grpc.StatusCode.UNAVAILABLE,
                "CANNOT_LISTEN",
                f"cannot listen on {listen}.",
                field=_FLAG,
                remedy="Another process may have the port, or the host is not this machine's; choose another.",
            ) from error
        self.port: int = self._server.server_address[1]
        _log.info("metrics can be scraped", address=f"{listen.rpartition(':')[0]}:{self.port}", tls=tls is not None)
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stops listening; a reply that is being written is finished or lost."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        family: socket.AddressFamily,
        address: tuple[str, int],
        exposition: Callable[[str], tuple[bytes, str]],
        context: _Context | None,
    ) -> None:
        self.address_family = family
        self.exposition = exposition
        self._context = context
        self._room = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Binds, and does not ask what this machine is called, as the class above would: that may take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Takes a connection if there is room for one more; the others are closed."""
        return self._room.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shakes hands here, and not where connections are taken: who is slow at it holds up nobody else."""
        try:
            if self._context is not None:
                request.settimeout(_PATIENCE_S)
                request = self._context.wrapped(request)
            super().process_request_thread(request, client_address)
        except OSError as error:  # of the handshake: no certificate, another protocol, gone
            _log.info("metrics not scraped", error=type(error).__name__)
            self.shutdown_request(request)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what a handler raised, mostly that the other side has left."""
        _log.warning("metrics not scraped", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE_S
    server: _Server
    server_version = "rstitch"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, explain="Metrics are at /metrics.")
            return
        body, content_type = self.server.exposition(self.headers.get("Accept", ""))
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: whoever scrapes does so all the time."""


class _Context:
    """Wraps connections in TLS, with what the files hold at that time; the last good ones stay."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._files = CertificateFiles(tls.cert, tls.key, tls.client_ca)
        self._files.read()
        self._made = self._make()

    def wrapped(self, connection: socket.socket) -> ssl.SSLSocket:
        try:
            if self._files.renewed() is not None:
                self._made = self._make()
        except RstitchError as error:
            _log.error("certificates not renewed: the last good ones stay", error=str(error))
        return self._made.wrap_socket(connection, server_side=True)

    def _make(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._tls.cert, self._tls.key)
        if self._tls.client_ca:
            context.load_verify_locations(self._tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
