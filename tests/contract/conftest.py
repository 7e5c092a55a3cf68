"""What a running stack measures once everything has happened that it counts."""

from __future__ import annotations

import pytest
from prometheus_client.metrics_core import Metric

from rstitch.client import Client
from tests.support.scraped import ScrapedStack, ask_everything


@pytest.fixture(scope="session")
def scraped(tiny_stack: ScrapedStack) -> list[Metric]:
    with Client(tiny_stack.router_address, credentials=tiny_stack.credentials) as client:
        ask_everything(client)
    return [family for families in tiny_stack.scrape().values() for family in families]
