"""An answer by a served pair is the naive reference's, held to its schema token by token, whoever writes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from evals.algorithm.reference import Authors, Rule, stitch
from evals.algorithm.reference import Threshold as Rising
from rstitch.client.aio import AsyncClient
from rstitch.client.types import (
    Answer,
    Chunk,
    EarlyExit,
    FinishReason,
    LlmOnly,
    Policy,
    Sampling,
    SlmOnly,
    Speculative,
    Threshold,
)
from rstitch.errors import RstitchError
from rstitch.local.stack import LocalStack
from tests.support.breaking import interrupted, runs_on
from tests.support.grammars import MARKS, PERSON, Bound
from tests.support.pairs import VOCAB_SIZE, make_tokenizer
from tests.support.served import Pair, another_router, check_kept, expected, written

PROMPTS = [[7, 8, 9, 10, 11], list(range(30, 100))]
# A random model writes white space without an end.
BLANK = {token: -100.0 for token in range(VOCAB_SIZE) if not make_tokenizer().decode([token]).strip()}
GREEDY, DRAWN = Sampling(logit_bias=BLANK), Sampling(0.8, 0.95, seed=3, logit_bias=BLANK)
RULES: list[tuple[Policy, Rule]] = [
    (Threshold(0.3), Rising(0.3)),
    (LlmOnly(), Authors(lambda position: "llm")),
    (SlmOnly(), Authors(lambda position: "slm")),
]
TOKENS = 150


def naive(pair: Pair, prompt: list[int], rule: Rule, schema: Any, how: Sampling) -> list[tuple[int, str]]:
    slm, llm = (Bound(pair, role, len(prompt), schema, how) for role in ("slm", "llm"))
    return expected(stitch(slm, llm, prompt, rule, max_new_tokens=TOKENS, stop_tokens={pair.stop_token}).written)


def check(answer: Answer, schema: Any) -> None:
    assert answer.finished.reason is FinishReason.STOP
    jsonschema.validate(json.loads(answer.text), schema)


@pytest.mark.parametrize("how", [GREEDY, DRAWN], ids=["greedy", "drawn"])
async def test_every_policy_is_held_to_the_schema(
    stack: LocalStack, client: AsyncClient, random_pair: Pair, how: Sampling
) -> None:
    async def one(prompt: list[int], schema: Any, policy: Policy, rule: Rule) -> None:
        asks: dict[str, Any] = {"tokens": prompt, "json_schema": json.dumps(schema), "sampling": how}
        answer = await client.answer(policy=policy, max_new_tokens=TOKENS, **asks)
        assert written(answer) == naive(random_pair, prompt, rule, schema, how)
        check(answer, schema)
        await check_kept(stack, client, answer, prompt)

    kinds = zip(PROMPTS, (PERSON, MARKS), strict=True)
    await asyncio.gather(*(one(*kind, *way) for kind in kinds for way in RULES))
    for prompt in PROMPTS:
        asks: dict[str, Any] = {"tokens": prompt, "json_schema": json.dumps(PERSON), "sampling": how}
        drafted, alone = await asyncio.gather(
            client.answer(policy=Speculative(4), max_new_tokens=TOKENS, **asks),
            client.answer(policy=LlmOnly(), max_new_tokens=TOKENS, **asks),
        )
        assert drafted.tokens == alone.tokens
        check(drafted, PERSON)


async def test_another_router_and_a_second_turn_go_on_by_the_schema(
    stack: LocalStack, client: AsyncClient, random_pair: Pair
) -> None:
    prompt = PROMPTS[0]
    whole = naive(random_pair, prompt, Rising(0.3), PERSON, DRAWN)
    asks: dict[str, Any] = {
        "policy": Threshold(0.3),
        "sampling": DRAWN,
        "session_id": "bound",
        "max_new_tokens": TOKENS,
    }

    async def cancel_amid() -> None:
        async for event in client.generate(tokens=prompt, json_schema=json.dumps(PERSON), **asks):
            if isinstance(event, Chunk):
                await client.cancel("bound")

    with pytest.raises(RstitchError, match="cancelled"):
        await cancel_amid()
    assert len((await client.trajectory("bound")).tokens) < len(prompt) + len(whole)
    async with another_router(stack) as other:
        answer = Answer.of([event async for event in other.attach("bound")])
        assert written(answer) == whole
        check(answer, PERSON)
        second = await other.answer(tokens=[40, 41], json_schema=json.dumps(MARKS), **asks)
        before = [*prompt, *answer.tokens, 40, 41]
        assert written(second) == naive(random_pair, before, Rising(0.3), MARKS, DRAWN)
        check(second, MARKS)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"json_schema": "{"}, "json_schema"),
    "a keyword that is not held to": ({"json_schema": '{"not": {}}'}, "json_schema"),
    "a stop string": ({"json_schema": "{}", "stop": ["}"]}, "stop"),
    "stop tokens": ({"json_schema": "{}", "stop_token_ids": [5]}, "stop_token_ids"),
    "early exit": ({"json_schema": "{}", "early_exit": EarlyExit(0.9)}, "early_exit"),
}


async def test_what_cannot_be_held_to_is_refused_at_the_edge(client: AsyncClient) -> None:
    for name, (asks, field) in REFUSED.items():
        with pytest.raises(RstitchError) as caught:
            await client.answer("abc", **asks)
        assert (caught.value.code.name, caught.value.field) == ("INVALID_ARGUMENT", field), name


@pytest.mark.slow
async def test_a_killed_worker_changes_nothing(stack: LocalStack, random_pair: Pair) -> None:
    schema = {"type": "array", "minItems": 60, "maxItems": 60, "items": {"enum": [1, 12, "ab"]}}
    async with AsyncClient(stack.router_address, timeout_s=100) as client:
        asks: dict[str, Any] = {"json_schema": json.dumps(schema), "sampling": DRAWN, "max_new_tokens": 400}
        whole = await client.answer(tokens=PROMPTS[0], policy=Threshold(0.3), **asks)
        check(whole, schema)
        events = client.generate(tokens=PROMPTS[0], policy=Threshold(0.3), **asks)
        answer = await interrupted(events, stack.worker("llm"), runs_on(client))
        assert written(answer) == written(whole)
