"""Where Redis is, and how it and its client know each other: a URL and files. It connects nothing.

    redis://USER:PASSWORD@HOST:PORT/0                            one server; unix://PATH is another
    redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME/0    the primary that Sentinels know by that name
    redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT            a cluster, of which these are some

rediss instead of redis talks TLS. User and password are those of the servers, not of the Sentinels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from redis.credentials import CredentialProvider

from rstitch.errors import invalid
from rstitch.secret import Secret
from storage.settings import RedisLogin

_HOW = (
    "Write redis://HOST:PORT/0, rediss://USER@HOST:PORT/0, unix://PATH, redis+sentinel://HOST:PORT,.../NAME or "
    "redis+cluster://HOST:PORT,...; escape signs of a password by %XX."
)
_SEVERAL = re.compile(r"rediss?\+(cluster|sentinel)://(?:([^/@]*)@)?([^/@?#]+)/?([^?#]*)")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


class Kind(StrEnum):
    """What answers at an address."""

    ONE = "one"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Hosts:
    """What the address of several servers says: the Sentinels, or nodes of a cluster."""

    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str | None
    service: str = ""  # what Sentinels call the primary
    number: int = 0  # of the database


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A Redis and how to be let in; files as `--redis-ca` and the flags beside it have them."""

    url: str
    ca: str = ""
    cert: str = ""
    key: str = ""
    password_file: str = ""
    sentinel_password_file: str = ""

    @classmethod
    def of(cls, url: str, login: RedisLogin) -> RedisAddress:
        """The Redis at `url`, reached as a service's flags say."""
        files = login.redis_ca, login.redis_cert, login.redis_key, login.redis_password_file
        return cls(url, *files, login.redis_sentinel_password_file)

    @property
    def shown(self) -> str:
        """The address as logs and errors may show it: without password and options."""
        return without_password(self.url)

    @property
    def kind(self) -> Kind:
        found = _SEVERAL.match(self.url)
        return Kind(found[1]) if found else Kind.ONE

    @property
    def is_secure(self) -> bool:
        return self.url.startswith("rediss")

    def check(self) -> None:
        """Refuses what does not go together. Raises: RstitchError naming the flag."""
        for name, flag in (("ca", "--redis-ca"), ("cert", "--redis-cert"), ("key", "--redis-key")):
            if getattr(self, name) and not self.is_secure:
                raise invalid(flag, "it is of no use without TLS.", "Begin --redis with rediss.")
        if self.sentinel_password_file and self.kind is not Kind.SENTINEL:
            what = "it is of no use without Sentinels."
            raise invalid("--redis-sentinel-password-file", what, "Begin --redis with redis+sentinel://.")
        if self.kind is Kind.ONE and "+" in self.url.partition("://")[0]:
            raise self.no_url()

    def login(self) -> tuple[str, dict[str, Any]]:
        """The URL of one server, without user and password if a file has the password, and what then gives both."""
        if not self.password_file:
            return self.url, {}
        try:
            parts = urlsplit(self.url)
            user, password = parts.username or "", parts.password
        except ValueError:
            raise self.no_url() from None
        plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        return plain, {"credential_provider": self._provider(user, password)}

    def hosts(self) -> tuple[Hosts, dict[str, Any]]:
        """What the URL of several servers says, and what gives user and password. Raises: RstitchError."""
        found = _SEVERAL.fullmatch(self.url)
        if found is None:
            raise self.no_url()
        kind, login, named, path = Kind(found[1]), found[2], found[3], found[4]
        default = 26379 if kind is Kind.SENTINEL else 6379
        matches = [_HOST.fullmatch(host) for host in named.split(",")]
        hosts = tuple((each[1].strip("[]"), int(each[2] or default)) for each in matches if each is not None)
        service, _, number = path.partition("/")
        is_right = (number or "0").isdecimal() and service if kind is Kind.SENTINEL else path in ("", "0")
        if len(hosts) < len(matches) or not is_right or any(not 0 < port < 65536 for _, port in hosts):
            raise self.no_url()
        user, colon, password = (login or "").partition(":")
        user, given = unquote(user), unquote(password) if colon else None
        made = Hosts(hosts, user, given, service, int(number or 0))
        if self.password_file:
            return made, {"credential_provider": self._provider(user, given)}
        return made, {"username": user or None, "password": given}

    def sentinel_login(self) -> dict[str, Any]:
        """What the Sentinels themselves are shown."""
        if not self.sentinel_password_file:
            return {}
        secret = Secret("", self.sentinel_password_file, "--redis", "--redis-sentinel-password-file")
        return {"credential_provider": _Login("", secret)}

    def no_url(self) -> Exception:
        """INVALID_ARGUMENT about the URL, of which nothing is shown: it may hold a password anywhere."""
        return invalid("--redis", "it is no URL of Redis, or has an option that there is not.", _HOW)

    def _provider(self, user: str, password: str | None) -> CredentialProvider:
        if password is not None:
            raise invalid("--redis-password-file", "the URL has a password, too.", "Leave it out of --redis.")
        return _Login(user, Secret("", self.password_file, "--redis", "--redis-password-file"))


class _Login(CredentialProvider):
    """User and password as they are when a connection is made."""

    def __init__(self, user: str, secret: Secret) -> None:
        self._user = user
        self._secret = secret

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        return (self._user, self._secret.get()) if self._user else (self._secret.get(),)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def without_password(url: str) -> str:
    """The URL as logs and errors may show it, without password and options."""
    scheme, _, rest = url.partition("://")
    netloc, path = re.fullmatch(r"([^/?#]*)([^?#]*).*", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    user, at, place = netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{scheme}://{name}{':***' if colon else ''}{at}{place}{path}"
