"""Whether a service on a port takes work: grpc.health.v1 for ours, PING for Redis. It does not know who started it."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from typing import Any
from urllib.parse import SplitResult, urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rstitch.client.sync import Client
from rstitch.credentials import Credentials
from rstitch.errors import RstitchError, from_rpc_error


def health_of(address: str, service: str = "", timeout_s: float = 2.0, credentials: Credentials = Credentials()) -> str:
    """Asks a gRPC server: SERVING, NOT_SERVING, SERVICE_UNKNOWN, or `UNREACHABLE: why`."""
    with credentials.channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as exc:
            error = from_rpc_error(exc)
            return "SERVICE_UNKNOWN" if error.code is grpc.StatusCode.NOT_FOUND else f"UNREACHABLE: {error.message}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


def is_serving(address: str, timeout_s: float = 2.0, credentials: Credentials = Credentials()) -> bool:
    """Asks whether a gRPC server says SERVING; costs little where nobody listens yet."""
    host, port = address.rsplit(":", 1)
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout_s):
        return health_of(address, timeout_s=timeout_s, credentials=credentials) == "SERVING"
    return False


def stuck_because(router: str, timeout_s: float = 1.0, credentials: Credentials = Credentials()) -> str:
    """Says what a router waits for though both its workers answer; "" if it is ready, or waits for a worker."""
    with contextlib.suppress(RstitchError), Client(router, credentials=credentials) as client:
        status = client.status(timeout_s=timeout_s)
        if not status.ready and all(worker.ready for worker in status.workers):
            return status.detail
    return ""


def ready_members(router: str, timeout_s: float = 1.0, credentials: Credentials = Credentials()) -> dict[str, int]:
    """Counts the workers of each role that a router can bind sessions to; none where it does not answer."""
    with contextlib.suppress(RstitchError), Client(router, credentials=credentials) as client:
        members = client.status(timeout_s=timeout_s).members
        return dict(Counter(member.role.value for member in members if member.ready))
    return {}


def is_url(url: str) -> bool:
    """Says whether hosts and ports can be read from a URL: of several servers there are some, with commas between."""
    try:
        for each in _apart(url):
            each.port  # noqa: B018 - raises
    except ValueError:
        return False
    return True


def _apart(url: str) -> list[SplitResult]:
    """The URL of each of the servers that one URL names."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{login}{at}{host}") for host in hosts.split(",")]


def without_secrets(url: str) -> str:
    """Gives a URL without user, password and options."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def refuses_connections(url: str, timeout_s: float = 2.0) -> bool:
    """Says whether nobody listens at any address of a Redis URL; who listens there is not asked."""
    return all(_refuses(parts, timeout_s) for parts in _apart(url))


def _refuses(parts: SplitResult, timeout_s: float) -> bool:
    try:
        if parts.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(parts.path)
        else:
            socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout_s).close()
    except OSError:
        return True
    return False


def redis_answers(url: str, timeout_s: float = 2.0) -> bool:
    """Asks whether a Redis answers at `redis://host:port` at all; it may still want a password."""
    parts = urlsplit(url)
    with (
        contextlib.suppress(OSError),
        socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout_s) as s,
    ):
        s.sendall(b"PING\r\n")
        # -LOADING: it is there, but not yet for us.
        reply = s.recv(64)
        return reply.startswith((b"+PONG", b"-NOAUTH"))
    return False
