"""Laws of several workers of each model and several routers, over real processes: no answer is another for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from router_svc.trajectory import keys
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, LlmOnly, Sampling, Threshold
from rstitch.local.stack import LocalStack
from tests.support.breaking import free_pages, interrupted, long_prompts, runs_on
from tests.support.secured import session_name
from tests.support.served import Pair, check_kept, expected, start_stack, written

pytestmark = pytest.mark.slow
TOKENS = 15
TURNS = ([9, 8, 7, 30, 31], [40, 41, 42], [50, 51])


@pytest.fixture(scope="module")
def fleet(random_pair: Pair) -> Iterator[LocalStack]:
    """Two workers of each model and two routers, which find them in Redis."""
    with start_stack(random_pair, num_slm=2, num_llm=2, num_routers=2) as running:
        yield running


@pytest.fixture
async def clients(fleet: LocalStack) -> AsyncIterator[list[AsyncClient]]:
    """One of each router."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(AsyncClient(part.address, timeout_s=100, credentials=fleet.credentials))
            for part in fleet.routers
        ]


def binding(fleet: LocalStack, session_id: str) -> dict[str, str]:
    """Which workers have a session, as Redis itself has it, read with nothing of ours but the key."""
    with redis.Redis.from_url(fleet.redis_url) as connection:
        name = keys.trajectory(session_name(session_id))
        found = connection.hmget(name, "slm_worker", "llm_worker")
    return {"slm": found[0].decode(), "llm": found[1].decode()}


async def ask_turns(clients: list[AsyncClient], session_id: str) -> list[Answer]:
    asked: dict[str, Any] = {"policy": Threshold(0.3), "max_new_tokens": TOKENS, "session_id": session_id}
    return [await clients[turn % 2].answer(tokens=tokens, **asked) for turn, tokens in enumerate(TURNS)]


async def test_conversations_stay_where_they_are_over_turns_and_routers(
    fleet: LocalStack, clients: list[AsyncClient], random_pair: Pair
) -> None:
    names = [f"talk{number}" for number in range(12)]
    found = await asyncio.gather(
        *(ask_turns(clients[number % 2 :] + clients[: number % 2], name) for number, name in enumerate(names))
    )
    for answers in found:
        prompt: list[int] = []
        for turn, answer in zip(TURNS, answers, strict=True):
            reused = answer.finished.usage.num_reused_prompt_tokens
            assert reused is not None
            # But for the end of the answer before, which the model that waited had not been fed.
            assert reused >= len(prompt) - TOKENS, "a prompt was computed again"
            prompt += turn
            assert written(answer) == expected(random_pair.reference(prompt, 0.3, TOKENS))
            prompt += answer.tokens
    for role in ("slm", "llm"):
        counts = Counter(binding(fleet, name)[role] for name in names)
        assert len(counts) == 2
        assert max(counts.values()) <= 1.5 * min(counts.values()), counts


class _Home:
    """The worker of a role that has a session, as a part that is killed and started again."""

    def __init__(self, fleet: LocalStack, session_id: str, role: Any) -> None:
        self._fleet = fleet
        self._session_id = session_id
        self._role = role

    def kill(self) -> None:
        index = int(binding(self._fleet, self._session_id)[self._role].rpartition("-")[2])
        self._part = self._fleet.worker(self._role, index)
        self._part.kill()

    def restart(self) -> None:
        self._part.restart()


@pytest.mark.parametrize("role", ["slm", "llm"])
async def test_a_worker_that_is_killed_under_load_fails_no_answer(
    fleet: LocalStack, clients: list[AsyncClient], random_pair: Pair, role: Any
) -> None:
    sampling = Sampling(temperature=0.8, seed=11)
    policies: list[Any] = [LlmOnly(), Threshold(0.3)]
    sampled = [{"tokens": [9, 8, number], "policy": policy} for number in range(2) for policy in policies]

    async def sample(index: int, each: dict[str, Any]) -> list[tuple[int, str]]:
        answer = await clients[index % 2].answer(**each, sampling=sampling, max_new_tokens=100)
        return written(answer)

    undisturbed = [await sample(index, each) for index, each in enumerate(sampled)]
    asked = long_prompts(random_pair, 3, 200)
    beside = [
        asyncio.create_task(clients[number % 2].answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=200))
        for number, (prompt, tau) in enumerate(asked[1:])
    ]
    again = [asyncio.create_task(sample(index, each)) for index, each in enumerate(sampled)]
    prompt, tau = asked[0]
    events = clients[0].generate(tokens=prompt, policy=Threshold(tau), max_new_tokens=200, session_id=f"left-{role}")
    home: Any = _Home(fleet, f"left-{role}", role)
    answer = await interrupted(events, home, runs_on(clients[0]))
    assert written(answer) == expected(random_pair.reference(prompt, tau, 200))
    for (prompt, tau), other in zip(asked[1:], await asyncio.gather(*beside), strict=True):
        assert written(other) == expected(random_pair.reference(prompt, tau, 200))
        await check_kept(fleet, clients[0], other, prompt)
    assert [await each for each in again] == undisturbed
    await _all_ready(clients)


async def _all_ready(clients: list[AsyncClient]) -> None:
    """Until both routers know all four workers again."""
    for client in clients:
        async with asyncio.timeout(60):
            while [each.ready for each in (await client.status()).members] != [True] * 4:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)


async def test_a_worker_runs_empty_and_leaves_no_page(
    fleet: LocalStack, clients: list[AsyncClient], random_pair: Pair
) -> None:
    await _all_ready(clients)
    ((prompt, tau),) = long_prompts(random_pair, 1, 250)
    running = [
        asyncio.create_task(client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=250))
        for client in clients
    ]
    told = [left async for left in clients[0].drain_worker("slm-0")]
    assert told[-1].is_empty
    fresh = await clients[1].answer(tokens=[9, 8, 7], policy=Threshold(0.3), max_new_tokens=5, session_id="fresh")
    assert binding(fleet, fresh.session_id)["slm"] == "slm-1"
    for answer in await asyncio.gather(*running):
        assert written(answer) == expected(random_pair.reference(prompt, tau, 250))
        assert binding(fleet, answer.session_id)["slm"] == "slm-1"
    async for _ in clients[1].drain_worker("slm-0", undo=True):
        pass
    await _all_ready(clients)
    async for trajectory in clients[0].trajectories():
        await clients[0].delete_trajectory(trajectory.session_id)
    for role in ("slm", "llm"):
        for index in range(2):
            free, total = await free_pages(fleet.worker(role, index).address)
            assert free == total, f"{role}-{index} keeps pages of what was deleted"
