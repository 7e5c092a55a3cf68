"""The head of a request comes within a time and a size, and whoever says nothing takes no connection for long."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from rstitch.authority import make_certificates
from tests.support.fake_router import FakeRouter
from tests.support.gateway_thread import gateway
from tests.support.gateways import chat, until
from tests.support.raw_http import answer, next_answer, to_end, wire

FEW = 4
HEAD = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture(scope="module")
def hasty(scripted: tuple[FakeRouter, httpx2.Client]) -> Iterator[str]:
    with gateway(scripted[0].address, head_timeout_s=0.3, keepalive_s=0.05, max_connections=FEW) as address:
        yield address


def dripped(to: socket.socket, data: bytes) -> bytes:
    """Sends the same again and again until an answer, or the end, has come; gives all that comes."""
    to.settimeout(0.02)
    while True:
        to.sendall(data)
        try:
            first = to.recv(1 << 16)
        except TimeoutError:
            continue
        to.settimeout(60)
        return first + to_end(to) if first else b""


def test_a_connection_that_says_nothing_is_closed(hasty: str) -> None:
    with wire(hasty) as silent:
        assert to_end(silent) == b""


def test_a_connection_that_does_not_shake_hands_is_closed(router: FakeRouter, tmp_path: Path) -> None:
    """Before TLS stands there is no head that could come late."""
    make_certificates(tmp_path, {}, 1)
    tls = {"http_tls_cert": str(tmp_path / "gateway.pem"), "http_tls_key": str(tmp_path / "gateway.key")}
    with gateway(router.address, head_timeout_s=0.3, **tls) as address, wire(address) as silent:
        silent.settimeout(30)  # asyncio's own bound is a minute
        assert to_end(silent) == b""


@pytest.mark.parametrize("more", [b"", b"a: b\r\n"], ids=["silence", "a line at a time"])
def test_a_head_that_does_not_end_is_told_so(hasty: str, more: bytes) -> None:
    with wire(hasty) as slow:
        slow.sendall(HEAD)
        status, headers, body = answer(dripped(slow, more) if more else to_end(slow))
    assert (status, headers["connection"], headers["content-type"]) == (408, "close", "application/json")
    assert (body["error"]["code"], body["error"]["type"]) == ("SLOW_HEAD", "timeout_error")


def test_line_ends_after_an_answer_keep_no_connection(hasty: str) -> None:
    """uvicorn's keep-alive time ends with whatever is sent, and a parser skips these."""
    with wire(hasty) as open_still:
        open_still.sendall(HEAD + b"\r\n")
        assert b" 200 " in open_still.recv(1 << 16)
        dripped(open_still, b"\r\n")


def test_silent_connections_do_not_shut_others_out(hasty: str) -> None:
    def status() -> int:
        return httpx2.get(f"{hasty}/health").status_code

    with ExitStack() as silent:
        for _ in range(FEW):
            silent.enter_context(wire(hasty))
        assert status() == 503  # else this tests nothing
        until(lambda: status() == 200)


@pytest.mark.parametrize("line", [b"a: " + b"x" * 70_000, b"a: b\r\n" * 12_000], ids=["one header", "many headers"])
@pytest.mark.parametrize("ends", [b"\r\n\r\n", b""], ids=["whole", "endless"])
def test_a_head_that_is_too_large_is_told_so(hasty: str, line: bytes, ends: bytes) -> None:
    with wire(hasty) as large:
        large.sendall(HEAD + line + ends)
        status, headers, body = answer(to_end(large))
    assert (status, headers["x-rstitch-error"]) == (431, "HEAD_TOO_LARGE")
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"].endswith(".")


def test_a_head_within_its_bound_is_taken_in_any_pieces(hasty: str) -> None:
    with wire(hasty) as large:
        large.sendall(HEAD + b"a: " + b"x" * 30_000)
        large.sendall(b"y" * 30_000 + b"\r\nconnection: close\r\n\r\n")
        assert answer(to_end(large))[0] == 200


class Held:
    """An answer that stands still until it is let go; its gateway says meanwhile that it lives."""

    def __init__(self, router: FakeRouter, asking: socket.socket) -> None:
        self._asking, self._let_go, self._sent = asking, threading.Event(), 0
        self.told = b""
        router.before_event = self._hold
        body = json.dumps(chat(stream=True)).encode()
        asking.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
        asking.sendall(b"content-length: %d\r\n\r\n" % len(body) + body)

    def _hold(self, number: int) -> None:
        self._sent += 1
        if self._sent == 6:
            assert self._let_go.wait(60)

    def wait(self) -> None:
        """Lets pass twice the time that a head may take."""
        self._read(self.told.count(b": keepalive") + 12, b": keepalive")

    def go_on(self) -> None:
        self._let_go.set()

    def read_to_its_end(self) -> None:
        self._read(1, b"data: [DONE]")

    def _read(self, num: int, mark: bytes) -> None:
        while self.told.count(mark) < num:
            more = self._asking.recv(1 << 16)
            assert more, self.told
            self.told += more


@pytest.mark.parametrize("behind", [b"", HEAD], ids=["nothing", "half a head"])
def test_an_answer_may_take_longer_than_a_head(hasty: str, router: FakeRouter, behind: bytes) -> None:
    with wire(hasty) as asking:
        held = Held(router, asking)
        held.wait()
        asking.sendall(behind)
        held.wait()
        held.go_on()
        held.read_to_its_end()


def test_too_large_a_head_behind_a_question_ends_both(hasty: str, router: FakeRouter) -> None:
    with wire(hasty) as asking:
        held = Held(router, asking)
        held.wait()
        asking.sendall(HEAD + b"a: " + b"x" * 70_000)
        told = b""
        with contextlib.suppress(ConnectionResetError):  # an end, too
            told = to_end(asking)
        held.go_on()
    assert b"HTTP/1.1 431" not in told  # it would stand within the answer
    assert b"[DONE]" not in told


def test_what_is_no_http_is_an_error_object(hasty: str) -> None:
    with wire(hasty) as other:
        other.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        status, _, body = answer(to_end(other))
    assert (status, body["error"]["code"]) == (400, "NO_HTTP")


def test_few_requests_wait_on_a_connection(hasty: str, router: FakeRouter) -> None:
    with wire(hasty) as asking:
        held = Held(router, asking)
        held.wait()
        asking.sendall((HEAD + b"\r\n") * 100)
        with contextlib.suppress(ConnectionResetError):  # an end, too
            to_end(asking)
        held.go_on()


def test_a_few_requests_at_once_are_answered_in_turn(hasty: str, router: FakeRouter) -> None:
    with wire(hasty) as asking:
        held = Held(router, asking)
        held.wait()
        asking.sendall((HEAD + b"\r\n") * 10)
        held.wait()
        held.go_on()
        told = held.told
        while told.count(b"HTTP/1.1 200") < 11:
            more = asking.recv(1 << 16)
            assert more, told
            told += more


CHUNKED = b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
CHUNKED += b"transfer-encoding: chunked\r\n\r\n"


def flooded(to: socket.socket, piece: bytes) -> int:
    """Sends the same until the other side ends it, but 16 MiB at most; gives how much was sent."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 16 << 20:
            to.sendall(piece)
            sent += len(piece)
    return sent


@pytest.mark.parametrize(
    ("begun", "more"),
    [(b"0\r\n", b"a: " + b"x" * 1000 + b"\r\n"), (b"0\r\na: ", b"x" * 4096), (b"1;a=", b"x" * 4096)],
    ids=["many trailers", "one trailer", "an extension of a chunk"],
)
def test_what_is_no_body_behind_a_head_is_bounded(hasty: str, begun: bytes, more: bytes) -> None:
    """It was kept, or copied again and again, for as long as it came."""
    with wire(hasty) as large:
        large.sendall(CHUNKED + b"1\r\n{\r\n" + begun)
        assert flooded(large, more * 64) < 16 << 20


def test_a_body_may_end_with_trailers_and_come_in_small_chunks(hasty: str) -> None:
    """What stands between its pieces is many times what stands in a head."""
    body = b'{"prompt": "' + b"x" * 30_000 + b'"}'
    with wire(hasty) as asking:
        asking.sendall(CHUNKED + b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in body))
        asking.sendall(b"0\r\na: b\r\n\r\n")
        assert next_answer(asking)[0] == 200
        asking.sendall(HEAD + b"\r\n")
        assert asking.recv(1 << 16).startswith(b"HTTP/1.1 200")
