"""The laws on a pair whose layers see windows and chunks, in workers with too little room for all sessions' windows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, SlmOnly, Speculative, Threshold
from rstitch.local.stack import LocalStack
from tests.support.breaking import free_pages, interrupted, long_prompts, runs_on
from tests.support.engines import generate
from tests.support.pairs import save_model_of
from tests.support.served import Pair, another_router, check_kept, expected, start_stack, written
from tests.support.windowed import WINDOWED

pytestmark = pytest.mark.slow
TOKENS = 200


@pytest.fixture(scope="module")
def windowed_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("windowed")
    slm, llm = (save_model_of(folder / name, WINDOWED[name], seed) for name, seed in (("gemma3", 3), ("llama4", 4)))
    return Pair(slm, llm, "float64")


@pytest.fixture(scope="module")
def windowed_stack(windowed_pair: Pair) -> Iterator[LocalStack]:
    sizes = ["--num-pages", "128", "--page-size", "8", "--max-batch-tokens", "64", "--measure-ms", "100"]
    with start_stack(windowed_pair, worker_args=sizes) as running:
        yield running


async def test_windows_keep_the_laws(windowed_stack: LocalStack, windowed_pair: Pair) -> None:
    asked = long_prompts(windowed_pair, 4, TOKENS)
    async with (
        AsyncClient(windowed_stack.router_address, timeout_s=100, reconnect_s=60) as client,
        another_router(windowed_stack, run_ahead="on") as ahead,
    ):
        for router in (client, ahead):
            answers = await asyncio.gather(
                *(router.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS) for prompt, tau in asked)
            )
            for (prompt, tau), answer in zip(asked, answers, strict=True):
                assert written(answer) == expected(windowed_pair.reference(prompt, tau, TOKENS))
                await check_kept(windowed_stack, client, answer, prompt)
        prompt = asked[0][0]
        for role, policies in (("llm", (LlmOnly(), Speculative(6))), ("slm", (SlmOnly(),))):
            own = generate(windowed_pair.model(role), prompt, TOKENS)
            for policy in policies:
                answer = await client.answer(tokens=prompt, policy=policy, max_new_tokens=TOKENS)
                assert list(answer.tokens) == own
        # A session that goes on, then a worker that dies in the midst of it.
        first = await client.answer(tokens=prompt, policy=Threshold(0.2), max_new_tokens=30)
        more = [5, 6, 7]
        whole = [*prompt, *first.tokens, *more]
        events = client.generate(tokens=more, session_id=first.session_id, policy=Threshold(0.2), max_new_tokens=TOKENS)
        second = await interrupted(events, windowed_stack.worker("llm"), runs_on(client))
        assert written(second) == expected(windowed_pair.reference(whole, 0.2, TOKENS))
        async for summary in client.trajectories():
            await client.delete_trajectory(summary.session_id)
    for address in windowed_stack.worker_addresses:
        free, total = await free_pages(address)
        assert free == total
