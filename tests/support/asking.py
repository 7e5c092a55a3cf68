"""Asks a router and checks, of every answer, what must hold of any."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import pytest

from rstitch.errors import RstitchError, from_rpc_error
from rstitch.v1 import router_pb2


@dataclass
class Answer:
    """What came of a stream."""

    session_id: str = ""
    num_prompt_tokens: int = 0
    position: int = 0
    tokens: list[int] = field(default_factory=list)
    authors: list[str] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    text: str = ""
    switches: list[Any] = field(default_factory=list)
    finished: Any = None
    error: RstitchError | None = None
    trace_id: str = ""
    consultations: list[Any] = field(default_factory=list)
    details: list[Any] = field(default_factory=list)

    @property
    def next(self) -> int:
        return self.position + len(self.tokens)


def threshold(tau: float, tau_return: float | None = None) -> router_pb2.Policy:
    return router_pb2.Policy(threshold=router_pb2.Threshold(tau=tau, tau_return=tau_return))


def ask_for(prompt: Any = (7, 8, 9), **fields: Any) -> router_pb2.GenerateRequest:
    if not {"text", "chat", "tokens", "resume_from"} & fields.keys():
        fields["tokens"] = router_pb2.TokenIds(ids=prompt)
    return router_pb2.GenerateRequest(**fields)


def chat(*messages: tuple[str, str]) -> Any:
    return router_pb2.Chat(messages=[router_pb2.ChatMessage(role=role, content=text) for role, text in messages])


async def take(
    stub: Any,
    request: router_pb2.GenerateRequest,
    *,
    num_tokens: int | None = None,
    into: Answer | None = None,
    **call: Any,
) -> Answer:
    """Reads the stream to its end, or leaves once it has `num_tokens`. Errors are kept, not raised."""
    answer = Answer() if into is None else into
    stream = stub.Generate(request, **call)
    try:
        async for response in stream:
            for event in (response, *response.more):
                _add(answer, event)
            if num_tokens is not None and len(answer.tokens) >= num_tokens:
                stream.cancel()
                return answer
    except grpc.aio.AioRpcError as error:
        answer.error = from_rpc_error(error)
    return answer


class Reading:
    """An answer that is being read while something else is done; awaited, it is the whole one."""

    def __init__(self, stub: Any, request: router_pb2.GenerateRequest) -> None:
        self.answer = Answer()
        self._task = asyncio.create_task(take(stub, request, into=self.answer))

    def __await__(self) -> Generator[Any, None, Answer]:
        return self._task.__await__()

    def leave(self) -> None:
        """Ends the stream, as a reader does who has had enough."""
        self._task.cancel()

    @property
    def is_over(self) -> bool:
        return self._task.done()

    async def has(self, num_tokens: int = 20) -> Self:
        """Waits until so many tokens have come; the answer must not be over then."""
        await until(lambda: self.is_over or len(self.answer.tokens) >= num_tokens)
        assert not self.is_over, f"over after {len(self.answer.tokens)} tokens: {self.answer.error}"
        return self


def _add(answer: Answer, response: router_pb2.GenerateResponse) -> None:
    kind = response.WhichOneof("event")
    assert answer.finished is None, "finished comes last"
    assert (kind == "started") == (answer.session_id == ""), "started comes first"
    if kind == "started":
        answer.session_id = response.started.session_id
        answer.num_prompt_tokens = response.started.num_prompt_tokens
        answer.position = response.started.position
        answer.trace_id = response.started.trace_id
    elif kind == "chunk":
        chunk = response.chunk
        assert chunk.position == answer.next
        assert chunk.tokens
        assert len(chunk.entropies) == len(chunk.tokens)
        answer.tokens += chunk.tokens
        answer.entropies += chunk.entropies
        answer.authors += ["slm" if chunk.model == 1 else "llm"] * len(chunk.tokens)
        answer.text += chunk.text
        end = chunk.position + len(chunk.tokens)
        assert all(chunk.position <= asked.position < end for asked in chunk.consultations), "each with its token"
        answer.consultations += chunk.consultations
        assert len(chunk.details) in (0, len(chunk.tokens))
        answer.details += chunk.details
    elif kind == "switch":
        assert response.switch.position == answer.next
        answer.switches.append(response.switch)
    else:
        answer.finished = response.finished


async def refused(call: Any) -> RstitchError:
    """The error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (_all(call) if isinstance(call, grpc.aio.UnaryStreamCall) else call)
    return from_rpc_error(caught.value)


async def _all(stream: Any) -> list[Any]:
    return [message async for message in stream]


async def until(condition: Callable[[], Any], patience_s: float = 15) -> Any:
    """Waits for a condition, which may be a coroutine's, but not for ever; returns what it gave."""
    async with asyncio.timeout(patience_s):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


async def stored(stub: Any, session_id: str) -> router_pb2.Trajectory:
    response = await stub.GetTrajectory(router_pb2.GetTrajectoryRequest(session_id=session_id))
    return response.trajectory


async def check_kept(stub: Any, answer: Answer) -> router_pb2.Trajectory:
    """Law 5: what came is what is kept, and the segments are sound."""
    trajectory = await stored(stub, answer.session_id)
    end = 0
    tokens: list[int] = []
    authors: list[str] = []
    for segment in trajectory.segments:
        assert segment.position == end
        end += len(segment.tokens)
        tokens += segment.tokens
        authors += [{1: "prompt", 2: "slm", 3: "llm"}[segment.source]] * len(segment.tokens)
        assert len(segment.entropies) == (0 if segment.source == 1 else len(segment.tokens))
    assert end == trajectory.length == len(tokens)
    got = slice(answer.position, answer.next)
    assert tokens[got] == answer.tokens
    assert authors[got] == answer.authors
    return trajectory
