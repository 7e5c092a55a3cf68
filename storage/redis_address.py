"""Where Redis is, how it is known and how the router shows who it is; what loads is checked at once.

Passwords and certificates may be renewed: connections that are made later use the new ones.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import structlog
from redis.asyncio import ConnectionPool, SSLConnection
from redis.credentials import CredentialProvider
from redis.exceptions import RedisError

from rstitch.certificates import CertificateFiles
from rstitch.errors import RstitchError, invalid
from rstitch.secret import Secret
from storage.settings import RedisLogin

_log = structlog.get_logger(__name__)
_FLAGS = {"tls_ca": "--redis-ca", "tls_cert": "--redis-cert", "tls_key": "--redis-key"}
_HOW = "Write redis://HOST:PORT/0, rediss://USER@HOST:PORT/0 or unix://PATH; escape signs of a password by %XX."


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A Redis and how to be let in; files as `--redis-ca` and the flags beside it have them."""

    url: str
    ca: str = ""
    cert: str = ""
    key: str = ""
    password_file: str = ""

    @classmethod
    def of(cls, url: str, login: RedisLogin) -> RedisAddress:
        """The Redis at `url`, reached as a service's flags say."""
        return cls(url, login.redis_ca, login.redis_cert, login.redis_key, login.redis_password_file)

    @property
    def shown(self) -> str:
        """The address as logs and errors may show it: without password and options."""
        return without_password(self.url)

    def pool(self, kind: type[ConnectionPool] = ConnectionPool, **options: Any) -> ConnectionPool:
        """Makes a pool; nothing is connected yet. Raises: RstitchError naming the flag of what cannot be."""
        url, login = self._login()
        try:
            pool: ConnectionPool = kind.from_url(url, **login, **options)
            if self._secure:
                pool.connection_class = _SecureConnection
                pool.connection_kwargs["contexts"] = _Contexts(self)
            pool.make_connection()  # type: ignore[no-untyped-call]  # options that there are not show here
        except (ValueError, TypeError, RedisError):
            raise invalid("--redis", "it is no URL of Redis, or has an option that there is not.", _HOW) from None
        return pool

    @property
    def _secure(self) -> bool:
        return self.url.startswith("rediss://")

    def _login(self) -> tuple[str, dict[str, Any]]:
        """The URL, without user and password if a file has the password, and what then gives both."""
        for name, flag in (("ca", "--redis-ca"), ("cert", "--redis-cert"), ("key", "--redis-key")):
            if getattr(self, name) and not self._secure:
                raise invalid(flag, "it is of no use without TLS.", "Begin --redis with rediss://.")
        if not self.password_file:
            return self.url, {}
        try:
            parts = urlsplit(self.url)
            user, password = parts.username or "", parts.password
        except ValueError:
            raise invalid("--redis", "it is no URL.", _HOW) from None
        if password is not None:
            raise invalid("--redis-password-file", "the URL has a password, too.", "Leave it out of --redis.")
        secret = Secret("", self.password_file, "--redis", "--redis-password-file")
        plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        return plain, {"credential_provider": _Login(user, secret)}


class _Login(CredentialProvider):
    """User and password as they are when a connection is made."""

    def __init__(self, user: str, secret: Secret) -> None:
        self._user = user
        self._secret = secret

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        return (self._user, self._secret.get()) if self._user else (self._secret.get(),)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


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


def without_password(url: str) -> str:
    """The URL as logs and errors may show it, without password and options."""
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    return urlunsplit((parts.scheme, f"{name}{':***' if colon else ''}{at}{place}", parts.path, "", ""))
