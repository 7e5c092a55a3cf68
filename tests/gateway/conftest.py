"""One gateway in front of the bundled stack, and one in front of a scripted router, for whoever only asks them; and
what the router's tests have, for those who set the workers' pace.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from rstitch.local.stack import LocalStack
from tests.router.conftest import redis_process, redis_url, stack  # noqa: F401 - fixtures, the same here
from tests.support.fake_router import FakeRouter
from tests.support.gateways import started


@pytest.fixture(scope="module")
def http(tiny_stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("gateway")
    with started(tiny_stack.router_address, folder, "--served-model-name", "gpt-6-astra") as client:
        yield client


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeRouter, httpx2.Client]]:
    with FakeRouter() as router, started(router.address, tmp_path_factory.mktemp("gateway")) as client:
        yield router, client


@pytest.fixture
def router(scripted: tuple[FakeRouter, httpx2.Client]) -> Iterator[FakeRouter]:
    scripted[0].before_event = lambda number: None
    scripted[0].questions.clear()
    scripted[0].metadata.clear()
    yield scripted[0]
    scripted[0].before_event = lambda number: None


@pytest.fixture
def plain(router: FakeRouter, scripted: tuple[FakeRouter, httpx2.Client]) -> httpx2.Client:
    """A client of the gateway before the scripted router."""
    return scripted[1]
