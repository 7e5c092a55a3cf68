"""Values in, values out; errors that say what to do; nothing imported that a client does not need."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry import trace

from rstitch import (
    Alternative,
    Answer,
    AsyncClient,
    Budget,
    Cancelled,
    Client,
    Confidence,
    Consultation,
    Details,
    EarlyExit,
    FinishReason,
    Interrupted,
    InvalidArgument,
    Label,
    Learned,
    LlmOnly,
    Message,
    Model,
    NotFound,
    Profile,
    Question,
    Random,
    Refused,
    RstitchError,
    Sampling,
    Signal,
    SlmOnly,
    Source,
    Speculative,
    Started,
    Threshold,
    TokenDetail,
    Tokenized,
    TrajectoryState,
    Unavailable,
    errors,
)
from rstitch.client import events, messages, policies, question, requests, status
from rstitch.client.specs import Spec, parse, text_of
from rstitch.errors import FailedPrecondition
from rstitch.service.telemetry import context_from_traceparent
from rstitch.v1 import router_pb2 as pb
from tests.client.conftest import Ask, Call
from tests.support.fake_router import FakeRouter

POLICIES = [
    Threshold(0.25),
    Threshold(0.25, tau_return=0.5),
    Learned("head", 0.5),
    Confidence(0.5),
    LlmOnly(),
    SlmOnly(),
    Random(0.5),
    Random(0.5, seed=0),
    Speculative(4),
    Speculative(4, min_confidence=0.5),
    Threshold(0.25, signal=Signal.ENTROPY_WINDOW, window=4),
    Learned("head"),
    Profile("fast"),
]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_every_policy_is_one_word(policy: Any) -> None:
    spec = Spec(policy, EarlyExit(0.5, boundaries=("a\n", "b\\"), end="}"), Budget(max_switches=2))
    assert parse(text_of(spec)) == spec


def test_a_name_that_comes_first_need_not_be_named() -> None:
    assert parse("learned:tiny").policy == Learned("tiny")
    assert parse("learned:org/head@12ab,tau=0.03").policy == Learned("org/head@12ab", 0.03)
    assert parse("profile:fast").policy == parse("profile:name=fast").policy == Profile("fast")
    for word in ("profile", "learned", "learned:tau=0.1", "threshold:0.02", "learned:tau=0.1,tiny"):
        with pytest.raises(RstitchError, match="Write"):
            parse(word)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_every_policy_survives_the_round_trip(policy: Any) -> None:
    assert messages.trajectory(pb.Trajectory(policy=requests.policy_message(policy))).policy == policy


def test_every_argument_arrives(router: FakeRouter, ask: Ask) -> None:
    ask(
        router.address,
        "generate",
        chat=[Message("system", "Be brief."), {"role": "user", "content": "Wie viel? ä"}],
        policy=Threshold(0.1),
        early_exit=EarlyExit(0.9),
        sampling=Sampling(0.5, 0.9, 40, 7, 0.1, {3: 1.5}, 0.5, -0.5, 1.5),
        max_new_tokens=64,
        stop=["\n"],
        stop_token_ids=[7, 8],
        session_id="talk",
        only_if_new=True,
        request_id="mine",
        cache_salt="tenant",
        on_disconnect="stop",
        gather_ms=250,
        details=Details(4),
    )
    (question,) = router.questions
    assert [(m.role, m.content) for m in question.chat.messages] == [("system", "Be brief."), ("user", "Wie viel? ä")]
    assert question.policy.threshold.tau == 0.1
    assert question.early_exit.threshold == 0.9
    s = question.sampling
    assert (s.min_p, dict(s.logit_bias), s.repetition_penalty) == (0.1, {3: 1.5}, 1.5)
    assert (s.presence_penalty, s.frequency_penalty) == (0.5, -0.5)
    assert (s.temperature, s.top_p, s.top_k, s.seed) == (0.5, 0.9, 40, 7)
    assert (question.max_new_tokens, list(question.stop), question.session_id) == (64, ["\n"], "talk")
    assert question.cache_salt == "tenant"
    assert (question.only_if_new, question.request_id) == (True, "mine")
    assert list(question.stop_token_ids) == [7, 8]
    assert question.on_disconnect == pb.ON_DISCONNECT_STOP
    assert (question.gather_ms, question.takes_more) == (250, True)
    assert question.details.top_logprobs == 4


def test_a_session_that_is_not_new_is_refused_by_its_reason(router: FakeRouter, ask: Ask) -> None:
    ask(router.address, "generate", "What?", session_id="talk", only_if_new=True)
    with pytest.raises(FailedPrecondition, match="there is a session talk") as caught:
        ask(router.address, "generate", "What?", session_id="talk", only_if_new=True)
    assert caught.value.reason == "SESSION_EXISTS"
    assert len(router.questions) == 1


def test_what_goes_with_a_chat_arrives(router: FakeRouter, ask: Ask) -> None:
    call = {"function": {"name": "f", "arguments": {"n": 1}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"required": ["n"], "deep": [{"a": None}]}}}
    ask(
        router.address,
        "generate",
        chat=[
            Message("system", parts=("a", "b")),
            {"role": "user", "content": [{"type": "text", "text": "c"}, "d"]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            Message("tool", "1", fields={"tool_call_id": "x"}),
        ],
        tools=[tool],
        documents=[{"title": "t", "text": "u"}],
        chat_template_kwargs={"enable_thinking": False, "effort": "low"},
    )
    chat = router.questions[0].chat
    assert [list(message.text_parts) for message in chat.messages] == [["a", "b"], ["c", "d"], [], []]
    assert [message.content for message in chat.messages] == ["", "", "", "1"]
    assert MessageToDict(chat.messages[2].fields) == {"tool_calls": [call]}
    assert MessageToDict(chat.messages[3].fields) == {"tool_call_id": "x"}
    assert [MessageToDict(tool) for tool in chat.tools] == [tool]
    assert [MessageToDict(document) for document in chat.documents] == [{"title": "t", "text": "u"}]
    assert MessageToDict(chat.chat_template_kwargs) == {"enable_thinking": False, "effort": "low"}


def test_an_unset_policy_stays_unset(router: FakeRouter, ask: Ask) -> None:
    ask(router.address, "generate", tokens=[1, 2])
    assert not router.questions[0].HasField("policy")
    assert list(router.questions[0].tokens.ids) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "input"),
        ({"text": "a", "tokens": [1]}, "input"),
        ({"tokens": [-1]}, "tokens"),
        ({"tokens": ["a"]}, "tokens"),
        ({"text": "\ud800"}, "text"),
        ({"text": 3}, "text"),
        ({"chat": [{"role": "user", "text": "x"}]}, "chat"),
        ({"chat": [{"role": "user", "content": [{"type": "image"}]}]}, "chat"),
        ({"chat": [{"role": "user", "content": [{"type": "text"}]}]}, "chat"),
        ({"chat": [{"role": "user", "content": 3}]}, "chat"),
        ({"chat": [{"role": "user", "content": "x", "fields": {"a": object()}}]}, "chat"),
        ({"chat": [Message("user", "x")], "tools": {"name": "f"}}, "tools"),
        ({"chat": [Message("user", "x")], "tools": ["f"]}, "tools"),
        ({"chat": [Message("user", "x")], "documents": [3]}, "documents"),
        ({"chat": [Message("user", "x")], "chat_template_kwargs": "a=1"}, "chat_template_kwargs"),
        ({"text": "a", "tools": [{"name": "f"}]}, "tools"),
        ({"tokens": [1], "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ({"text": "a", "stop_token_ids": [-1]}, "stop_token_ids"),
        ({"text": "a", "stop_token_ids": 3}, "stop_token_ids"),
        ({"text": "a", "max_new_tokens": -1}, "max_new_tokens"),
        ({"text": "a", "max_new_tokens": 1 << 40}, "max_new_tokens"),
        ({"text": "a", "sampling": Sampling(top_k=-1)}, "sampling"),
        ({"text": "a", "policy": "threshold"}, "policy"),
        ({"text": "a", "stop": "END"}, "stop"),
        ({"text": "a", "stop": [1]}, "stop"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(router: FakeRouter, ask: Ask, arguments: Any, field: str) -> None:
    with pytest.raises(RstitchError) as caught:
        ask(router.address, "generate", **arguments)
    assert (caught.value.code, caught.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert caught.value.remedy


def test_the_routers_refusal_arrives_whole(router: FakeRouter, ask: Ask) -> None:
    with pytest.raises(RstitchError) as caught:
        ask(router.address, "generate", "refuse")
    error = caught.value
    assert (error.reason, error.field, error.remedy) == (
        "INVALID_FIELD",
        "policy.threshold.tau",
        "Give a number in [-1, 2].",
    )


def test_an_answer_is_its_events_together(router: FakeRouter, call: Call) -> None:
    answer: Answer = call(router.address, "answer", "What?")
    assert len(answer.tokens) == 60
    assert answer.text.startswith("w5 w6 ")
    assert {chunk.model for chunk in answer.chunks} == {Model.SLM, Model.LLM}
    assert answer.finished.reason is FinishReason.STOP
    assert answer.finished.usage.llm_share == pytest.approx(1 / 3)
    assert answer.finished.usage.num_switches == len(answer.switches)


def test_details_come_with_the_tokens_and_across_a_lost_stream(router: FakeRouter, call: Call) -> None:
    def lost(number: int) -> None:
        if number == 12:
            raise RstitchError(grpc.StatusCode.UNAVAILABLE, "", "lost by the test")

    assert call(router.address, "answer", "What?").details == ()
    router.before_event = lost
    answer: Answer = call(router.address, "answer", "What?", details=Details(2), session_id="s")
    assert answer.details[0] == TokenDetail(
        None, b"w5 ", (Alternative(105, -1, b"\xf0"), Alternative(106, -2, b"\xf0"))
    )
    assert [detail.logprob for detail in answer.details[1:]] == [-0.5] * 59
    assert b"".join(detail.text for detail in answer.details).decode() == answer.text
    for wanted in (True, False):
        segments = call(router.address, "trajectory", "s", details=wanted).segments
        kept = [detail for segment in segments for detail in segment.details]
        assert kept == (list(answer.details) if wanted else [])
    with pytest.raises(InvalidArgument, match="details"):
        call(router.address, "answer", "What?", details=Details(-1))


def test_texts_and_chats_are_tokenized(router: FakeRouter, call: Call) -> None:
    assert call(router.address, "tokenize", "ab") == Tokenized((97, 98), (b"a", b"b"), 512)
    chat = [{"role": "user", "content": "c"}]
    assert call(router.address, "tokenize", chat=chat, tools=[{"name": "f"}], model=Model.SLM).tokens == (99,)
    assert call(router.address, "detokenize", [97, 98]) == "ab"
    text, asked, ids = router.tokenized
    assert (text.model, asked.model, ids.model) == (2, 1, 2)
    assert len(asked.chat.tools) == 1
    with pytest.raises(InvalidArgument, match="one of text"):
        call(router.address, "tokenize")
    with pytest.raises(InvalidArgument, match="tokens"):
        call(router.address, "detokenize", [-1])


def test_trajectories_are_shown_listed_and_deleted(router: FakeRouter, call: Call, ask: Ask) -> None:
    for name in "abc":
        ask(router.address, "generate", "What?", session_id=name)
    trajectory = call(router.address, "trajectory", "b")
    assert (trajectory.state, trajectory.length) == (TrajectoryState.FINISHED, 65)
    assert trajectory.segments[0].source is Source.PROMPT
    assert trajectory.text.startswith("What? w5 ")
    assert len(trajectory.tokens) == 65
    assert [t.session_id for t in ask(router.address, "trajectories", 2)] == ["a", "b", "c"]
    call(router.address, "delete_trajectory", "b")
    with pytest.raises(RstitchError) as caught:
        call(router.address, "trajectory", "b")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_trajectories_are_listed_page_by_page(router: FakeRouter, call: Call, ask: Ask) -> None:
    for name in "abc":
        ask(router.address, "generate", "What?", session_id=name)
    first = call(router.address, "trajectory_page", 2)
    assert [t.session_id for t in first.trajectories] == ["a", "b"]
    last = call(router.address, "trajectory_page", 2, first.next_page_token)
    assert [t.session_id for t in last.trajectories] == ["c"]
    assert not last.next_page_token
    for arguments, field in (((-1,), "page_size"), ((2, 7), "page_token")):
        with pytest.raises(InvalidArgument) as caught:
            call(router.address, "trajectory_page", *arguments)
        assert caught.value.field == field


def test_an_answer_is_cancelled(router: FakeRouter, call: Call, ask: Ask) -> None:
    assert call(router.address, "cancel", "b") == Cancelled(True, TrajectoryState.INTERRUPTED, 9)
    assert call(router.address, "cancel", "over") == Cancelled(False, TrajectoryState.FINISHED, 9)
    assert router.cancelled == ["b", "over"]
    with pytest.raises(InvalidArgument, match="neither"):
        ask(router.address, "generate", "What?", on_disconnect="maybe")


def test_whoever_reads_a_cancelled_answer_does_not_go_on_with_it(router: FakeRouter, ask: Ask) -> None:
    """A client goes on by itself after any other interruption; this one somebody wanted."""

    def cancelled(number: int) -> None:
        if number == 9:
            metadata = {"session_id": "s", "resume_from": "12"}
            raise RstitchError(grpc.StatusCode.CANCELLED, "CANCELLED", "the answer was cancelled.", metadata=metadata)

    router.before_event = cancelled
    with pytest.raises(Interrupted) as caught:
        ask(router.address, "generate", "What?", session_id="s")
    assert caught.value.reason == "CANCELLED"
    assert caught.value.metadata["session_id"] == "s"
    assert int(caught.value.metadata["resume_from"]) > 5
    assert router.ended.wait(5)


def test_labels_are_set_and_listed(router: FakeRouter, call: Call, ask: Ask) -> None:
    for name in "abc":
        ask(router.address, "generate", "What?", session_id=name)
    assert call(router.address, "trajectory", "b").label is Label.UNSPECIFIED
    call(router.address, "label_trajectory", "b", True)
    call(router.address, "label_trajectory", "c", right=False)
    assert call(router.address, "trajectory", "b").label is Label.RIGHT
    found: Any = ask(router.address, "trajectories", 1, labelled=True)
    assert [(t.session_id, t.label) for t in found] == [("b", Label.RIGHT), ("c", Label.WRONG)]
    call(router.address, "label_trajectory", "b", None)
    assert [t.session_id for t in ask(router.address, "trajectories", labelled=True)] == ["c"]
    with pytest.raises(NotFound):
        call(router.address, "label_trajectory", "nobody", True)
    with pytest.raises(InvalidArgument) as caught:
        call(router.address, "label_trajectory", 7, True)
    assert caught.value.field == "session_id"


def test_an_answer_is_observed(router: FakeRouter, ask: Ask) -> None:
    found: Any = ask(router.address, "observe_answer", session_id="s", tau=0.25)
    assert [(each.token, each.writer) for each in found] == [(0, Model.LLM), (1, Model.SLM), (2, Model.SLM)]
    assert found[1].consultation == Consultation(6, b"\0<", 0.5, 7, context_length=1)
    chat = [{"role": "user", "content": "Hi"}]
    found = ask(router.address, "observe_answer", chat=chat, text="Ho", tau=-1, chat_template_kwargs={"brief": True})
    assert {each.writer for each in found} == {Model.UNSPECIFIED}
    kept, given = router.observed
    assert (kept.session_id, kept.tau) == ("s", 0.25)
    assert (given.tau, given.given.text, given.given.chat.messages[0].content) == (-1, "Ho", "Hi")
    assert dict(given.given.chat.chat_template_kwargs) == {"brief": True}
    with pytest.raises(NotFound):
        ask(router.address, "observe_answer", session_id="nobody", tau=0)


def test_whoever_leaves_an_observation_ends_its_call(router: FakeRouter) -> None:
    with Client(router.address) as client:
        observations = iter(client.observe_answer(session_id="s", tau=0))
        next(observations)
        observations.close()  # type: ignore[attr-defined]
        assert router.ended.wait(10)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "answer"),
        ({"session_id": "s", "text": "Ho"}, "answer"),
        ({"chat": [{"role": "user", "content": "Hi"}]}, "answer"),
        ({"session_id": 7}, "session_id"),
        ({"chat": [7], "text": "Ho"}, "chat"),
        ({"chat": [{"role": "user", "content": "Hi"}], "text": 7}, "text"),
        ({"session_id": "s", "tau": "x"}, "tau"),
    ],
)
def test_what_is_no_answer_to_observe_is_refused(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        requests.observe_request(**{"tau": 0.0, **asked})
    assert caught.value.field == field
    assert caught.value.remedy


def test_status(router: FakeRouter, call: Call) -> None:
    told = call(router.address, "status")
    assert (told.ready, told.policies, told.default_tau) == (True, ("threshold", "llm_only"), 0.02)
    assert [worker.role for worker in told.workers] == [Model.SLM, Model.LLM]
    assert told.vocabularies.endswith("masked: SLM 2 [user]")


def test_wait_ready_waits_and_says_what_for(router: FakeRouter, call: Call) -> None:
    router.ready = False
    with pytest.raises(RstitchError, match="waiting for the SLM worker") as caught:
        call(router.address, "wait_ready", 0.3)
    assert caught.value.reason == "NOT_READY"
    timer = threading.Timer(0.3, lambda: setattr(router, "ready", True))
    timer.start()
    assert call(router.address, "wait_ready", 10).ready
    timer.join()


def test_no_router_is_said_at_once_with_the_remedy(ask: Ask) -> None:
    with pytest.raises(RstitchError, match="rstitch up") as caught:
        ask("127.0.0.1:1", "generate", "What?")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "UNREACHABLE")


@pytest.mark.parametrize("address", ["", "a b:1"])
def test_an_address_that_is_none_is_refused(ask: Ask, address: str) -> None:
    with pytest.raises(RstitchError, match="HOST:PORT"):
        ask(address, "generate", "What?")


@pytest.fixture
def stuck(router: FakeRouter) -> Iterator[threading.Event]:
    """The router's answers stop after a few events; set once they do."""
    arrived, released = threading.Event(), threading.Event()

    def block(n: int) -> None:
        if n == 4:
            arrived.set()
            released.wait(30)

    router.before_event = block
    yield arrived
    released.set()


def test_an_iterator_closed_early_ends_the_call(router: FakeRouter, stuck: threading.Event) -> None:
    with Client(router.address) as client:
        events = client.generate("What?")
        assert isinstance(next(events), Started)
        assert stuck.wait(10)
        events.close()
        assert router.ended.wait(10)


async def test_a_cancelled_task_ends_the_call(router: FakeRouter, stuck: threading.Event) -> None:
    async with AsyncClient(router.address) as client:
        task = asyncio.create_task(client.answer("What?"))
        assert await asyncio.to_thread(stuck.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(router.ended.wait, 10)


def test_the_current_trace_goes_with_the_call(router: FakeRouter, ask: Ask) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ask(router.address, "generate", "What?")
    with trace.use_span(trace.get_current_span(context_from_traceparent(traceparent))):
        ask(router.address, "generate", "What?")
    assert [metadata.get("traceparent") for metadata in router.metadata] == [None, traceparent]


def test_the_client_imports_no_more_than_it_needs() -> None:
    heavy = (
        "torch",
        "redis",
        "opentelemetry",
        "structlog",
        "pydantic",
        "transformers",
        "numpy",
        "typer",
        "rstitch.service",
    )
    code = (
        f"import sys, rstitch; rstitch.Client; sys.exit(str([n for n in sys.modules if n.startswith({heavy!r})] or ''))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.stderr.strip() == ""


def test_an_unknown_name_is_an_attribute_error() -> None:
    import rstitch

    with pytest.raises(AttributeError, match="Klient"):
        _ = rstitch.Klient


def test_exported_members() -> None:
    """Everything that the client's modules of values define is public, and `__all__` names nothing else."""
    import rstitch.client as client

    public = {
        name for name, value in vars(client).items() if not (name.startswith("_") or isinstance(value, ModuleType))
    }
    assert sorted(public) == client.__all__
    values = [*events.__all__, *policies.__all__, *question.__all__, *status.__all__]
    assert len(set(values)) == len(values)
    assert set(values) <= public


def test_a_question_has_the_arguments_of_its_message() -> None:
    """`Question` types what `generate_request` takes; a name that neither knows is an error, not ignored."""
    taken = inspect.signature(requests.generate_request).parameters
    assert set(Question.__annotations__) == set(taken) - {"text"}
    with Client("127.0.0.1:1") as client, pytest.raises(TypeError, match="max_tokens"):
        client.generate("What?", max_tokens=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_the_code_chooses_the_class_of_an_error(code: grpc.StatusCode) -> None:
    error = RstitchError(code, "REASON", "said", field="tau")
    assert type(error) is not RstitchError or code is grpc.StatusCode.OK
    assert (error.code, error.reason, str(error)) == (code, "REASON", "tau: said")


def test_errors_are_caught_by_class(router: FakeRouter, ask: Ask, call: Call) -> None:
    with pytest.raises(InvalidArgument):
        ask(router.address, "generate", "refuse")
    with pytest.raises(NotFound):
        call(router.address, "trajectory", "nobody")
    with pytest.raises(Unavailable):
        ask("127.0.0.1:1", "generate", "What?")
    assert issubclass(InvalidArgument, Refused)
    assert issubclass(NotFound, Refused)


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    """The docstring of `rstitch.errors` draws every class below its base."""
    drawn, bases = {}, [RstitchError.__name__]
    for indent, name in re.findall(r"^( +)x (\w+)", errors.__doc__ or "", re.MULTILINE):
        depth = len(indent) // 2 - 2
        bases[depth:] = [name]
        drawn[name] = bases[depth - 1]
    real = {name: value.__base__.__name__ for name, value in vars(errors).items() if _is_error(value)}
    assert drawn == {name: base for name, base in real.items() if name != RstitchError.__name__}


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, RstitchError)
