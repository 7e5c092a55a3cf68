"""Tokenize and Detokenize are what a question's prompt would be, with its bounds; toys on a real wire."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from router_svc.text.tokenizer import Tokenizer
from rstitch.v1 import common_pb2, router_pb2
from tests.support.asking import ask_for, chat, refused, stored, take
from tests.support.toy import SPECIAL, VOCAB_SIZE
from tests.support.toy_stack import Stack
from tests.support.unrelated import CLOSE, END, byte_level, sentencepiece, writing

MODELS = (common_pb2.MODEL_UNSPECIFIED, common_pb2.MODEL_SLM, common_pb2.MODEL_LLM)


def ask(model: Any = 0, **given: Any) -> router_pb2.TokenizeRequest:
    return router_pb2.TokenizeRequest(model=model, **given)


@pytest.fixture
async def stub(stack: Stack) -> Any:
    return await stack.stub(await stack.router())


@pytest.mark.parametrize(
    "given", [{"text": "the 你好<|end|>"}, {"chat": chat(("system", "Be brief."), ("user", "the?"))}]
)
async def test_it_is_the_prompt_of_a_new_session(stub: Any, given: dict[str, Any]) -> None:
    answer = await take(stub, ask_for(**given, max_new_tokens=1))
    prompt = (await stored(stub, answer.session_id)).segments[0]
    for model in MODELS:
        made = await stub.Tokenize(ask(model, **given))
        assert list(made.tokens) == list(prompt.tokens)
        text = (await stub.Detokenize(router_pb2.DetokenizeRequest(tokens=made.tokens, model=model))).text
        assert b"".join(made.texts).decode() == text
        assert any(spelling in text for spelling in SPECIAL)
        assert made.context_length == 4096


async def test_each_model_has_its_own(stack: Stack) -> None:
    tokenizers = {}
    for worker, role, made, end in (
        (stack.slm, "slm", byte_level(), END),
        (stack.llm, "llm", sentencepiece(), CLOSE),
    ):
        worker.files = type(worker.files)(made.to_str().encode())
        worker.vocab_size, worker.stop_token = made.get_vocab_size(), made.token_to_id(end)
        worker.model = writing(role, 11)  # type: ignore[arg-type]
        tokenizers[worker.role] = Tokenizer(worker.files)
    stub = await stack.stub(await stack.router())
    text = "the stones 你好 😀"
    for model, tokenizer in tokenizers.items():
        made = await stub.Tokenize(ask(model, text=text))
        assert made.tokens == list(tokenizer.encode(text, begins=True))
        assert list(made.texts) == [tokenizer.bytes_of(token) for token in made.tokens]
        read = await stub.Detokenize(router_pb2.DetokenizeRequest(tokens=made.tokens, model=model))
        assert read.text == tokenizer.spelled(made.tokens)
        assert read.text.endswith(text)


async def test_what_cannot_be_is_refused_by_its_name(stack: Stack, stub: Any) -> None:
    Detokenize = router_pb2.DetokenizeRequest
    for call, field in (
        (stub.Tokenize(ask()), "input"),
        (stub.Tokenize(ask(text="")), "text"),
        (stub.Tokenize(ask(chat=router_pb2.Chat())), "chat.messages"),
        (stub.Tokenize(ask(3, text="x")), "model"),
        (stub.Detokenize(Detokenize(tokens=[5, VOCAB_SIZE])), "tokens[1]"),
        (stub.Detokenize(Detokenize(tokens=[5], model=9)), "model"),  # type: ignore[arg-type]
    ):
        error = await refused(call)
        assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
        assert error.remedy
    too_long = (stub.Tokenize(ask(text="x" * 4097)), stub.Detokenize(Detokenize(tokens=[5] * 4097)))
    for call in too_long:
        error = await refused(call)
        assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_FULL")
    assert (await stub.Detokenize(Detokenize())).text == ""
    assert len((await stub.Tokenize(ask(text="x" * 4096))).tokens) == 4096


async def test_a_special_token_in_a_chat_is_refused_as_in_a_question(stack: Stack) -> None:
    stub = await stack.stub(await stack.router(special_tokens_in_text="refuse"))
    error = await refused(stub.Tokenize(ask(chat=chat(("user", "<|end|>")))))
    assert error.field == "chat.messages[0]"


async def test_without_workers_nobody_knows_the_tokens(stack: Stack) -> None:
    await stack.llm.stop()
    stub = await stack.stub(await stack.router(ready=False))
    for call in (stub.Tokenize(ask(text="x")), stub.Detokenize(router_pb2.DetokenizeRequest(tokens=[5]))):
        assert (await refused(call)).code is grpc.StatusCode.UNAVAILABLE
