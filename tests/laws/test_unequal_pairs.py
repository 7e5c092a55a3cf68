"""The stitching law on pairs whose models differ in more than their weights: other ids, templates, ends, rows.

Random models of several architectures, in float64, against Algorithm 1 over each model's own prompt.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from evals.algorithm.reference import Budget as Bound
from evals.algorithm.reference import EarlyExit as Rule
from evals.algorithm.reference import Threshold as Tau
from evals.renumber.__main__ import renumber
from evals.renumber.tokens import Renumbering
from evals.renumber.weights import renumber_model
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, Budget, EarlyExit, Learned, LlmOnly, Message, SlmOnly, Speculative, Threshold
from rstitch.local.stack import LocalStack
from tests.support.breaking import interrupted, runs_on
from tests.support.exploring import Exploring, same, told
from tests.support.heads import put, random_head
from tests.support.pairs import VOCAB_SIZE, make_tokenizer, save_model
from tests.support.renumbered import MappedPair, Prompt
from tests.support.served import Pair, another_router, check_kept, expected, start_stack, written

TOKENS = 40
TAUS = (0.1, 0.25, 0.35, 0.45)
OTHER_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
LETTERS = tuple("aeioutsckmP0.,:>")
QUESTION = "the quick brown 狐"


def served(pair: MappedPair, **arguments: Any) -> LocalStack:
    return start_stack(Pair(pair.slm_folder, pair.llm_folder, pair.dtype), **arguments)


async def check(client: AsyncClient, pair: MappedPair, prompt: Prompt, tau: float, **asked: Any) -> Answer:
    """Asks, and compares with Algorithm 1."""
    answer = await client.answer(policy=Threshold(tau), max_new_tokens=TOKENS, **asked)
    naive = pair.stitched([prompt], Tau(tau), TOKENS).written
    assert written(answer) == expected(naive)
    entropies = [value for chunk in answer.chunks for value in chunk.entropies]
    assert entropies == pytest.approx([token.entropy for token in naive], abs=1e-6)
    return answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slm", "llm", "ids"),
    [
        ("llama", "qwen2", "all"),
        pytest.param("qwen3", "gemma2", "special", marks=pytest.mark.soak),
        pytest.param("gpt_neox", "mistral", "all", marks=pytest.mark.soak),
    ],
)
async def test_other_ids_change_nothing(slm: str, llm: str, ids: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "llm", llm, 2)
    new = renumber(tmp_path / "llm", tmp_path / "other", ids=ids, renamed="markers", template=OTHER_TEMPLATE, seed=4)
    pair = MappedPair(save_model(tmp_path / "slm", slm, 1), tmp_path / "other", "float64")
    rng = random.Random(7)
    # Idle sessions are evicted when many are written at once.
    with served(pair, worker_args=["--num-pages", "80", "--page-size", "8", "--measure-ms", "50"]) as stack:
        async with (
            AsyncClient(stack.router_address, timeout_s=100) as client,
            another_router(stack, run_ahead="on", catch_up_tokens=1, heads=str(tmp_path / "heads")) as ahead,
        ):
            drawn = [[rng.randrange(5, VOCAB_SIZE) for _ in range(rng.randrange(1, 50))] for _ in range(4)]
            prompts = [pair.tokens_prompt(new.id_of(tokens)) for tokens in drawn]
            asked = [(prompt, tau) for prompt in prompts for tau in TAUS[:2]]
            answers = await asyncio.gather(
                *(
                    check((client, ahead)[index % 2], pair, prompt, tau, tokens=prompt.llm)
                    for index, (prompt, tau) in enumerate(asked)
                )
            )
            for (prompt, _), answer in zip(asked, answers, strict=True):
                await check_kept(stack, client, answer, prompt.llm)
            assert {model for answer in answers for _, model in written(answer)} == {"slm", "llm"}
            await check_chat(ahead, pair, tmp_path / "heads")
            alone = await check(client, pair, prompts[0], -1.0, tokens=prompts[0].llm)
            for policy in (LlmOnly(), Speculative(4)):
                again = await client.answer(tokens=prompts[0].llm, policy=policy, max_new_tokens=TOKENS)
                assert again.tokens == alone.tokens
            await check_killed(stack, client, pair, prompts)


async def check_chat(client: AsyncClient, pair: MappedPair, heads: Path) -> None:
    """Positions count each model's own prompt; so does a head. Early exit asks in each model's own ids."""
    prompt = pair.prompt([{"role": "user", "content": QUESTION}])
    assert len(prompt.slm) != len(prompt.llm)
    asked: dict[str, Any] = {"chat": [Message("user", QUESTION)], "max_new_tokens": TOKENS}
    for tau in TAUS[::2]:
        await check(client, pair, prompt, tau, chat=asked["chat"])
    put(heads, "mixed", head := random_head(32, seed=3))
    wants_llm = partial(pair.reader("slm", [prompt]).wants_llm, head)
    answer = await client.answer(policy=Learned("mixed", 0.2), **asked)
    naive = pair.stitched([prompt], Tau(0.2, wants_llm=wants_llm), TOKENS).written
    assert written(answer) == expected(naive)
    assert answer.finished.usage.num_consultations, "a head that is never asked tests nothing"
    await check_exploring(client, pair, prompt, heads, asked)
    tokenizer = pair.tokenizer("llm")
    trial = tuple(tokenizer("=>", add_special_tokens=False).input_ids)
    exits = []
    for bound in (0.3, 0.9):
        answer = await client.answer(policy=Threshold(0.3), early_exit=EarlyExit(bound, LETTERS, "=>", "e", 4), **asked)
        rule = Rule(bound, LETTERS, trial, "e", 4, "</think>", tokenizer.decode)
        reference = pair.stitched([prompt], Tau(0.3), TOKENS, early_exit=rule)
        assert written(answer) == expected(reference.written)
        exits.append(reference.exited is not None)
        taken = answer.finished.early_exit
        assert (taken and taken.position) == (reference.exited and reference.exited[0])
        assert reference.num_trials
    assert any(exits)


async def check_exploring(
    client: AsyncClient, pair: MappedPair, prompt: Prompt, heads: Path, asked: dict[str, Any]
) -> None:
    """Coins are tossed by positions of the trajectory, which are not the SLM's; its context length is its own."""
    put(heads, "shown", head := random_head(32, seed=5, features=("entropy", "recent", "segment", "spent", "left")))
    reader = pair.reader("slm", [prompt])
    for seed, llm_tokens in ((1, None), (2, 6)):
        rule = Exploring(head, 0.25, reader.hidden_state, len(prompt.llm), seed, price=1.5, llm_tokens=llm_tokens)
        bound = Bound() if llm_tokens is None else Bound(llm_tokens)
        naive = pair.stitched([prompt], rule, TOKENS, budget=bound).written
        answer = await client.answer(
            policy=Learned("shown", 0.25, explore_seed=seed, price=1.5),
            budget=None if llm_tokens is None else Budget(llm_tokens),
            keep_consultations=100,
            **asked,
        )
        assert written(answer) == expected(naive)
        same(told(answer), rule.consultations)
        assert {each.to_llm for each in rule.consultations} == {False, True}


async def check_killed(
    stack: LocalStack, client: AsyncClient, pair: MappedPair, prompts: Sequence[Prompt], num_tokens: int = 150
) -> None:
    """A worker that is killed midway changes nothing; of the prompts, one whose answer is long and changes hands."""
    for prompt in prompts:
        naive = pair.stitched([prompt], Tau(0.35), num_tokens).written
        if len(naive) == num_tokens and len({token.model for token in naive}) == 2:
            events = client.generate(tokens=prompt.llm, policy=Threshold(0.35), max_new_tokens=num_tokens)
            answer = await interrupted(events, stack.worker("slm"), runs_on(client))
            assert written(answer) == expected(naive)
            return
    pytest.fail("every answer ends soon")


async def test_equal_tokenizers_with_other_templates_are_asked_by_their_own(tmp_path: Path) -> None:
    """A base model beside an instruct model. With --prompt llm both get what the LLM's template writes."""
    pair = MappedPair(save_model(tmp_path / "slm", "llama", 1), save_model(tmp_path / "llm", "qwen2", 2), "float64")
    (pair.slm_folder / "chat_template.jinja").write_text(OTHER_TEMPLATE)
    question = [Message("user", QUESTION)]
    prompt = pair.prompt([{"role": "user", "content": QUESTION}])
    assert prompt.slm != prompt.llm
    with served(pair) as stack:
        async with (
            AsyncClient(stack.router_address, timeout_s=100) as client,
            another_router(stack, prompt="llm") as as_llm,
        ):
            for tau in TAUS[1:3]:
                first = await check(client, pair, prompt, tau, chat=question)
                await check_kept(stack, client, first, prompt.llm)
                await check(as_llm, pair, Prompt(prompt.llm, prompt.llm), tau, chat=question)
                position = len(prompt.llm) + len(first.tokens)
                then = pair.next_prompt("they then saw", position, first.finished.reason != "stop")
                second = await client.answer(
                    chat=[Message("user", "they then saw")],
                    policy=Threshold(tau),
                    max_new_tokens=TOKENS,
                    session_id=first.session_id,
                )
                before = [*prompt.llm, *first.tokens]
                assert written(second) == expected(pair.stitched([prompt, then], Tau(tau), TOKENS, before).written)


@pytest.mark.parametrize("ends", ["slm", pytest.param("llm", marks=pytest.mark.soak)])
async def test_an_answer_ends_at_what_ends_it_for_either_model(ends: Any, tmp_path: Path) -> None:
    """The model that writes the token does not take it for an end; the other one does."""
    pair = MappedPair(save_model(tmp_path / "slm", "llama", 1), save_model(tmp_path / "llm", "qwen2", 2), "float64")
    prompt, tau = pair.tokens_prompt([7, 8, 9, 10, 11]), 0.35
    whole = pair.stitched([prompt], Tau(tau), TOKENS).written
    writer = "llm" if ends == "slm" else "slm"
    end = next(
        index
        for index, token in enumerate(whole)
        if index > 4 and token.model == writer and token.id not in {other.id for other in whole[:index]}
    )
    stop = whole[end].id
    for name in ("config.json", "generation_config.json"):
        told = json.loads((file := pair.folder(ends) / name).read_text())
        file.write_text(json.dumps({**told, "eos_token_id": [0, stop]}))
    pair = MappedPair(pair.slm_folder, pair.llm_folder, pair.dtype)
    with served(pair) as stack:
        async with AsyncClient(stack.router_address, timeout_s=100) as client:
            answer = await check(client, pair, prompt, tau, tokens=prompt.llm)
            assert (answer.tokens[-1], len(answer.tokens)) == (stop, end + 1)
            assert answer.finished.reason == "stop"
            for policy, alone in ((SlmOnly(), 1.0), (LlmOnly(), -1.0), (Speculative(4), -1.0)):
                told = await client.answer(tokens=prompt.llm, policy=policy, max_new_tokens=TOKENS)
                assert list(told.tokens) == [t.id for t in pair.stitched([prompt], Tau(alone), TOKENS).written]


async def test_what_one_model_has_no_row_for_the_other_never_writes(tmp_path: Path) -> None:
    """The SLM's matrix ends one row before the tokenizer does; the LLM would write that token."""
    prompt, tau, last = [7, 8, 9, 10, 11], 0.35, VOCAB_SIZE - 1
    plain = MappedPair(save_model(tmp_path / "a", "llama", 1), save_model(tmp_path / "b", "qwen2", 2), "float64")
    wanted = plain.stitched([plain.tokens_prompt(prompt)], Tau(-1.0), 20).written[-1].id
    # The token that the LLM likes changes places with the last one, in both models alike.
    swapped = Renumbering({wanted: last, last: wanted}, {})
    pair = MappedPair(tmp_path / "slm", tmp_path / "llm", "float64")
    for role in ("slm", "llm"):
        module = AutoModelForCausalLM.from_pretrained(plain.folder(role), dtype="auto")
        renumber_model(module, swapped)
        if role == "slm":
            module.resize_token_embeddings(last)
        module.save_pretrained(pair.folder(role))
        make_tokenizer().save_pretrained(pair.folder(role))
    assert pair.masked["llm"] == [last]
    asked = pair.tokens_prompt(prompt)
    with served(pair) as stack:
        async with AsyncClient(stack.router_address, timeout_s=100) as client:
            for bound in (-1.0, tau, 1.0):
                answer = await check(client, pair, asked, bound, tokens=prompt)
                assert last not in answer.tokens
            alone = await client.answer(tokens=prompt, policy=LlmOnly(), max_new_tokens=TOKENS)
            drafted = await client.answer(tokens=prompt, policy=Speculative(4), max_new_tokens=TOKENS)
            assert drafted.tokens == alone.tokens
