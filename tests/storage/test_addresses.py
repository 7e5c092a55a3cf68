"""Addresses of several servers: what they say, what is refused, and that no password is shown."""

from __future__ import annotations

import pytest

from rstitch.errors import RstitchError
from rstitch.local.readiness import is_url, refuses_connections, without_secrets
from storage.clients import client_of
from storage.redis_address import Hosts, Kind, RedisAddress


def test_what_an_address_says() -> None:
    address = RedisAddress("rediss+sentinel://me:p%2Fw@one:1,[::1]:2,three/name/4")
    assert (address.kind, address.is_secure) == (Kind.SENTINEL, True)
    hosts, login = address.hosts()
    assert hosts == Hosts((("one", 1), ("::1", 2), ("three", 26379)), "me", "p/w", "name", 4)
    assert login == {"username": "me", "password": "p/w"}
    hosts, login = RedisAddress("redis+cluster://one,two:7000").hosts()
    assert hosts == Hosts((("one", 6379), ("two", 7000)), "", None)
    assert login == {"username": None, "password": None}
    assert RedisAddress("redis://h:1/0").kind is RedisAddress("unix:///tmp/a").kind is Kind.ONE


def test_no_password_is_shown() -> None:
    for url, shown in (
        ("redis+sentinel://me:secret@a:1,b:2/name/0", "redis+sentinel://me:***@a:1,b:2/name/0"),
        ("redis+cluster://:secret@a:1,[::1]:2", "redis+cluster://:***@a:1,[::1]:2"),
        ("rediss+cluster://a:1,b:2", "rediss+cluster://a:1,b:2"),
    ):
        assert RedisAddress(url).shown == shown
    assert without_secrets("redis+cluster://me:secret@a:1,b:2") == "redis+cluster://a:1,b:2"
    link = client_of(RedisAddress("redis+sentinel://me:secret@a:1,b:2/name"))
    assert "secret" not in repr(link.connection_pool.sentinel_manager)


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--redis", {"url": "redis+cluster://"}),
        ("--redis", {"url": "redis+cluster://h:1/1"}),
        ("--redis", {"url": "redis+cluster://h:0"}),
        ("--redis", {"url": "redis+cluster://h:1,"}),
        ("--redis", {"url": "redis+cluster://h:1?db=1"}),
        ("--redis", {"url": "redis+sentinel://h:1"}),
        ("--redis", {"url": "redis+sentinel://h:1/"}),
        ("--redis", {"url": "redis+sentinel://h:1/name/first"}),
        ("--redis", {"url": "redis+ring://h:1"}),
        ("--redis-ca", {"url": "redis+cluster://h:1", "ca": "/ca"}),
        ("--redis-password-file", {"url": "redis+cluster://:pw@h:1", "password_file": "HERE"}),
        ("--redis-sentinel-password-file", {"url": "redis://h:1", "sentinel_password_file": "HERE"}),
    ],
)
def test_what_cannot_be_is_refused_by_its_flag(
    flag: str, values: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (file := tmp_path_factory.mktemp("secret") / "password").write_text("hunter2")
    with pytest.raises(RstitchError) as refused:
        client_of(RedisAddress(**{name: value.replace("HERE", str(file)) for name, value in values.items()}))
    assert (refused.value.field, bool(refused.value.remedy)) == (flag, True)
    assert "hunter2" not in str(refused.value)


def test_a_stack_is_given_several_servers() -> None:
    assert is_url("redis+cluster://me:pw@localhost:1,localhost:2")
    assert not is_url("redis+cluster://localhost:1,localhost:port")
    assert refuses_connections("redis+sentinel://localhost:1,localhost:2/name")
