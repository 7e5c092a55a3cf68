"""Laws 1 to 4 on other pairs: the bundled one as it is served (float32), more architectures with random weights."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from evals.tasks.tiny.arithmetic import problems
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Message, SlmOnly, Speculative, Threshold
from rstitch.local.stack import LocalStack
from tests.support.engines import generate
from tests.support.pairs import save_model
from tests.support.served import Pair, another_router, check_kept, expected, start_stack, written

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, list(range(30, 100))]
TAUS = (0.05, 0.2, 0.35, 0.45)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("slm", "llm"), [pytest.param("qwen3", "gemma2", marks=pytest.mark.soak), ("gpt_neox", "mistral")]
)
async def test_other_architectures_stitch_as_the_reference(slm: str, llm: str, tmp_path: Path) -> None:
    pair = Pair(save_model(tmp_path / slm, slm, 3), save_model(tmp_path / llm, llm, 4), "float64")
    with start_stack(pair) as stack:
        async with AsyncClient(stack.router_address, timeout_s=100) as client:
            asked = [(prompt, tau) for prompt in PROMPTS for tau in TAUS]
            answers = await asyncio.gather(
                *(client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=60) for prompt, tau in asked)
            )
            for (prompt, tau), answer in zip(asked, answers, strict=True):
                assert written(answer) == expected(pair.reference(prompt, tau, 60))
    assert len({model for answer in answers for _, model in written(answer)}) == 2


async def test_the_bundled_pair_keeps_the_laws(bundled_pair: Pair, bundled_stack: LocalStack) -> None:
    pair, stack = bundled_pair, bundled_stack
    tokenizer = AutoTokenizer.from_pretrained(pair.llm_folder)
    async with (
        AsyncClient(stack.router_address, timeout_s=100) as client,
        another_router(stack, run_ahead="on") as ahead,
    ):
        for problem in problems("dev", 2):
            chat = [Message("user", problem.question)]
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": problem.question}], add_generation_prompt=True, return_dict=False
            )
            for role, policy, ends in (("llm", LlmOnly(), -0.5), ("slm", SlmOnly(), 1.0)):
                alone = await client.answer(chat=chat, policy=policy, max_new_tokens=300)
                assert list(alone.tokens) == generate(pair.model(role), prompt, 300, pair.vocab_size)
                assert "\\boxed{" in alone.text
                if role == "llm":
                    drafted = await client.answer(chat=chat, policy=Speculative(6), max_new_tokens=300)
                    assert drafted.tokens == alone.tokens
                    assert drafted.finished.usage.num_accepted_draft_tokens > 0
                at_end = await client.answer(chat=chat, policy=Threshold(ends), max_new_tokens=300)
                assert written(at_end) == written(alone)
            for tau in (0.005, 0.05):
                answer = await client.answer(chat=chat, policy=Threshold(tau), max_new_tokens=300)
                assert written(answer) == expected(pair.reference(prompt, tau, 300))
                await check_kept(stack, client, answer, prompt)
                again = await ahead.answer(chat=chat, policy=Threshold(tau), max_new_tokens=300)
                assert written(again) == written(answer)
