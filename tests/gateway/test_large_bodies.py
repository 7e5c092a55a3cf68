"""What bodies take is bounded, each and all together, and whoever sends too much can read so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2
import pytest
from starlette.datastructures import Headers

from gateway.holders import holders_of
from gateway.settings import GatewaySettings
from rstitch.errors import InvalidArgument
from tests.support.fake_router import FakeRouter
from tests.support.gateway_thread import gateway
from tests.support.gateways import chat, until
from tests.support.raw_http import next_answer, wire

MIB = 1 << 20
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def small(scripted: tuple[FakeRouter, httpx2.Client]) -> Iterator[str]:
    with gateway(scripted[0].address, max_body_mib=1, max_bodies_mib=1.2) as address:
        yield address


def large(num_bytes: int) -> dict[str, Any]:
    return chat(user="x" * num_bytes)


def posted(address: str, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(f"{address}/v1/chat/completions", json=body, timeout=60)


def test_all_bodies_together_are_bounded(small: str, router: FakeRouter) -> None:
    is_asked, is_released = threading.Event(), threading.Event()

    def hold(number: int) -> None:
        is_asked.set()
        assert is_released.wait(60)

    router.before_event = hold
    with ThreadPoolExecutor() as pool:
        first = pool.submit(posted, small, large(700_000))
        assert is_asked.wait(60)
        router.before_event = lambda number: None
        refused = posted(small, large(700_000))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == refused.headers["x-rstitch-error"] == "TOO_MUCH_AT_ONCE"
        assert refused.json()["error"]["type"] == "service_unavailable_error"
        # What most send is not shut out by it, and what fits is taken.
        assert posted(small, large(60_000)).status_code == 200
        assert posted(small, large(400_000)).status_code == 200
        is_released.set()
        assert first.result().status_code == 200
    until(lambda: posted(small, large(700_000)).status_code == 200)


def test_a_body_that_never_ends_gives_its_room_back(small: str, router: FakeRouter) -> None:
    with wire(small) as half:
        half.sendall(POST + b"content-length: 1000000\r\n\r\n" + b" " * 900_000)
        until(lambda: posted(small, large(700_000)).status_code == 503)
    until(lambda: posted(small, large(700_000)).status_code == 200)


@pytest.mark.parametrize("size", [MIB, MIB + 1])
def test_a_body_in_chunks_is_bounded_to_the_byte(small: str, router: FakeRouter, size: int) -> None:
    """Nothing but its end would be left to send: so nothing can be lost on the way to the answer."""
    with wire(small) as asking:
        asking.sendall(POST + b"transfer-encoding: chunked\r\n\r\n")
        for start in range(0, size, 100_000):
            piece = b" " * min(100_000, size - start)
            asking.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
        if size > MIB:
            status, headers, body = next_answer(asking)
            assert (status, headers["connection"]) == (413, "close")
            assert body["error"]["code"] == "MESSAGE_TOO_LARGE"
        else:
            asking.sendall(b"0\r\n\r\n")
            assert next_answer(asking)[0] == 400  # blanks are no JSON


def test_who_still_sends_can_read_that_it_is_too_much(small: str, router: FakeRouter) -> None:
    """As most clients do, which read nothing before all is sent."""
    with wire(small) as asking:
        asking.sendall(POST + b"content-length: 8388608\r\n\r\n")
        for _ in range(128):
            asking.sendall(b" " * 65_536)
        assert next_answer(asking)[0] == 413


@pytest.fixture(scope="module")
def shared(scripted: tuple[FakeRouter, httpx2.Client]) -> Iterator[str]:
    """A gateway where one address has room for 1 MiB of 8, and one key for 2."""
    with gateway(scripted[0].address, max_body_mib=1, max_bodies_mib=8, max_address_mib=1) as address:
        yield address


def from_address(number: int, key: str = "") -> httpx2.Client:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx2.Client(transport=httpx2.HTTPTransport(local_address=f"127.0.0.{number}"), headers=headers, timeout=60)


@contextmanager
def holding(address: str, *senders: tuple[int, str]) -> Iterator[None]:
    """Holds 900,000 bytes of room for each of some senders, an address and a key, until its end."""
    with ExitStack() as stack:
        for number, key in senders:
            half = stack.enter_context(wire(address, f"127.0.0.{number}"))
            shown = f"authorization: bearer  {key}\r\n".encode() if key else b""
            half.sendall(POST + shown + b"content-length: 1000000\r\n\r\n" + b" " * 960_000)
            with from_address(number, key) as client:
                until(lambda client=client: sent(client, address).status_code == 429)
        yield


def sent(client: httpx2.Client, address: str) -> httpx2.Response:
    return client.post(f"{address}/v1/chat/completions", json=large(400_000))


def test_one_address_shuts_out_itself_alone(shared: str, router: FakeRouter) -> None:
    with holding(shared, (2, "")), from_address(2, "a") as same, from_address(3) as other:
        refused = sent(same, shared)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "TOO_MUCH_OF_ADDRESS"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert sent(other, shared).status_code == 200
        assert same.post(f"{shared}/v1/chat/completions", json=large(60_000)).status_code == 200
    with from_address(2) as again:
        until(lambda: sent(again, shared).status_code == 200)


def test_one_key_shuts_out_itself_alone(shared: str, router: FakeRouter) -> None:
    with holding(shared, (2, "a"), (3, "a")), from_address(4, "a") as same, from_address(4, "b") as other:
        assert sent(same, shared).json()["error"]["code"] == "TOO_MUCH_OF_KEY"
        assert sent(other, shared).status_code == 200


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_an_address_is_whoever_can_have_it(one: str, other: str, are_one: bool) -> None:
    found = [holders_of({"client": (each, 1)}, Headers({})) for each in (one, other)]
    assert (found[0] == found[1]) == are_one


def test_only_this_machine_has_one_address_for_all() -> None:
    assert GatewaySettings().address_mib() == 64
    assert GatewaySettings(http_listen="0.0.0.0:80").address_mib() == GatewaySettings().key_mib() == 16
    assert GatewaySettings(max_body_mib=32).key_mib() == 32
    with pytest.raises(InvalidArgument, match="--max-address-mib"):
        GatewaySettings(max_address_mib=8).check()


def test_room_for_less_than_one_is_refused_at_the_start() -> None:
    with pytest.raises(InvalidArgument, match="--max-bodies-mib"):
        GatewaySettings(max_body_mib=16, max_bodies_mib=8).check()
