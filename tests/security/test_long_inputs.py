"""A text as long as the wire lets in is refused by its size, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import grpc
import pytest
from tokenizers import Tokenizer as HfTokenizer

from router_svc.answers import apart
from router_svc.answers.apart import Apart
from router_svc.text import encoding
from router_svc.text.encoding import Encoder, TooLong
from router_svc.text.least_tokens import LeastTokens
from rstitch.errors import ResourceExhausted
from rstitch.service import parsing
from rstitch.v1 import router_pb2
from tests.support import kinds_of_tokenizers as kinds
from tests.support.asking import ask_for, chat, refused, take
from tests.support.templates import FAMILIES
from tests.support.toy_stack import Stack
from tests.support.unrelated import byte_level, sentencepiece

KINDS: dict[str, Any] = {
    "byte-level": kinds.byte_level,
    "with a space first": lambda: kinds.byte_level(prefix_space=True),
    "llama 2": kinds.llama_2,
    "metaspace first": lambda: kinds.metaspace("first"),
    "metaspace always": lambda: kinds.metaspace("always", strips=True),
    "unigram": kinds.unigram,
    "wordpiece": kinds.wordpiece,
    "words": byte_level,
    "sentencepiece": sentencepiece,
    "sentencepiece, legacy": lambda: sentencepiece(legacy=True),
    **{name: family.tokens for name, family in FAMILIES.items()},
}
PIECES = (
    "the more",
    " more",
    " the",
    " <|im_end|>",
    "<s>",
    "</s> ",
    "é",
    "e\u0301",
    " ",
    "  ",
    "\n",
    "日",
    "1 2",
    "a b",
)


@pytest.mark.parametrize("kind", KINDS)
def test_in_pieces_a_text_has_the_tokens_of_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw: HfTokenizer = KINDS[kind]()
    rng = random.Random(5)
    texts = ["".join(rng.choices(PIECES, k=rng.randrange(1, 40))) for _ in range(60)]
    whole = Encoder(raw)
    expected = [(whole.going_on(text), whole.end(text)) for text in texts]
    monkeypatch.setattr(encoding, "_PIECE", 5)
    encoder = Encoder(raw)
    for text, (going_on, end) in zip(texts, expected, strict=True):
        assert list(encoder.whole(text)) == raw.encode(text).ids
        assert list(encoder.rendered(text)) == raw.encode(text, add_special_tokens=False).ids
        assert encoder.going_on(text) == going_on
        assert encoder.end(text) == end


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_has_fewer_tokens_than_are_said(kind: str) -> None:
    raw = KINDS[kind]()
    least, rng = LeastTokens(raw), random.Random(6)
    for _ in range(100):
        text = "".join(rng.choices(PIECES, k=rng.randrange(1, 9))) * rng.randrange(1, 30)
        num = len(raw.encode(text, add_special_tokens=False).ids)
        assert not least.beyond(text, num), text


@pytest.mark.parametrize("kind", ["byte-level", "llama 2", "qwen2.5", "llama3", "mistral"])
@pytest.mark.parametrize("text", ["stones ", "a", "1 ", "👩", " more"])
def test_a_text_that_cannot_fit_is_never_tokenized(kind: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(KINDS[kind]())
    monkeypatch.setattr(encoding, "_ids", lambda *_, **__: pytest.fail("it was tokenized"))
    for encode in (encoder.whole, encoder.rendered, encoder.going_on, encoder.end):
        with pytest.raises(TooLong):
            encode(text * 30_000, 1000)


def test_of_a_text_in_pieces_no_more_is_tokenized_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, encoded = Encoder(byte_level()), 0
    ids = encoding._ids
    monkeypatch.setattr(encoding, "_PIECE", 100)
    monkeypatch.setattr(LeastTokens, "beyond", lambda *_: False)

    def counted(tokenizer: Any, text: str, **options: Any) -> Any:
        nonlocal encoded
        encoded += len(text)
        return ids(tokenizer, text, **options)

    monkeypatch.setattr(encoding, "_ids", counted)
    with pytest.raises(TooLong):
        encoder.whole("the stones lie there " * 10_000, 200)
    assert encoded < 2000


def test_others_compute_while_a_text_is_tokenized() -> None:
    """One long word, which is one piece: the library's `encode` would keep the interpreter's lock throughout."""
    encoder, others, done = Encoder(kinds.byte_level()), 0, threading.Event()

    def other() -> None:
        nonlocal others
        while not done.is_set():
            others += 1
            time.sleep(0)

    thread = threading.Thread(target=other)
    thread.start()
    before = others
    encoder.whole("a" * 400_000)
    during = others - before
    done.set()
    thread.join()
    assert during > 20


LONG = {
    "text": ask_for(text="stones " * 300_000),
    "one word": ask_for(text="a" * 2_000_000),
    "chat": ask_for(chat=chat(("user", "stones " * 300_000))),
    "ids": ask_for(tokens=router_pb2.TokenIds(ids=[7] * 1_000_000)),
}


@pytest.mark.parametrize("kind", LONG)
async def test_what_cannot_fit_is_refused_by_name(stack: Stack, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    router = await stack.router()
    stub = await stack.stub(router)
    with monkeypatch.context() as patched:
        patched.setattr(encoding, "_ids", lambda *_, **__: pytest.fail("it was tokenized"))
        error = await refused(stub.Generate(LONG[kind]))
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_FULL", "input")
    assert "4096 tokens" in error.message
    assert error.remedy
    assert (await take(stub, ask_for())).error is None
    assert router.sessions.num_running == 0


@pytest.mark.parametrize("field", ["chat", "text"])
async def test_an_answer_to_observe_that_cannot_fit(stack: Stack, field: str) -> None:
    stub = await stack.stub(await stack.router())
    texts = {"chat": "a", "text": "a"} | {field: "stones " * 300_000}
    given = router_pb2.GivenAnswer(chat=chat(("user", texts["chat"])), text=texts["text"])
    error = await refused(stub.ObserveAnswer(router_pb2.ObserveAnswerRequest(given=given, tau=-1)))
    assert (error.reason, error.field) == ("CONTEXT_FULL", f"given.{field}")


PARTS = {
    "empty parts": router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", text_parts=[""] * 300_000)]),
    "messages": router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content="a")] * 80_000),
}


@pytest.mark.parametrize("kind", PARTS)
async def test_a_message_of_very_many_parts_is_not_parsed(stack: Stack, kind: str) -> None:
    stub = await stack.stub(await stack.router())
    error = await refused(stub.Generate(router_pb2.GenerateRequest(chat=PARTS[kind])))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_PARTS")
    assert error.remedy
    assert (await take(stub, ask_for())).error is None


FAULTS = {"a field that overruns its end": b"\x12\x7f", "a wire type that is none": b"\x0e"}


@pytest.mark.parametrize("fault", FAULTS)
async def test_very_many_parts_before_a_fault_are_not_parsed_either(stack: Stack, fault: str) -> None:
    """The library would make all of them before it comes to what is no message."""
    router = await stack.router()
    many = router_pb2.GenerateRequest(chat=router_pb2.Chat(messages=[router_pb2.ChatMessage()] * 300_000))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{router.port}") as channel:
        call = channel.unary_stream("/rstitch.v1.RouterService/Generate")(many.SerializeToString() + FAULTS[fault])
        error = await refused(call)
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_PARTS")


async def test_a_large_message_of_a_cancelled_call_is_there_until_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    begun, going = threading.Event(), threading.Event()

    def check(data: bytes, descriptor: object) -> None:
        steps.append("begins")
        begun.set()
        going.wait(10)
        steps.append("ends")

    monkeypatch.setattr(parsing, "check_parts", check)
    monkeypatch.setattr(parsing, "_MAX_WAITING", 5 << 20)
    parse = parsing.Parser(router_pb2.GenerateRequest.FromString, 4 << 20, parsing.Large())
    data = router_pb2.GenerateRequest(text="a" * (2 << 20)).SerializeToString()
    first = asyncio.create_task(parse(data))
    await asyncio.to_thread(begun.wait, 10)
    waiting = asyncio.create_task(parse(data))
    await asyncio.sleep(0)
    waiting.cancel()  # it was not begun, so nothing is left of it
    first.cancel()  # whoever sent it is gone, the thread is not
    await asyncio.gather(first, waiting, return_exceptions=True)
    second = asyncio.create_task(parse(data))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as caught:
        await parse(data)
    assert caught.value.reason == "TOO_MUCH_AT_ONCE"
    going.set()
    assert len((await second).text) == 2 << 20
    assert steps == ["begins", "ends"] * 2
    assert await parse(data)


async def test_long_texts_come_in_order_and_short_ones_do_not_wait() -> None:
    going, done = threading.Event(), []

    def long(number: int) -> None:
        going.wait(10)
        done.append(number)

    made = Apart()
    long_ones = [asyncio.create_task(made.make(lambda n=number: long(n), 1 << 20)) for number in range(3)]
    await asyncio.sleep(0)
    await asyncio.gather(*(made.make(lambda: None, 1000) for _ in range(8)))
    assert done == []
    going.set()
    await asyncio.gather(*long_ones)
    assert done == [0, 1, 2]


async def test_only_so_much_text_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_MAX_WAITING", 2 << 20)
    going, made = threading.Event(), Apart()
    first = asyncio.create_task(made.make(lambda: going.wait(10), 5 << 20))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as caught:
        await made.make(lambda: None, 1 << 20)
    assert (caught.value.reason, caught.value.retry_after_s) == ("TOO_MUCH_TEXT", 1.0)
    assert caught.value.remedy
    first.cancel()  # whoever asked is gone, the text is not
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):
        await made.make(lambda: None, 1 << 20)
    going.set()
    await made.make(lambda: None, 1000)
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if not made._waiting:
            break
    await made.make(lambda: None, 1 << 20)
