"""What a client that leaves still costs: two tokens at most, however many its answer would have had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.support.asking import stored, until
from tests.support.endless import INTERRUPTED, endless
from tests.support.gateway_thread import gateway
from tests.support.gateways import chat
from tests.support.toy_stack import Stack

RUNNING = 1
BEFORE = 12
NATIVE = {"text": "a", "policy": "slm_only", "session_id": "s", "max_new_tokens": 400, "guard": False}
OPENAI = chat(model="rstitch/slm", max_tokens=400, rstitch={"session_id": "s", "guard": False})


class Pace:
    """How many tokens the SLM has computed; after some it stands still until it may go on."""

    def __init__(self, stack: Stack) -> None:
        endless(stack, delay_s=0)
        self.num, self.may_go_on = 0, asyncio.Event()
        stack.slm.pace = self._next

    async def _next(self) -> None:
        if self.num >= BEFORE:
            await self.may_go_on.wait()
        self.num += 1


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=60) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", OPENAI),
        ("/v1/chat/completions", OPENAI | {"stream": True}),
        ("/v1/rstitch/generate", NATIVE),
    ],
    ids=["whole", "streamed", "events"],
)
async def test_whoever_leaves_costs_two_tokens_at_most(
    stack: Stack, client: httpx2.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    pace = Pace(stack)
    router = await stack.router()
    stub = await stack.stub(router)
    with gateway(f"127.0.0.1:{router.port}") as address:
        asking = asyncio.create_task(client.post(f"{address}{path}", json=body))
        await until(lambda: pace.num == BEFORE)
        assert (await stored(stub, "s")).state == RUNNING
        asking.cancel()
        # No token need come for it to be noticed.
        await until(lambda: ended(stub))
        pace.may_go_on.set()
        await until(lambda: not stack.slm.num_streams)
    assert BEFORE <= pace.num <= BEFORE + 2
    assert (await stored(stub, "s")).length < 100


async def ended(stub: Any) -> bool:
    return (await stored(stub, "s")).state == INTERRUPTED


async def test_whoever_stays_gets_it_all(stack: Stack, client: httpx2.AsyncClient) -> None:
    """Else the test above could be of answers that end by themselves."""
    pace = Pace(stack)
    pace.may_go_on.set()
    router = await stack.router()
    with gateway(f"127.0.0.1:{router.port}") as address:
        told = (await client.post(f"{address}/v1/chat/completions", json=OPENAI)).json()
    assert told["usage"]["completion_tokens"] == 400
