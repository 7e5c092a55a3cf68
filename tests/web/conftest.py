"""A gateway in front of the bundled stack, and one in front of a scripted router, for whoever only asks them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from rstitch.local.stack import LocalStack
from tests.support.fake_router import FakeRouter, script
from tests.support.gateway_thread import gateway


@pytest.fixture(scope="session")
def real(tiny_stack: LocalStack) -> Iterator[str]:
    """The address of a gateway in front of the bundled pair."""
    with gateway(tiny_stack.router_address) as address:
        yield address


@pytest.fixture(scope="session")
def _scripted() -> Iterator[tuple[FakeRouter, str]]:
    with FakeRouter() as router, gateway(router.address, keepalive_s=0.05) as address:
        yield router, address


@pytest.fixture
def router(_scripted: tuple[FakeRouter, str]) -> Iterator[FakeRouter]:
    """The scripted router, as if it were new."""
    made = _scripted[0]
    yield made
    made.before_event = lambda number: None
    made.answer = script()
    for kept in (made.questions, made.metadata, made.calls, made.cancelled, made.labels, made._sessions):
        kept.clear()


@pytest.fixture
def scripted(router: FakeRouter, _scripted: tuple[FakeRouter, str]) -> str:
    """The address of the gateway in front of it."""
    return _scripted[1]


@pytest.fixture
def http(scripted: str) -> Iterator[httpx2.Client]:
    """A client of the gateway in front of the scripted router."""
    with httpx2.Client(base_url=scripted, timeout=60) as client:
        yield client
