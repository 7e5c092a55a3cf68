"""Forty conversations on two workers of each model and two routers, and any one of these killed under load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import httpx2
import pytest

from rstitch.client.aio import AsyncClient
from rstitch.local.stack import GatewayOptions, LocalStack
from tests.support.asking import until
from tests.support.conversations import Conversation, Held, Talk, computed_tokens, infos
from tests.support.lasting_stream import LastingStream
from tests.support.served import Pair, start_stack

_MANY = [Conversation.drawn(number) for number in range(40)]
_LONG = [Conversation.drawn(number, num_turns=2, max_new_tokens=150) for number in range(8)]
pytestmark = pytest.mark.soak
_PARTS = ("slm worker", "slm worker 2", "llm worker", "llm worker 2", "router", "router 2")


@pytest.fixture(scope="module")
def fleet(random_pair: Pair) -> Iterator[LocalStack]:
    """All of it, serving the random pair."""
    with start_stack(random_pair, num_slm=2, num_llm=2, num_routers=2, gateway=GatewayOptions()) as running:
        yield running


@pytest.fixture
async def clients(fleet: LocalStack) -> AsyncIterator[list[AsyncClient]]:
    """One for each router."""
    async with AsyncExitStack() as exits:
        made = [AsyncClient(part.address, timeout_s=120, reconnect_s=60) for part in fleet.routers]
        yield [await exits.enter_async_context(each) for each in made]


@pytest.fixture
async def balanced(fleet: LocalStack) -> AsyncIterator[list[AsyncClient]]:
    """One for all routers, of which it asks those that live in turn."""
    together = ",".join(part.address for part in fleet.routers)
    async with AsyncClient(together, timeout_s=120, reconnect_s=60) as client:
        yield [client]


async def _forget(fleet: LocalStack, client: AsyncClient, held: list[Held]) -> None:
    """Forgets sessions, after which no worker may have a page that is not free."""
    for each in held:
        await client.delete_trajectory(each.session_id)

    async def are_free() -> bool:
        rooms = [info.capacity for info in (await infos(fleet)).values()]
        return all(room.num_free_pages == room.num_pages and not room.num_sessions for room in rooms)

    await until(are_free, 60)


async def test_conversations_keep_their_caches_and_are_spread(fleet: LocalStack, clients: list[AsyncClient]) -> None:
    before = await computed_tokens(fleet)
    held = await Talk(clients, _MANY, "spread").hold()
    after, members = await computed_tokens(fleet), (await clients[0].status()).members
    lengths = [(await clients[0].trajectory(each.session_id)).length for each in held]
    for model in ("slm", "llm"):
        # Were a prompt computed again at its second and third turn, it would be about twice as many.
        assert after[model] - before[model] <= 1.2 * sum(lengths)
    bound = {name: info.capacity.num_sessions for name, info in (await infos(fleet)).items()}
    for model in ("slm", "llm"):
        counts = [count for name, count in bound.items() if name.startswith(model)]
        assert sum(counts) == sum(each.is_read_by(model) for each in _MANY)
        assert max(counts) <= 1.5 * min(counts), bound
    assert [each.ready for each in members] == [True] * 4
    await _forget(fleet, clients[1], held)


@pytest.mark.parametrize("name", _PARTS)
async def test_whoever_is_killed_no_stream_fails_and_no_token_changes(
    fleet: LocalStack, balanced: list[AsyncClient], name: str
) -> None:
    part, label = next(part for part in fleet.parts if part.name == name), name.replace(" ", "-")
    undisturbed = await Talk(balanced, _LONG, f"undisturbed-{label}").hold()
    talk = Talk(balanced, _LONG, f"disturbed-{label}")
    holding = asyncio.create_task(talk.hold())
    await until(lambda: talk.num_tokens > 200, 60)
    await asyncio.to_thread(part.kill)
    assert not holding.done(), "all was over before it was killed"
    await asyncio.to_thread(part.restart)
    disturbed = await holding
    assert [each.answers for each in disturbed] == [each.answers for each in undisturbed]
    await _forget(fleet, balanced[0], [*undisturbed, *disturbed])


async def test_a_killed_gateways_streams_go_on_where_they_were(fleet: LocalStack, balanced: list[AsyncClient]) -> None:
    """For a client that asks again, as the standard of server-sent events has it."""
    undisturbed = await Talk(balanced, _LONG, "undisturbed-gateway").hold()
    url = f"http://{fleet.gateway.address}"
    told: list[None] = []
    async with httpx2.AsyncClient(timeout=120, limits=httpx2.Limits(max_connections=None)) as client:
        streams = [LastingStream(url, f"killed-{each.number}", each, lambda: told.append(None)) for each in _LONG]
        reading = asyncio.gather(*(each.read(client) for each in streams))
        await until(lambda: len(told) > 100, 60)
        await asyncio.to_thread(fleet.gateway.kill)
        await asyncio.to_thread(fleet.gateway.restart)
        await reading
    assert any(each.num_lost for each in streams), "all was over before it was killed"
    assert [each.answer for each in streams] == [each.answers[0] for each in undisturbed]
    await _forget(fleet, balanced[0], [*undisturbed, *(Held(each.session_id) for each in streams)])
