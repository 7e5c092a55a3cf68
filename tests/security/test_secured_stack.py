"""The stack of `rstitch up --secure`: the same answers as without a lock, whatever is killed meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest

from rstitch.client import Client, Credentials, Threshold, Unavailable
from rstitch.errors import RstitchError
from rstitch.local.stack import LocalStack

pytestmark = pytest.mark.soak
ASKED = {"text": "There are 12 boxes with 7 pens each.", "policy": Threshold(0.02), "max_new_tokens": 60}


@pytest.fixture(scope="module")
def secured() -> Iterator[LocalStack]:
    with LocalStack(secure=True) as stack:
        yield stack


@pytest.fixture(scope="module")
def expected() -> list[int]:
    with LocalStack() as stack, Client(stack.router_address) as client:
        return list(client.answer(**ASKED).tokens)  # type: ignore[arg-type]


def test_nobody_is_let_in_without_certificate_and_key(secured: LocalStack) -> None:
    with Client(secured.router_address, reconnect_s=0) as client, pytest.raises(Unavailable):
        client.status()
    lock = secured.folder / "lock"
    keyless = Credentials(
        tls_ca=str(lock / "ca.pem"), tls_cert=str(lock / "client.pem"), tls_key=str(lock / "client.key")
    )
    with Client(secured.router_address, credentials=keyless) as client, pytest.raises(RstitchError) as refused:
        client.status()
    assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("killed", ["slm worker", "llm worker", "router", None])
def test_an_answer_is_that_of_a_stack_without_a_lock(
    secured: LocalStack, expected: list[int], killed: str | None
) -> None:
    part = next((part for part in secured.parts if part.name == killed), None)
    with Client(secured.router_address, credentials=secured.credentials, reconnect_s=60) as client:
        client.wait_ready(60)
        tokens: list[int] = []
        restarting: threading.Thread | None = None
        for event in client.generate(**ASKED):  # type: ignore[arg-type]
            tokens += getattr(event, "tokens", ())
            if part is not None and restarting is None and len(tokens) > 3:
                part.kill()
                restarting = threading.Thread(target=part.restart)
                restarting.start()
        if restarting is not None:
            restarting.join()
    assert tokens == expected
