"""Clients of redis-py for an address: of one server, of the primary that Sentinels name, of a cluster.

None of them tries anything again by itself, and nothing is connected before the first command. Certificates may be
renewed: connections that are made later use the new ones.
"""

from __future__ import annotations

import ssl
from typing import Any

import structlog
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, SSLConnection
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from rstitch.certificates import CertificateFiles
from rstitch.errors import RstitchError
from storage.redis_address import Kind, RedisAddress

_log = structlog.get_logger(__name__)
_FLAGS = {"tls_ca": "--redis-ca", "tls_cert": "--redis-cert", "tls_key": "--redis-key"}
SOCKET_TIMEOUT_S = 5.0
# Sentinels are small and many: the next one may know.
_SENTINEL_TIMEOUT_S = 1.0
_POOL: dict[str, Any] = {"max_connections": 64, "timeout": 20.0}
_CONNECTION: dict[str, Any] = {
    "socket_connect_timeout": SOCKET_TIMEOUT_S,
    "retry": Retry(NoBackoff(), 0),  # that of `RedisLink` is the only one
    "protocol": 2,
}


def client_of(address: RedisAddress) -> Any:
    """A client with a pool of connections. Raises: RstitchError naming the flag of what cannot be."""
    if address.kind is Kind.CLUSTER:
        return _cluster(address)
    return Redis.from_pool(pool_of(address, BlockingConnectionPool, socket_timeout=SOCKET_TIMEOUT_S, **_POOL))


def pool_of(address: RedisAddress, kind: type[ConnectionPool] = ConnectionPool, **options: Any) -> ConnectionPool:
    """A pool of connections to one server, or to the primary that the Sentinels name when a connection is made.

    Raises: RstitchError naming the flag of what cannot be.
    """
    address.check()
    options |= _CONNECTION
    try:
        if address.kind is Kind.SENTINEL:
            return _primary_pool(address, kind, options)
        url, login = address.login()
        pool = kind.from_url(url, **login, **options)
        if address.is_secure:
            pool.connection_class = _SecureConnection
            pool.connection_kwargs["contexts"] = _Contexts(address)
        pool.make_connection()  # type: ignore[no-untyped-call]  # options that there are not show here
    except (ValueError, TypeError, RedisError):
        raise address.no_url() from None
    return pool


async def close_pool(pool: ConnectionPool) -> None:
    """Closes the connections of a pool, and those to the Sentinels that it asks."""
    await pool.disconnect()
    if isinstance(pool, SentinelConnectionPool):
        await pool.sentinel_manager.aclose()


class _BlockingPrimaryPool(SentinelConnectionPool, BlockingConnectionPool):
    """Whoever finds no connection free waits for one."""


def _primary_pool(address: RedisAddress, kind: type[ConnectionPool], options: dict[str, Any]) -> ConnectionPool:
    found, login = address.hosts()
    quick = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _SENTINEL_TIMEOUT_S)
    asked = _CONNECTION | quick | address.sentinel_login()
    sentinel: Any = Sentinel(found.hosts, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    if address.is_secure:
        contexts = _Contexts(address)
        options |= {"connection_class": _SecurePrimaryConnection, "contexts": contexts}
        for each in sentinel.sentinels:
            each.connection_pool.connection_class = _SecureConnection
            each.connection_pool.connection_kwargs["contexts"] = contexts
    pools: Any = _BlockingPrimaryPool if issubclass(kind, BlockingConnectionPool) else SentinelConnectionPool
    made: ConnectionPool = pools(found.service, sentinel, db=found.number, **login, **options)
    return made


def _cluster(address: RedisAddress) -> RedisCluster:
    address.check()
    found, login = address.hosts()
    nodes = [ClusterNode(host, port) for host, port in found.hosts]
    options = _CONNECTION | {"socket_timeout": SOCKET_TIMEOUT_S, "max_connections": _POOL["max_connections"]}
    cluster = RedisCluster(startup_nodes=nodes, ssl=address.is_secure, **login, **options)
    if address.is_secure:
        secure = {"connection_class": _SecureConnection, "contexts": _Contexts(address)}
        cluster.connection_kwargs |= secure  # what later nodes are made with
        for node in cluster.nodes_manager.startup_nodes.values():
            node.connection_class = _SecureConnection
            node.connection_kwargs |= {"contexts": secure["contexts"]}
    return cluster


class _Contexts:
    """What TLS to Redis is made with: the authorities named and no others, and what the files hold now."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._files = CertificateFiles(address.cert, address.key, address.ca, lambda name: _FLAGS[name])
        self._files.read()
        self._context = self._made()

    def get(self) -> ssl.SSLContext:
        try:
            if self._files.renewed() is not None:
                self._context = self._made()
        except RstitchError as error:
            _log.error("certificates for redis not renewed: the last good ones stay", error=str(error))
        return self._context

    def _made(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._address.ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._address.cert:
            context.load_cert_chain(self._address.cert, self._address.key)
        return context


class _SecureConnection(SSLConnection):
    """The client's own makes its context once, and trusts the system beside the authorities that are named."""

    def __init__(self, *, contexts: _Contexts, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context: Any = contexts


class _SecurePrimaryConnection(SentinelManagedConnection, _SecureConnection):
    """One that asks the Sentinels where to, and talks TLS to whom they name."""
