"""A gateway in front of the bundled stack."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from rstitch.local.stack import LocalStack
from tests.support.gateways import started


@pytest.fixture(scope="module")
def http(tiny_stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    with started(tiny_stack.router_address, tmp_path_factory.mktemp("gateway")) as client:
        yield client
