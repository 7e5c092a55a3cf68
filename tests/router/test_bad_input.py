"""Every bad input: the right status, a reason, the field's name, the remedy; and the next question is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from rstitch.client.chats import struct
from rstitch.errors import RstitchError, from_rpc_error
from rstitch.v1 import router_pb2
from tests.support.asking import ask_for, chat, refused, take, threshold
from tests.support.toy import VOCAB_SIZE
from tests.support.toy_stack import Stack

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NAN = float("nan")


def tokens(*ids: int) -> Any:
    return router_pb2.TokenIds(ids=ids)


def exit_with(**fields: Any) -> router_pb2.GenerateRequest:
    return ask_for(early_exit={"threshold": 0.9, "boundaries": ["a"]} | fields)


def chat_with(kwargs: Any = None, fields: Any = None, messages: Any = None, **more: Any) -> router_pb2.GenerateRequest:
    """A chat with tools, documents or variables, given as plain JSON."""
    structs = {name: list(map(struct, values)) for name, values in more.items()}
    messages = messages or [{"role": "user", "content": "a", "fields": struct(fields or {})}]
    return ask_for(chat={"messages": messages, "chat_template_kwargs": struct(kwargs or {}), **structs})


def nested(depth: int) -> Any:
    return {"a": nested(depth - 1)} if depth else {"a": 1}


PARTS = "chat.messages[0].text_parts"
BAD = {
    "no input": (router_pb2.GenerateRequest(), INVALID, "input"),
    "empty text": (ask_for(text=""), INVALID, "text"),
    "no tokens": (ask_for(tokens=tokens()), INVALID, "tokens.ids"),
    "no messages": (ask_for(chat=chat()), INVALID, "chat.messages"),
    "empty messages": (ask_for(chat=chat(("user", ""))), INVALID, "chat.messages"),
    "no role": (ask_for(chat=chat(("user", "a"), ("", "b"))), INVALID, "chat.messages[1].role"),
    "unknown role": (ask_for(chat=chat(("king", "a"))), INVALID, "chat"),
    "content twice": (chat_with(messages=[{"role": "user", "content": "a", "text_parts": ["b"]}]), INVALID, PARTS),
    "parts": (chat_with(messages=[{"role": "user", "text_parts": ["b"] * 30_001}]), INVALID, PARTS),
    "empty parts": (chat_with(messages=[{"role": "user", "text_parts": ["", ""]}]), INVALID, "chat.messages"),
    "role twice": (chat_with(fields={"role": "x"}), INVALID, "chat.messages[0].fields.role"),
    "tools": (chat_with(tools=[{"a": 1}] * 129), INVALID, "chat.tools"),
    "empty tool": (chat_with(tools=[{"a": 1}, {}]), INVALID, "chat.tools[1]"),
    "nan in a tool": (chat_with(tools=[{"a": [NAN]}]), INVALID, "chat.tools[0]"),
    "deep tool": (chat_with(tools=[nested(24)]), INVALID, "chat.tools[0]"),
    "wide tool": (chat_with(tools=[{"a": [0] * 30_000}]), INVALID, "chat.tools[0]"),
    "wide tools": (chat_with(tools=[{"a": [0] * 14_999}] * 3), INVALID, "chat.tools[2]"),
    "many messages": (chat_with(messages=[{"role": "user", "content": "a"}] * 4097), INVALID, "chat.messages"),
    "documents": (chat_with(documents=[{"a": 1}] * 1025), INVALID, "chat.documents"),
    "reserved": (chat_with(kwargs={"tokenize": True}), INVALID, "chat.chat_template_kwargs.tokenize"),
    "reserved messages": (chat_with(kwargs={"messages": []}), INVALID, "chat.chat_template_kwargs.messages"),
    "reserved prompt": (
        chat_with(kwargs={"add_generation_prompt": True}),
        INVALID,
        "chat.chat_template_kwargs.add_generation_prompt",
    ),
    "no name": (chat_with(kwargs={"a b": 1}), INVALID, "chat.chat_template_kwargs.a b"),
    "variables": (chat_with(kwargs={f"a{n}": n for n in range(65)}), INVALID, "chat.chat_template_kwargs"),
    "template": (chat_with(kwargs={"chat_template": "{{ 1 }}"}), INVALID, "chat.chat_template_kwargs.chat_template"),
    "stop tokens": (ask_for(stop_token_ids=[1] * 65), INVALID, "stop_token_ids"),
    "resume and stop token": (ask_for(session_id="s", resume_from=0, stop_token_ids=[1]), INVALID, "stop_token_ids"),
    "token beyond": (ask_for(tokens=tokens(7, VOCAB_SIZE)), INVALID, "tokens.ids[1]"),
    "context": (ask_for(max_new_tokens=4094), grpc.StatusCode.OUT_OF_RANGE, "max_new_tokens"),
    "absurd budget": (ask_for(max_new_tokens=2**32 - 1), grpc.StatusCode.OUT_OF_RANGE, "max_new_tokens"),
    "full": (ask_for(tokens=tokens(*[7] * 4096)), grpc.StatusCode.OUT_OF_RANGE, "input"),
    "tau nan": (ask_for(policy=threshold(NAN)), INVALID, "policy.threshold.tau"),
    "tau inf": (ask_for(policy=threshold(float("inf"))), INVALID, "policy.threshold.tau"),
    "tau low": (ask_for(policy=threshold(-1.1)), INVALID, "policy.threshold.tau"),
    "tau high": (ask_for(policy=threshold(2.1)), INVALID, "policy.threshold.tau"),
    "tau_return": (ask_for(policy=threshold(0.1, NAN)), INVALID, "policy.threshold.tau_return"),
    "no kind": (ask_for(policy=router_pb2.Policy()), INVALID, "policy"),
    "no such head": (ask_for(policy={"learned": {"name": "x"}}), grpc.StatusCode.NOT_FOUND, "policy.learned.name"),
    "head of no name": (ask_for(policy={"learned": {}}), grpc.StatusCode.INVALID_ARGUMENT, "policy.learned.name"),
    "head's tau": (
        ask_for(policy={"learned": {"name": "x", "tau": 3}}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "policy.learned.tau",
    ),
    "confidence": (ask_for(policy={"confidence": {"threshold": 1.1}}), INVALID, "policy.confidence.threshold"),
    "confidence nan": (ask_for(policy={"confidence": {"threshold": NAN}}), INVALID, "policy.confidence.threshold"),
    "random": (ask_for(policy={"random": {"slm_probability": -0.1}}), INVALID, "policy.random.slm_probability"),
    "signal": (ask_for(policy={"threshold": {"signal": 9}}), INVALID, "policy.threshold.signal"),
    "no window": (ask_for(policy={"threshold": {"window": 4}}), INVALID, "policy.threshold.window"),
    "window": (ask_for(policy={"threshold": {"signal": 4, "window": 65}}), INVALID, "policy.threshold.window"),
    "no bound": (ask_for(budget={}), INVALID, "budget"),
    "then": (ask_for(budget={"llm_tokens": 1, "then": 5}), INVALID, "budget.then"),
    "no token": (
        ask_for(policy={"llm_only": {}}, budget={"llm_tokens": 0, "then": 2}),
        INVALID,
        "budget.llm_tokens",
    ),
    "resume and budget": (ask_for(session_id="s", resume_from=0, budget={"llm_tokens": 1}), INVALID, "budget"),
    "no draft": (ask_for(policy={"speculative": {}}), INVALID, "policy.speculative.draft_tokens"),
    "long draft": (
        ask_for(policy={"speculative": {"draft_tokens": 65}}),
        INVALID,
        "policy.speculative.draft_tokens",
    ),
    "draft confidence": (
        ask_for(policy={"speculative": {"draft_tokens": 4, "min_confidence": 1.5}}),
        INVALID,
        "policy.speculative.min_confidence",
    ),
    "guard": (ask_for(guard=7), INVALID, "guard"),
    "no threshold": (ask_for(early_exit={}), INVALID, "early_exit.threshold"),
    "exit threshold": (ask_for(early_exit={"threshold": 1.01}), INVALID, "early_exit.threshold"),
    "exit nan": (ask_for(early_exit={"threshold": NAN}), INVALID, "early_exit.threshold"),
    "boundaries": (exit_with(boundaries=["a"] * 17), INVALID, "early_exit.boundaries"),
    "empty boundary": (exit_with(boundaries=["a", ""]), INVALID, "early_exit.boundaries[1]"),
    "long boundary": (exit_with(boundaries=["a" * 257]), INVALID, "early_exit.boundaries[0]"),
    "no such boundary": (exit_with(boundaries=["a", "queue"]), INVALID, "early_exit.boundaries[1]"),
    "default boundaries": (exit_with(boundaries=[], end="a"), INVALID, "early_exit.boundaries"),
    "long exit": (exit_with(prompt="a" * 257), INVALID, "early_exit.prompt"),
    "no such end": (exit_with(end="queue"), INVALID, "early_exit.end"),
    "long trial": (exit_with(max_trial_tokens=257), INVALID, "early_exit.max_trial_tokens"),
    "resume and exit": (
        ask_for(session_id="s", resume_from=0, early_exit={"threshold": 0.5}),
        INVALID,
        "early_exit",
    ),
    "cold": (ask_for(sampling={"temperature": -0.1}), INVALID, "sampling.temperature"),
    "hot": (ask_for(sampling={"temperature": 101}), INVALID, "sampling.temperature"),
    "nan": (ask_for(sampling={"temperature": NAN}), INVALID, "sampling.temperature"),
    "top_p": (ask_for(sampling={"top_p": 1.5}), INVALID, "sampling.top_p"),
    "top_p nan": (ask_for(sampling={"top_p": NAN}), INVALID, "sampling.top_p"),
    "empty stop": (ask_for(stop=["a", ""]), INVALID, "stop[1]"),
    "stops": (ask_for(stop=["a"] * 17), INVALID, "stop"),
    "long stop": (ask_for(stop=["a" * 257]), INVALID, "stop[0]"),
    "session id": (ask_for(session_id="a b"), INVALID, "session_id"),
    "long id": (ask_for(session_id="a" * 129), INVALID, "session_id"),
    "line end": (ask_for(session_id="a\n"), INVALID, "session_id"),
    "resume nothing": (router_pb2.GenerateRequest(resume_from=0), INVALID, "session_id"),
    "resume unknown": (
        router_pb2.GenerateRequest(session_id="unknown", resume_from=0),
        grpc.StatusCode.NOT_FOUND,
        "session_id",
    ),
    "resume and input": (ask_for(session_id="s", resume_from=0, text="a"), INVALID, "text"),
    "resume and policy": (ask_for(session_id="s", resume_from=0, policy=threshold(0.1)), INVALID, "policy"),
    "resume and limit": (ask_for(session_id="s", resume_from=0, max_new_tokens=5), INVALID, "max_new_tokens"),
    "resume and stop": (ask_for(session_id="s", resume_from=0, stop=["a"]), INVALID, "stop"),
    "long salt": (ask_for(cache_salt="x" * 129), INVALID, "cache_salt"),
    "resume and no id": (ask_for(session_id="s", resume_from=0, request_id="a b"), INVALID, "request_id"),
    "resume and salt": (ask_for(session_id="s", resume_from=0, cache_salt="t"), INVALID, "cache_salt"),
    "resume and guard": (ask_for(session_id="s", resume_from=0, guard=1), INVALID, "guard"),
}


async def test_each_is_refused_by_name_and_nothing_is_left(stack: Stack) -> None:
    router = await stack.router()
    stub = await stack.stub(router)

    async def one(name: str) -> None:
        request, code, field = BAD[name]
        error = await refused(stub.Generate(request))
        assert (error.code, error.field) == (code, field), name
        assert error.reason not in ("TRANSPORT", "INTERNAL"), name
        assert error.message, name
        assert error.remedy, name

    await asyncio.gather(*map(one, BAD))
    assert router.sessions.num_running == 0
    assert not stack.slm.requests
    assert not (await stub.ListTrajectories(router_pb2.ListTrajectoriesRequest())).trajectories
    assert (await take(stub, ask_for())).error is None


async def test_limits_are_said_in_numbers(stack: Stack) -> None:
    stack.llm.context_length = 50
    stub = await stack.stub(await stack.router())
    error = await refused(stub.Generate(ask_for(max_new_tokens=48)))
    assert "3 tokens of prompt and 48 new ones" in error.message
    assert "50" in error.message
    assert "at most 47" in (error.remedy or "")
    answer = await take(stub, ask_for(policy={"slm_only": {}}, max_new_tokens=47))
    assert answer.error is None
    unlimited = await take(stub, ask_for(policy={"llm_only": {}}))
    assert unlimited.error is None
    assert unlimited.finished.length <= 50


async def test_resume_beyond_the_end_and_new_input_while_running(stack: Stack) -> None:
    stack.slm.delay_s = stack.llm.delay_s = 0.02
    stub = await stack.stub(await stack.router())
    first = await take(stub, ask_for(session_id="s", max_new_tokens=60), num_tokens=1)
    error = await refused(stub.Generate(ask_for(session_id="s")))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_RUNNING")
    assert "resume_from" in (error.remedy or "")
    beyond = router_pb2.GenerateRequest(session_id="s", resume_from=4000)
    error = await refused(stub.Generate(beyond))
    assert (error.code, error.field) == (grpc.StatusCode.OUT_OF_RANGE, "resume_from")
    rest = await take(stub, router_pb2.GenerateRequest(session_id="s", resume_from=first.next))
    assert rest.error is None
    error = await refused(stub.Generate(beyond))
    assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_BEYOND_END")
    assert error.metadata["length"] == str(rest.finished.length)


async def test_too_many_answers_at_once(stack: Stack) -> None:
    stack.slm.delay_s = stack.llm.delay_s = 0.05
    stub = await stack.stub(await stack.router(max_running=2))
    for _ in range(2):
        await take(stub, ask_for(policy=threshold(0.5)), num_tokens=1)
    error = await refused(stub.Generate(ask_for()))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ANSWERS")
    assert error.retry_after_s


async def test_too_many_answers_in_one_burst(stack: Stack) -> None:
    stack.slm.delay_s = stack.llm.delay_s = 0.05
    stub = await stack.stub(await stack.router(max_running=2))
    answers = await asyncio.gather(*(take(stub, ask_for(policy=threshold(0.5)), num_tokens=1) for _ in range(12)))
    errors = [answer.error for answer in answers if answer.error is not None]
    assert {error.reason for error in errors} == {"TOO_MANY_ANSWERS"}
    assert len(errors) == 10


async def test_other_calls_refuse_by_name(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    calls = [
        (stub.GetTrajectory(router_pb2.GetTrajectoryRequest()), INVALID, "session_id"),
        (stub.GetTrajectory(router_pb2.GetTrajectoryRequest(session_id="x")), grpc.StatusCode.NOT_FOUND, "session_id"),
        (stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest()), INVALID, "session_id"),
        (stub.ListTrajectories(router_pb2.ListTrajectoriesRequest(page_size=1001)), INVALID, "page_size"),
        (stub.ListTrajectories(router_pb2.ListTrajectoriesRequest(page_token="?")), INVALID, "page_token"),
    ]
    for call, code, field in calls:
        error = await refused(call)
        assert (error.code, error.field) == (code, field)
        assert error.remedy


async def raw_error(stack: Stack, data: bytes) -> RstitchError:
    router = await stack.router()
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{router.port}", options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        call = channel.unary_stream("/rstitch.v1.RouterService/Generate")(data)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
    return from_rpc_error(caught.value)


async def test_invalid_utf8(stack: Stack) -> None:
    error = await raw_error(stack, b"\x1a\x02\xff\xfe")  # field 3: text
    assert (error.code, error.reason) == (INVALID, "MALFORMED_MESSAGE")
    assert "UTF-8" in (error.remedy or "")


async def test_a_message_over_the_limit(stack: Stack) -> None:
    text = ask_for(text="x" * (17 * 1024 * 1024)).SerializeToString()
    error = await raw_error(stack, text)
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
