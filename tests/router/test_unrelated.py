"""Toys whose tokenizers have nothing in common: every policy is the reference in text, whichever router goes on."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import grpc
import pytest

from evals.algorithm.reference import Author, Budget, EarlyExit
from evals.algorithm.text_reference import TextAnswer, read_by, stitch_text
from router_svc.text.tokenizer import Tokenizer, TokenizerFiles
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, Reading, ask_for, check_kept, refused, take, threshold
from tests.support.endless import glued, resume
from tests.support.heads import put, random_head
from tests.support.naive import EXIT_MARKER, EXITS, POLICIES, check, rule_of, told
from tests.support.toy_stack import Stack
from tests.support.unrelated import CLOSE, END, byte_level, naive_models, prompts_of, sentencepiece, texts, writing

NUM_TOKENS = 40
BUDGETS: list[dict[str, Any]] = [{"llm_tokens": 0}, {"llm_tokens": 5}, {"max_switches": 4, "llm_tokens": 9}]
BUDGETED = ["entropy 0.3 0.3", "margin 0.5 0.1", "window 5 0.5", "random 0.3", "llm"]


@pytest.fixture
async def unrelated(stack: Stack) -> Stack:
    """The stack's workers have become toys with a tokenizer each."""
    for worker, role, tokenizer, end in (
        (stack.slm, "slm", byte_level(), END),
        (stack.llm, "llm", sentencepiece(), CLOSE),
    ):
        worker.files = TokenizerFiles(tokenizer.to_str().encode())
        worker.vocab_size, worker.stop_token = tokenizer.get_vocab_size(), tokenizer.token_to_id(end)
        worker.model = writing(role, 11)  # type: ignore[arg-type]
    return stack


def naive(
    stack: Stack, text: str, policy: dict[str, Any], budget: dict[str, Any] | None = None, **options: Any
) -> TextAnswer:
    budget = budget or {}
    most = budget.get("max_switches", math.inf)
    prompts = options.pop("prompts", prompts_of(text))
    start = options.pop("start", len(prompts["llm"]))
    return stitch_text(
        naive_models(stack.slm.model, stack.llm.model),
        prompts,
        rule_of(policy, start, stack.slm.model, most, 5, options.pop("head", None)),
        start=start,
        max_new_tokens=NUM_TOKENS,
        budget=Budget(budget.get("llm_tokens", math.inf), most, budget.get("then") == 2),
        **options,
    )


async def test_every_policy_is_the_reference_in_text(unrelated: Stack) -> None:
    stub = await unrelated.stub(await unrelated.router())

    async def one(name: str, text: str) -> None:
        answer = await take(stub, ask_for(text=text, policy=POLICIES[name], max_new_tokens=NUM_TOKENS))
        check(answer, naive(unrelated, text, POLICIES[name]))
        await check_kept(stub, answer)

    await asyncio.gather(*(one(name, text) for name in POLICIES for text in texts(2, 8)))


async def test_details_are_in_the_writers_own_ids(unrelated: Stack) -> None:
    stub = await unrelated.stub(await unrelated.router())
    tokenizers = {"slm": Tokenizer(unrelated.slm.files), "llm": Tokenizer(unrelated.llm.files)}
    details = router_pb2.Details(top_logprobs=4)
    for text in texts(3, 8):
        answer = await take(stub, ask_for(text=text, policy=threshold(0.4), max_new_tokens=NUM_TOKENS, details=details))
        assert {"slm", "llm"} == set(answer.authors)
        for token, author, detail in zip(answer.tokens, answer.authors, answer.details, strict=True):
            tokenizer = tokenizers[author]
            assert detail.text == (b"" if token in tokenizer.special else tokenizer.bytes_of(token))
            assert all(other.text == tokenizer.bytes_of(other.token) for other in detail.alternatives)
            assert len(detail.alternatives) == 4


@pytest.mark.parametrize("then", [1, 2], ids=["the SLM goes on", "the answer ends"])
async def test_a_budget_lets_a_character_be_ended(unrelated: Stack, then: int) -> None:
    stub = await unrelated.stub(await unrelated.router())
    over: list[int] = []

    async def one(name: str, limit: dict[str, Any], text: str) -> None:
        budget = {**limit, "then": then}
        if (name, then, limit.get("llm_tokens")) == ("llm", 2, 0):
            return  # it could write nothing, and is refused
        request = ask_for(text=text, policy=POLICIES[name], budget=budget, max_new_tokens=NUM_TOKENS)
        answer = await take(stub, request)
        check(answer, naive(unrelated, text, POLICIES[name], budget))
        over.append(answer.finished.usage.num_llm_tokens - limit.get("llm_tokens", NUM_TOKENS))

    await asyncio.gather(*(one(name, limit, text) for name in BUDGETED for limit in BUDGETS for text in texts(2, 9)))
    assert max(over) > 0, "no budget was spent within a character"


async def test_whichever_router_goes_on_writes_the_same(unrelated: Stack) -> None:
    """Broken off after each of its tokens, in the middle of characters and at switches."""
    unrelated.slm.max_message_tokens = unrelated.llm.max_message_tokens = 1
    tried = ((text, naive(unrelated, text, POLICIES["entropy 0.3 0.3"])) for text in texts(50, 10))
    text, whole = next((text, found) for text, found in tried if len(found.written) > 30 and found.num_switches > 8)
    request = ask_for(text=text, policy=threshold(0.3), max_new_tokens=NUM_TOKENS)

    async def one(num_tokens: int) -> None:
        first = await unrelated.router(lease_s=30)
        stub = await unrelated.stub(first)
        unrelated.slm.delay_s = unrelated.llm.delay_s = 0.005
        reading = await Reading(stub, request).has(num_tokens)
        await first.sessions.drain()
        answer = await reading
        assert answer.error is not None
        assert answer.error.reason == "ROUTER_DRAINING"
        answer.error = None
        other = await unrelated.stub(await unrelated.router())
        answer = glued(answer, await take(other, resume(answer)))
        assert (answer.tokens, answer.authors) == told(whole)
        await check_kept(other, answer)

    await asyncio.gather(*(one(num) for num in range(1, len(whole.written) - 3, 3)))


async def test_a_second_turn_reads_the_first_as_each_model_has_it(unrelated: Stack) -> None:
    stub = await unrelated.stub(await unrelated.router())
    models = naive_models(unrelated.slm.model, unrelated.llm.model)
    policy, more = POLICIES["entropy 0.5 0.1"], " e\u0301 好"

    async def one(text: str) -> Answer:
        first = await take(stub, ask_for(text=text, policy=policy, max_new_tokens=NUM_TOKENS))
        before = naive(unrelated, text, policy)
        check(first, before)
        request = ask_for(text=more, policy=policy, max_new_tokens=NUM_TOKENS, session_id=first.session_id)
        second = await take(stub, request)
        prompts = {
            author: [*prompt, *read_by(author, before, models), *models[author].encode(more)]
            for author, prompt in prompts_of(text).items()
        }
        start = first.next + len(models["llm"].encode(more))
        check(second, naive(unrelated, text, policy, prompts=prompts, start=start))
        await check_kept(stub, second)
        return first

    firsts = await asyncio.gather(*(one(text) for text in texts(8, 12)))
    assert {answer.authors[-1] for answer in firsts} == {"slm", "llm"}


async def test_an_answer_ends_where_its_writer_has_no_room(unrelated: Stack) -> None:
    """The other model's tokens of the same text may be fewer: it is not asked for what it could not read."""
    unrelated.slm.evict_share = unrelated.llm.evict_share = 0
    contexts = {"slm": 70, "llm": 4096}
    unrelated.slm.context_length = contexts["slm"]
    stub = await unrelated.stub(await unrelated.router())
    ended = 0
    for text in texts(12, 13):
        prompt = prompts_of(text)["slm"]
        if len(prompt) + NUM_TOKENS > contexts["slm"]:
            continue
        answer = await take(stub, ask_for(text=text, policy=threshold(0.4), max_new_tokens=NUM_TOKENS))
        expected = naive(unrelated, text, POLICIES["entropy 0.3 0.3"] | {"threshold": _TAU}, context_lengths=contexts)
        assert (answer.tokens, answer.authors) == (
            [token.id for token in expected.written],
            [token.model for token in expected.written],
        )
        if answer.finished.reason == router_pb2.FINISH_REASON_LENGTH and len(answer.tokens) < NUM_TOKENS:
            ended += 1
    assert ended > 0
    assert all(request.position + len(request.tokens) <= contexts["slm"] for request in unrelated.slm.requests)


_TAU = {"tau": 0.4, "tau_return": 0.4, "signal": 1}


@pytest.mark.parametrize("exit_", EXITS[:2], ids=["short", "long"])
async def test_early_exit_is_the_reference_in_text(unrelated: Stack, exit_: dict[str, Any]) -> None:
    """Whoever writes behind a boundary, whosever it is, tries an answer in its own tokens."""
    stub = await unrelated.stub(await unrelated.router(early_exit_thinking_end=EXIT_MARKER))
    models = naive_models(unrelated.slm.model, unrelated.llm.model)
    rules: dict[Author, EarlyExit] = {
        author: EarlyExit(
            exit_["threshold"],
            tuple(exit_["boundaries"]),
            tuple(model.encode(exit_["prompt"])),
            exit_["end"],
            exit_.get("max_trial_tokens", 32),
            EXIT_MARKER,
            model.decode,
        )
        for author, model in models.items()
    }
    took: list[bool] = []

    async def one(name: str, text: str) -> None:
        request = ask_for(text=text, policy=POLICIES[name], early_exit=exit_, max_new_tokens=NUM_TOKENS)
        answer = await take(stub, request)
        expected = naive(unrelated, text, POLICIES[name], early_exit=rules)
        check(answer, expected)
        exited = answer.finished.early_exit if answer.finished.HasField("early_exit") else None
        assert (exited and exited.position - answer.position) == (expected.exited and expected.exited[0])
        took.append(exited is not None)
        await check_kept(stub, answer)

    names = ["entropy 0.3 0.3", "margin 0.5 0.1", "window 5 0.5", "random 0.3", "llm", "slm"]
    await asyncio.gather(*(one(name, text) for name in names for text in texts(3, 14)))
    assert len(set(took)) == 2


@pytest.mark.parametrize("place", ["on", "off"], ids=["in worker", "in router"])
async def test_a_head_is_asked_about_what_the_slm_reads(unrelated: Stack, tmp_path: Path, place: str) -> None:
    head = random_head(1, seed=4, tau=0.2)
    put(tmp_path, "toy", head)
    stub = await unrelated.stub(await unrelated.router(heads=str(tmp_path), head_in_worker=place))
    num_asked = 0

    async def one(tau: float, text: str) -> None:
        nonlocal num_asked
        policy = {"learned": {"name": "toy", "tau": tau}}
        answer = await take(stub, ask_for(text=text, policy=policy, max_new_tokens=NUM_TOKENS))
        check(answer, naive(unrelated, text, policy, head=head))
        num_asked += answer.finished.usage.num_consultations

    await asyncio.gather(*(one(tau, text) for tau in (-1, 0.2, 0.5) for text in texts(4, 15)))
    assert num_asked


async def test_speculative_is_refused_by_name(unrelated: Stack) -> None:
    stub = await unrelated.stub(await unrelated.router())
    error = await refused(stub.Generate(ask_for(text="a", policy={"speculative": {"draft_tokens": 3}})))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "policy.speculative")
    assert error.remedy
