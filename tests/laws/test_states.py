"""A pair whose layers keep states, served: its answers are those of the naive reference, whatever is taken back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evals.algorithm.reference import EarlyExit as Rule
from evals.algorithm.reference import Threshold as Tau
from rstitch.client.aio import AsyncClient
from rstitch.client.types import EarlyExit, LlmOnly, Speculative, Threshold
from tests.support.pairs import make_model, make_tokenizer
from tests.support.recurrent import RECURRENT
from tests.support.served import Pair, another_router, check_kept, expected, start_stack, written

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100))]
TOKENS = 40
LETTERS = tuple("aeiou")  # an answer tries to end wherever one of them comes


def save(folder: Path, family: str, seed: int) -> Path:
    make_model(RECURRENT[family], seed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
async def test_answers_of_models_with_states_equal_the_reference(tmp_path: Path) -> None:
    pair = Pair(save(tmp_path / "slm", "lfm2", 1), save(tmp_path / "llm", "qwen3_5", 2), "float64")
    # States are few: marks of idle sessions are taken, and idle sessions evicted.
    args = ["--num-pages", "200", "--num-states", "48", "--max-batch-tokens", "40", "--measure-ms", "50"]
    with start_stack(pair, args) as stack:
        async with (
            AsyncClient(stack.router_address, timeout_s=100) as client,
            another_router(stack, run_ahead="on", catch_up_tokens=1) as ahead,
        ):
            asked = [(prompt, tau, asker) for prompt in PROMPTS for tau in (0.25, 0.4) for asker in (client, ahead)]
            answers = await asyncio.gather(
                *(
                    asker.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS)
                    for prompt, tau, asker in asked
                )
            )
            for (prompt, tau, asker), answer in zip(asked, answers, strict=True):
                assert written(answer) == expected(pair.reference(prompt, tau, TOKENS))
                await check_kept(stack, asker, answer, prompt)
            assert {model for answer in answers for _, model in written(answer)} == {"slm", "llm"}
            for prompt in PROMPTS:
                alone = await client.answer(tokens=prompt, policy=LlmOnly(), max_new_tokens=TOKENS)
                assert written(alone) == expected(pair.reference(prompt, -1.0, TOKENS))
                drafted = await client.answer(tokens=prompt, policy=Speculative(4), max_new_tokens=TOKENS)
                assert drafted.tokens == alone.tokens
            again = await client.answer(
                session_id=answers[0].session_id, tokens=PROMPTS[1], policy=Threshold(0.4), max_new_tokens=TOKENS
            )
            whole = [*PROMPTS[0], *answers[0].tokens, *PROMPTS[1]]
            assert written(again) == expected(pair.reference(whole, 0.4, TOKENS))
            tokenizer = make_tokenizer()
            trial = tuple(tokenizer("=>", add_special_tokens=False).input_ids)
            rule = Rule(0.99, LETTERS, trial, "e", 4, "</think>", tokenizer.decode)
            exiting = EarlyExit(0.99, LETTERS, "=>", "e", 4)
            tried = await client.answer(
                tokens=PROMPTS[0], policy=Threshold(0.4), early_exit=exiting, max_new_tokens=TOKENS
            )
            assert tried.finished.usage.num_trials > 0
            assert written(tried) == expected(pair.stitched(PROMPTS[0], Tau(0.4), TOKENS, early_exit=rule).written)
