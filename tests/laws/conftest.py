"""The random pair, and a stack that serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from rstitch.client.aio import AsyncClient
from rstitch.local.stack import LocalStack
from tests.support.pairs import save_model
from tests.support.served import Pair, start_stack


@pytest.fixture(scope="session")
def random_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two architectures with random weights, in float64, where rounding cannot blur tau."""
    folder = tmp_path_factory.mktemp("pair")
    return Pair(save_model(folder / "slm", "llama", 1), save_model(folder / "llm", "qwen2", 2), "float64")


@pytest.fixture(scope="session")
def stack(random_pair: Pair) -> Iterator[LocalStack]:
    """The random pair, served; shared by the tests that break nothing."""
    with start_stack(random_pair) as running:
        yield running


@pytest.fixture
async def client(stack: LocalStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stack.router_address, timeout_s=100) as connected:
        yield connected
