"""Where workers are: lists, names of DNS, and values of flags that name neither."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from fleet.announcement import Announcement
from router_svc.settings import RouterSettings
from router_svc.workers.discovery import Announced, Found, Listed, Named, Standing
from router_svc.workers.load import Load
from rstitch.errors import RstitchError
from rstitch.service.settings import explain
from storage.redis_link import unavailable
from tests.support.asking import Reading, ask_for, threshold, until
from tests.support.endless import expected
from tests.support.fleets import all_ready, ask_turns, fleet, homes
from tests.support.toy_stack import Stack


@pytest.mark.parametrize("flag", ["slm", "llm"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("worker", "HOST:PORT"),
        ("a:1,b", "'b'"),
        ("a:1,,b:2", "''"),
        ("a:1,a:1", "a:1 twice"),
        ("a:99999", "at most 65535"),
        ("dns:///name", "'name'"),
        ("dns:///:50051", "':50051'"),
        ("dns:///a:1,b:2", "'a:1,b:2' is more than one name"),
        ("redis://127.0.0.1:6379", "redis:// is none of these"),
    ],
)
def test_a_place_that_is_none_is_refused_by_its_flag(flag: str, value: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RouterSettings(**{flag: value})  # type: ignore[arg-type]  # what pydantic looks at
    told = explain("router", caught.value)
    assert f"--{flag} (or RSTITCH_{flag.upper()})" in told
    assert words in told
    assert "dns:///NAME:PORT" in told or "twice" in told


def test_places_that_are_good_are_taken() -> None:
    for value in ("", "a:1", "a:1,[::1]:2", "dns:///slm.default.svc:50051"):
        assert RouterSettings(slm=value).slm == value
    assert RouterSettings(slm=" a:1 , b:2 ").slm == "a:1,b:2"
    with pytest.raises(ValidationError):
        RouterSettings(fleet="no spaces")


async def test_a_list_is_the_same_for_ever() -> None:
    listed = Listed(["a:1", "b:2"])
    assert await listed.look() == [Found("a:1"), Found("b:2")]


async def test_a_name_has_the_addresses_that_it_had_last() -> None:
    answers: list[Sequence[str] | OSError] = [
        ["10.0.0.1:1", "10.0.0.2:1"],
        OSError("no answer"),
        ["10.0.0.2:1", "10.0.0.3:1"],
        ["10.0.0.2:1"],
        ["10.0.0.1:1"],
    ]

    async def resolve(name: str, port: int) -> Sequence[str]:
        assert (name, port) == ("workers", 1)
        found = answers.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    named = Named("workers", 1, resolve)

    async def look() -> dict[str, Standing] | None:
        found = await named.look()
        return None if found is None else {each.address: each.standing for each in found}

    there, leaving = Standing.THERE, Standing.LEAVING
    assert await look() == {"10.0.0.1:1": there, "10.0.0.2:1": there}
    assert await look() is None
    assert await look() == {"10.0.0.1:1": leaving, "10.0.0.2:1": there, "10.0.0.3:1": there}
    named.forget("10.0.0.1:1")
    named.forget("10.0.0.2:1")  # which its name still has
    assert await look() == {"10.0.0.2:1": there, "10.0.0.3:1": leaving}
    assert await look() == {"10.0.0.1:1": there, "10.0.0.2:1": leaving, "10.0.0.3:1": leaving}


async def test_a_real_name_is_looked_up() -> None:
    found = await Named("localhost", 50051).look()
    assert found is not None
    assert {each.address for each in found} & {"127.0.0.1:50051", "[::1]:50051"}
    assert all(each.tls_name == "localhost" for each in found)


class _Registry:
    """What a registry says, one reading after another."""

    fleet = "default"

    def __init__(self) -> None:
        self.said: list[Announcement] | RstitchError = []

    async def read(self, role: str) -> list[Announcement]:
        if isinstance(self.said, RstitchError):
            raise self.said
        return self.said


def _announcement(name: str, address: str = "10.0.0.1:1") -> Announcement:
    return Announcement(name, "slm", address, "i", "w", "t", "m", "0", 1, 1, 0, 0, 0, draining=False)


async def test_one_that_says_nothing_is_gone_but_not_where_redis_forgot_it() -> None:
    now = 100.0
    registry = _Registry()
    announced = Announced(registry, "slm", lambda: now)  # type: ignore[arg-type]  # it only reads

    async def look() -> dict[str, Standing] | None:
        found = await announced.look()
        return None if found is None else {each.key: each.standing for each in found}

    first, second = _announcement("a"), _announcement("b", "10.0.0.2:1")
    a, b, there, silent = "a@10.0.0.1:1", "b@10.0.0.2:1", Standing.THERE, Standing.SILENT
    registry.said = [first, second]
    assert await look() == {a: there, b: there}
    registry.said = [second]
    assert await look() == {a: silent, b: there}, "Redis may have forgotten it"
    now += 1.6
    assert await look() == {b: there}, "it is gone while others are there"
    registry.said = [first, second]
    assert await look() == {a: there, b: there}
    registry.said = unavailable()
    assert await look() is None
    registry.said = [second]
    assert await look() == {a: silent, b: there}, "it had no time yet to say that it is there"
    now += 2
    moved = _announcement("a", "10.0.0.9:1")
    registry.said = [second, moved]
    assert await look() == {b: there, "a@10.0.0.9:1": there}, "it is elsewhere now"
    now += 2
    registry.said = [moved]
    assert await look() == {"a@10.0.0.9:1": there, b: silent}
    now += 2
    assert await look() == {"a@10.0.0.9:1": there}
    registry.said = []
    assert await look() == {"a@10.0.0.9:1": silent}, "nobody is there that could take its place"
    now += 100
    assert await look() == {"a@10.0.0.9:1": silent}


def test_what_was_placed_counts_until_the_worker_counts_it_itself() -> None:
    load = Load()
    load.said(5, as_of=10.0)
    for moment in (10.5, 11.0, 11.5):
        load.place(moment)
    assert load.num_bound(11.6) == 8
    load.said(7, as_of=11.2)  # it counts the first two
    assert load.num_bound(11.7) == 8
    assert load.num_bound(14.4) == 8
    assert load.num_bound(14.6) == 7, "one that never came there counted for ever"


def test_what_a_worker_counts_already_is_not_counted_twice() -> None:
    """Of two that got the same, one may have spoken since."""
    early, late = Load(), Load()
    for load in (early, late):
        load.said(4, as_of=10.0)
        for _ in range(10):
            load.place(10.5)
    early.said(14, as_of=10.0)
    assert early.num_bound(10.6) == late.num_bound(10.6) == 14
    early.said(24, as_of=10.0)  # as many came from another router
    assert early.num_bound(10.7) == 24
    assert early.num_bound(20.0) == 24
    late.said(2, as_of=10.0)  # two had gone before these came
    assert late.num_bound(10.7) == 12
    late.said(12, as_of=10.6)
    assert late.num_bound(10.8) == 12
    late.said(3, as_of=10.9)
    assert late.num_bound(11.0) == 3


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts of the name workers.test, looked up often."""
    hosts: list[str] = []
    ask: Callable[..., Any] = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "workers.test":
            return ask(host, port, *args, **kwargs)
        if not hosts:
            raise socket.gaierror("nobody is called that")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(Named, "every_s", 0.1)
    return hosts


async def test_workers_behind_a_name_come_and_go(stack: Stack, names: list[str]) -> None:
    await fleet(stack, 1, 1, delay_s=0.002)
    await stack.grow(2, 1, host="127.0.0.2")
    other = stack.slms[1]
    router = await stack.router(ready=False, slm=f"dns:///workers.test:{stack.slm.port}")
    stub = await stack.stub(router)
    assert "workers.test has no address" in (await all_ready(stub, 1)).detail
    names.append("127.0.0.1")
    await all_ready(stub, 2)
    reading = await Reading(stub, ask_for(policy=threshold(0.5), max_new_tokens=600)).has(20)
    names.append("127.0.0.2")
    await all_ready(stub, 3)
    names.remove("127.0.0.1")
    await all_ready(stub, 2)
    # One that its name no longer has is left at the next run, and forgotten once it does not answer.
    await until(lambda: stack.slm.num_streams == 0 and other.num_streams == 1)
    assert not reading.is_over
    names.clear()
    answer = await reading
    assert (answer.tokens, answer.authors) == expected(stack, 600)
    await stack.slm.stop()
    await ask_turns([stub], "s")
    assert homes(stack.slms, "s") == [other]
    names.append("127.0.0.2")
    await until(lambda: len(router.fleet.members()) == 2)
