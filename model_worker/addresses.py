"""Where routers reach a worker: the address that it tells them, and the name that it goes by. It opens no port."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from rstitch.errors import invalid
from storage.redis_address import Kind, RedisAddress

_REDIS_PORT = 6379
_REMEDY = "Name the address that routers reach this worker by: --advertise HOST:PORT."


@dataclass(frozen=True, slots=True)
class Advertised:
    """Where this process is reached. The ports of `listen` may be told only once they are bound."""

    host: str  # as it stands before a port: an IPv6 address in brackets
    port: int  # of the role that the process is started for; 0: the one that it listens on

    @classmethod
    def of(cls, listen: str, advertise: str, redis: RedisAddress | None) -> Advertised:
        """Finds it: --advertise, else where it listens; if that is any interface, the one by which it reaches Redis.

        Without Redis nobody is told, and it is this machine's name. Raises RstitchError naming the flag to give.
        """
        if advertise:
            host, _, port = advertise.rpartition(":")
            if not int(port) or _is_any(host):
                raise invalid("--advertise", f"{advertise} is no address to reach anybody by.", _REMEDY)
            return cls(host, int(port))
        host = listen.rpartition(":")[0]
        if not _is_any(host):
            return cls(host, 0)
        return cls(_towards(redis) if redis is not None else socket.gethostname(), 0)

    def at(self, bound_port: int) -> str:
        """Gives HOST:PORT of the role that the process is started for."""
        return f"{self.host}:{self.port or bound_port}"

    def beside(self, bound_port: int) -> str:
        """Gives that of the other role, where one process serves both."""
        return f"{self.host}:{bound_port}"


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_unspecified
    except ValueError:
        return False


def _towards(redis: RedisAddress) -> str:
    """Returns this machine's address on the way to Redis; nothing is sent there."""
    host, port = _place(redis)
    error: OSError | None = None
    try:
        for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            try:
                with socket.socket(family, kind, protocol) as found:
                    found.connect(place)
                    own = str(found.getsockname()[0]).partition("%")[0]
            except OSError as failed:
                error = failed
            else:
                return f"[{own}]" if family == socket.AF_INET6 else own
    except OSError as failed:
        error = failed
    what = f"it is any interface, and the way to Redis at {host}:{port} tells none: {error}."
    raise invalid("--listen", what, _REMEDY)


def _place(redis: RedisAddress) -> tuple[str, int]:
    if redis.url.startswith("unix://"):
        raise invalid("--listen", "it is any interface, and a Redis at a socket file tells none.", _REMEDY)
    if redis.kind is not Kind.ONE:
        return redis.hosts()[0].hosts[0]
    try:
        parts = urlsplit(redis.url)
        return parts.hostname or "localhost", parts.port or _REDIS_PORT
    except ValueError:
        raise redis.no_url() from None


def worker_id(role: str, given: str, address: str, *, is_other: bool = False) -> str:
    """Returns a worker's name in the fleet: as it was given, else by role and address.

    Where one process serves both roles, the other one has a name of its own.
    """
    if not given:
        return f"{role}-{address.replace(':', '-').replace('[', '').replace(']', '')}"
    return f"{given}-{role}" if is_other else given
