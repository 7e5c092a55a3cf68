"""Laws 1, 2, 3, 5 and 6 of shared layers: one worker serves a model and its first layers as both, over the wire."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.tasks.tiny.words import WORDS
from model_worker.engine.shared_layers.model import load_shared
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Confidence, LlmOnly, Message, Random, SlmOnly, Speculative, Threshold
from rstitch.local.stack import LocalStack, WorkerOptions
from rstitch.v1 import common_pb2, worker_pb2, worker_pb2_grpc
from tests.support.breaking import interrupted, long_prompts, runs_on
from tests.support.engines import generate
from tests.support.secured import session_name
from tests.support.served import ROOT, Pair, another_router, check_kept, expected, written
from tests.support.several import FLEET
from tests.support.shared_layers import save_pair

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], list(range(30, 100))]
TAUS = (0.1, 0.3, 0.45)
TOKENS = 40


def pair_of(folder: Path, dtype: str = "float64", **sizes: int) -> Pair:
    """A folder with shared layers as the oracle sees it: two models."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    pair = Pair(folder, folder, dtype, **sizes)
    pair.models.update(llm=model, slm=load_shared(str(folder), model).slm)
    return pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair_of(save_pair(tmp_path_factory.mktemp("shared") / "model"))


@pytest.fixture(scope="module")
def shared(pair: Pair) -> Iterator[LocalStack]:
    """Of so few pages that idle sessions are evicted when many are written at once."""
    both = WorkerOptions(str(pair.llm_folder), dtype="float64", args=["--num-pages", "80"])
    with LocalStack(llm=both, shared_layers=True) as stack:
        yield stack


@pytest.fixture
async def client(shared: LocalStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(shared.router_address, timeout_s=100) as connected:
        yield connected


@pytest.mark.parametrize(("role", "policy", "taus"), [("llm", LlmOnly(), (-1.0,)), ("slm", SlmOnly(), (1.0, 2.0))])
async def test_one_role_alone_equals_transformers_generate(
    shared: LocalStack, client: AsyncClient, pair: Pair, role: str, policy: Any, taus: tuple[float, ...]
) -> None:
    for prompt in PROMPTS:
        answer = await client.answer(tokens=prompt, policy=policy, max_new_tokens=TOKENS)
        assert list(answer.tokens) == generate(pair.model(role), prompt, TOKENS)
        assert {str(chunk.model) for chunk in answer.chunks} == {role}
        for tau in taus:
            at_end = await client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS)
            assert written(at_end) == written(answer)
        await check_kept(shared, client, answer, prompt)


async def test_threshold_equals_the_reference_alone_and_among_others(
    shared: LocalStack, client: AsyncClient, pair: Pair
) -> None:
    rng = random.Random(6)
    asked = [(prompt, tau) for prompt in PROMPTS for tau in TAUS]
    asked += [([rng.randrange(5, 300) for _ in range(rng.randrange(1, 50))], rng.choice(TAUS)) for _ in range(8)]
    for prompt, tau in asked[:3]:
        answer = await client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS)
        assert written(answer) == expected(pair.reference(prompt, tau, TOKENS))
    answers = await asyncio.gather(
        *(client.answer(tokens=prompt, policy=Threshold(tau), max_new_tokens=TOKENS) for prompt, tau in asked)
    )
    for (prompt, tau), answer in zip(asked, answers, strict=True):
        assert written(answer) == expected(pair.reference(prompt, tau, TOKENS))
        await check_kept(shared, client, answer, prompt)
    assert {model for answer in answers for _, model in written(answer)} == {"slm", "llm"}


async def test_other_policies_take_the_shared_model_too(client: AsyncClient, pair: Pair) -> None:
    expected_tokens = generate(pair.model("llm"), PROMPTS[1], TOKENS)
    drafted = await client.answer(tokens=PROMPTS[1], policy=Speculative(4), max_new_tokens=TOKENS)
    assert list(drafted.tokens) == expected_tokens
    for policy in (Confidence(0.5), Random(0.5)):
        answer = await client.answer(tokens=PROMPTS[1], policy=policy, max_new_tokens=TOKENS)
        tokens = list(PROMPTS[1])
        for token, role in written(answer):  # whoever wrote it, it is what that model writes there
            assert generate(pair.model(role), tokens, 1) == [token]
            tokens.append(token)


async def test_a_conversation_goes_on_with_either_role(client: AsyncClient, pair: Pair) -> None:
    first = await client.answer(tokens=PROMPTS[0], policy=Threshold(0.3), max_new_tokens=20)
    tokens = [*PROMPTS[0], *first.tokens]
    for policy, role in ((LlmOnly(), "llm"), (SlmOnly(), "slm"), (LlmOnly(), "llm")):
        answer = await client.answer(tokens=[40, 41], policy=policy, max_new_tokens=15, session_id=first.session_id)
        tokens += [40, 41]
        assert list(answer.tokens) == generate(pair.model(role), tokens, 15)
        tokens += answer.tokens


async def test_an_slm_told_to_run_ahead_changes_nothing(shared: LocalStack, pair: Pair) -> None:
    """The worker puts it off: who writes ahead would take the time of who writes."""
    async with another_router(shared, run_ahead="on") as client:
        answers = await asyncio.gather(
            *(client.answer(tokens=prompt, policy=Threshold(0.3), max_new_tokens=TOKENS) for prompt in PROMPTS)
        )
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert written(answer) == expected(pair.reference(prompt, 0.3, TOKENS))


@pytest.mark.slow
async def test_a_worker_killed_midway_changes_nothing(pair: Pair, shared: LocalStack, client: AsyncClient) -> None:
    ((prompt, tau),) = long_prompts(pair, 1, 200)
    events = client.generate(tokens=prompt, policy=Threshold(tau), max_new_tokens=200)
    answer = await interrupted(events, shared.worker("slm"), runs_on(client))
    assert written(answer) == expected(pair.reference(prompt, tau, 200))


@pytest.mark.skipif(FLEET, reason="of several workers it looks at one")
async def test_both_addresses_are_one_worker_and_no_page_is_leaked(shared: LocalStack, client: AsyncClient) -> None:
    answers = await asyncio.gather(
        *(client.answer(tokens=prompt, policy=Threshold(0.3), max_new_tokens=30) for prompt in PROMPTS)
    )
    infos = []
    for address in shared.worker_addresses:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            infos.append(await stub.GetInfo(worker_pb2.GetInfoRequest()))
            if address == shared.worker_addresses[1]:
                for answer in answers:
                    request = worker_pb2.CloseSessionRequest(session_id=session_name(answer.session_id))
                    assert (await stub.CloseSession(request)).held
    slm, llm = infos
    assert [slm.role, llm.role] == [common_pb2.MODEL_SLM, common_pb2.MODEL_LLM]
    assert slm.instance_id == llm.instance_id
    assert slm.num_parameters < llm.num_parameters
    assert slm.capacity == llm.capacity


@pytest.fixture
def bundled() -> Iterator[LocalStack]:
    both = WorkerOptions(str(ROOT / "models" / "tiny-shared-layers"))
    with LocalStack(llm=both, shared_layers=True) as stack:
        yield stack


@pytest.mark.slow
async def test_the_bundled_model_keeps_the_laws(bundled: LocalStack) -> None:
    folder = ROOT / "models" / "tiny-shared-layers"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pair = pair_of(folder, "float32", vocab_size=len(tokenizer), stop_token=tokenizer.eos_token_id)
    pair.model("slm").generation_config = pair.model("llm").generation_config
    (problem,) = WORDS.generator.problems("dev", 1)
    chat = [{"role": "user", "content": problem.question}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    asked = [Message("user", problem.question)]
    async with AsyncClient(bundled.router_address, timeout_s=100) as client:
        for role, policy in (("llm", LlmOnly()), ("slm", SlmOnly())):
            answer = await client.answer(chat=asked, policy=policy, max_new_tokens=200)
            assert list(answer.tokens) == generate(pair.model(role), prompt, 200, pair.vocab_size)
        answer = await client.answer(chat=asked, policy=Threshold(0.02), max_new_tokens=200)
        assert written(answer) == expected(pair.reference(prompt, 0.02, 200))
        await check_kept(bundled, client, answer, prompt)
