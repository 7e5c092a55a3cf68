"""Law 3 for R-Stitch+: the served policy equals the naive reference with the same head; answers keep their head."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest

from evals.algorithm.reference import Threshold as Tau
from evals.algorithm.reference import Token
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Learned, SwitchReason, Threshold
from rstitch.errors import RstitchError
from rstitch.local.stack import LocalStack
from rstitch.service.head import Head
from tests.support.heads import put, random_head
from tests.support.served import Pair, another_router, check_kept, expected, written

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 5]
TOKENS = 40
HIDDEN_SIZE = 32
TAU = 0.2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Heads of the random pair: one that is of two minds, one that always says LLM, one for other models."""
    put(tmp_path, "mixed", random_head(HIDDEN_SIZE, seed=3))
    put(tmp_path, "llm", random_head(HIDDEN_SIZE, bias=1e6, tau=0.35))
    put(tmp_path, "wide", random_head(HIDDEN_SIZE + 1))
    return tmp_path


@pytest.fixture(params=["on", "off"], ids=["in-worker", "in-router"])
async def client(stack: LocalStack, folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[AsyncClient]:
    """Wherever the head is asked, the answers are the same."""
    async with another_router(stack, heads=str(folder), head_in_worker=request.param) as connected:
        yield connected


def reference(pair: Pair, prompt: list[int], head: Head, tau: float) -> list[Token]:
    slm = pair.oracle("slm")

    def wants_llm(tokens: Sequence[int]) -> bool:
        return head.wants_llm(slm.hidden_state(tokens), len(tokens))

    return pair.stitched(prompt, Tau(tau, wants_llm=wants_llm), TOKENS).written


async def test_learned_equals_the_reference(stack: LocalStack, client: AsyncClient, random_pair: Pair) -> None:
    head = random_head(HIDDEN_SIZE, seed=3)

    async def one(prompt: list[int]) -> set[str]:
        naive = reference(random_pair, prompt, head, TAU)
        answer = await client.answer(tokens=prompt, policy=Learned("mixed", TAU), max_new_tokens=TOKENS)
        assert written(answer) == expected(naive)
        await check_kept(stack, client, answer, prompt)
        above = sum(token.entropy > TAU for token in naive if token.model == "slm")
        assert above, "a head that never says stay tests nothing"
        usage = answer.finished.usage
        assert usage.num_consultations >= above + usage.num_discarded_proposals
        return {token.model for token in naive}

    assert set().union(*await asyncio.gather(*map(one, PROMPTS))) == {"slm", "llm"}


async def test_a_head_that_always_says_llm_is_the_threshold(client: AsyncClient) -> None:
    for prompt in PROMPTS:
        answer = await client.answer(tokens=prompt, policy=Learned("llm"), max_new_tokens=TOKENS)
        same = await client.answer(tokens=prompt, policy=Threshold(0.35), max_new_tokens=TOKENS)
        assert written(answer) == written(same)
        assert {switch.reason for switch in answer.switches} == {SwitchReason.HEAD, SwitchReason.ENTROPY_BELOW}


async def test_an_answer_says_which_head_it_had(client: AsyncClient, folder: Path) -> None:
    prompt = PROMPTS[0]
    answer = await client.answer(tokens=prompt, policy=Learned("llm"), max_new_tokens=4)
    policy = (await client.trajectory(answer.session_id)).policy
    assert policy == Learned(f"llm@{random_head(HIDDEN_SIZE, bias=1e6, tau=0.35).version}", 0.35)
    put(folder, "llm", random_head(HIDDEN_SIZE, seed=9))
    again = await client.answer(tokens=prompt, policy=Learned("llm", TAU), max_new_tokens=4)
    policy = (await client.trajectory(again.session_id)).policy
    assert policy == Learned(f"llm@{random_head(HIDDEN_SIZE, seed=9).version}", TAU)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("nobody", grpc.StatusCode.NOT_FOUND, "llm, mixed, wide"),
        ("mixed@000000000000", grpc.StatusCode.NOT_FOUND, "any more"),
        ("wide", grpc.StatusCode.FAILED_PRECONDITION, "33 numbers, the SLM's have 32"),
    ],
)
async def test_a_head_that_cannot_be_asked_is_refused(
    client: AsyncClient, name: str, code: grpc.StatusCode, words: str
) -> None:
    with pytest.raises(RstitchError, match=words) as caught:
        await client.answer(tokens=[5, 6], policy=Learned(name, TAU))
    assert (caught.value.code, caught.value.field) == (code, "policy.learned.name")
    assert caught.value.remedy
