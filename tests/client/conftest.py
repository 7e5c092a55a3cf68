"""A fake router, and both clients behind one face so that each law is tested with both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from rstitch import AsyncClient, Client, Event
from tests.support.fake_router import FakeRouter

# Runs a list of events out of `generate` or `attach`: (address, method, arguments) -> events.
Ask = Callable[..., list[Event]]
# Runs one unary method.
Call = Callable[..., Any]


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    with FakeRouter() as running:
        yield running


def _ask_sync(
    address: str, method: str = "generate", *args: Any, client: dict[str, Any] | None = None, **kw: Any
) -> list[Event]:
    with Client(address, **(client or {})) as c:
        return list(getattr(c, method)(*args, **kw))


def _ask_async(
    address: str, method: str = "generate", *args: Any, client: dict[str, Any] | None = None, **kw: Any
) -> list[Event]:
    async def ask() -> list[Event]:
        async with AsyncClient(address, **(client or {})) as c:
            return [event async for event in getattr(c, method)(*args, **kw)]

    return asyncio.run(ask())


def _call_sync(address: str, method: str, *args: Any, **kw: Any) -> Any:
    with Client(address) as c:
        return getattr(c, method)(*args, **kw)


def _call_async(address: str, method: str, *args: Any, **kw: Any) -> Any:
    async def call() -> Any:
        async with AsyncClient(address) as c:
            reply: Awaitable[Any] = getattr(c, method)(*args, **kw)
            return await reply

    return asyncio.run(call())


@pytest.fixture(params=[_ask_sync, _ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    function: Ask = request.param
    return function


@pytest.fixture(params=[_call_sync, _call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    function: Call = request.param
    return function
