"""However steps are filled, held back or taken in turns, and by whatever views of the cache, the answer is the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rstitch.client.aio import AsyncClient
from rstitch.client.types import Threshold
from tests.support.served import SMALL, Pair, check_kept, expected, start_stack, written

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100))]
TOKENS = 40

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "flags",
    [
        ["--measure-ms", "0", "--batching", "fixed:3", "--max-delay-ms", "5", "--attention", "in-place"],
        [
            *("--batching", "delayed", "--background-stretch", "0", "--background-ms", "0"),
            *("--attention", "gather", "--prefix-cache", "off"),
        ],
        ["--share-device", "DEVICE", "--share-slm-steps", "3", "--batching", "delayed", "--background-stretch", "9"],
    ],
    ids=["fixed, not measured, in-place", "delayed, background by itself, gather", "in turns"],
)
async def test_any_batching_writes_the_same_answer(random_pair: Pair, flags: list[str], tmp_path: Path) -> None:
    worker_args = [*SMALL, *(str(tmp_path / "device") if flag == "DEVICE" else flag for flag in flags)]
    router_args = ["--catch-up-tokens", "2", "--run-ahead", "on"]
    with start_stack(random_pair, worker_args=worker_args, router_args=router_args) as stack:
        async with AsyncClient(stack.router_address, timeout_s=100) as client:
            asked = [(prompt, tau) for prompt in PROMPTS for tau in (-1.0, 0.25, 0.35, 1.0)]
            answers = await asyncio.gather(
                *(client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS) for prompt, tau in asked)
            )
            for (prompt, tau), answer in zip(asked, answers, strict=True):
                assert written(answer) == expected(random_pair.reference(prompt, tau, TOKENS))
                await check_kept(stack, client, answer, prompt)
