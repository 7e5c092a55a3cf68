"""A gateway in front of the bundled stack, and one in front of a scripted router, for whoever only asks them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from rstitch.local.stack import LocalStack
from tests.support.fake_router import FakeRouter
from tests.support.gateway_thread import gateway
from tests.support.scripted_answer import script
from tests.support.visitor import Visit, Visitor


@pytest.fixture(scope="session")
def real(tiny_stack: LocalStack) -> Iterator[str]:
    """The address of a gateway in front of the bundled pair."""
    with gateway(tiny_stack.router_address) as address:
        yield address


@pytest.fixture(scope="session")
def _scripted() -> Iterator[tuple[FakeRouter, str]]:
    with (
        FakeRouter() as router,
        gateway(router.address, keepalive_s=0.05, jaeger_url="https://jaeger.example/ui/") as address,
    ):
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium of the machine; of one module, since this thread has a loop while it lives, and no other may run."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium on PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens an address in a browser that knows nothing, and sees to it that nothing is wrong there at the end."""
    visitors: list[Visitor] = []

    def opened(address: str, **context: Any) -> Page:
        visitors.append(Visitor(browser, address, **context))
        return visitors[-1].page

    yield opened
    for visitor in visitors:
        visitor.close()
