"""Many streams as one call: each says what a call of its own says, and none is another's concern."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from model_worker import many
from rstitch.errors import RstitchError, from_proto, invalid, to_proto
from rstitch.v1 import worker_pb2 as pb
from tests.support.asking import until
from tests.support.worker_calls import decode_once, error_of
from tests.worker.conftest import StartWorker

PROMPTS = {number: [7 + number, 8, 9, 10] for number in range(1, 7)}


def run(number: int, **fields: Any) -> pb.DecodeManyRequest:
    asked = {"session_id": f"s{number}", "tokens": PROMPTS[number], "max_tokens": 30, **fields}
    return pb.DecodeManyRequest(stream=number, run=pb.DecodeRequest(**asked))


class Heard:
    """What came of each stream of a call."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.tokens: defaultdict[int, list[int]] = defaultdict(list)
        self.finishes: defaultdict[int, list[pb.Finish]] = defaultdict(list)
        self.errors: dict[int, RstitchError] = {}
        self.most = 0  # parts of a message

    async def more(self) -> bool:
        """Takes the next message; False at the end of the call."""
        message = await self._call.read()
        if message is grpc.aio.EOF:
            return False
        assert message.parts
        self.most = max(self.most, len(message.parts))
        for part in message.parts:
            assert part.stream not in self.errors, "it was over"
            self.tokens[part.stream] += part.response.tokens
            if part.response.HasField("finish"):
                self.finishes[part.stream].append(part.response.finish)
            if part.status:
                self.errors[part.stream] = from_proto(part.status)
        return True

    async def ended(self, *numbers: int) -> None:
        while not all(number in self.errors or self.finishes[number] for number in numbers):
            assert await self.more()


async def test_streams_say_what_calls_of_their_own_say(start_worker: StartWorker) -> None:
    _, stub = await start_worker()
    call = stub.DecodeMany()
    heard = Heard(call)
    for number in PROMPTS:
        await call.write(run(number))
    await heard.ended(*PROMPTS)
    assert heard.most > 1, "what was written in one step came together"
    alone = [
        await decode_once(stub, pb.DecodeRequest(session_id=f"t{number}", tokens=prompt, max_tokens=30))
        for number, prompt in PROMPTS.items()
    ]
    assert [heard.tokens[number] for number in PROMPTS] == [tokens for tokens, _ in alone]
    assert [heard.finishes[number][0].reason for number in PROMPTS] == [finish.reason for _, finish in alone]
    # The next run of a stream goes on where it stands, and half-closing lets all of them end.
    held = heard.finishes[1][0].held
    await call.write(run(1, position=held - 1, tokens=heard.tokens[1][-1:], max_tokens=3))
    await call.done_writing()
    while await heard.more():
        pass
    assert heard.finishes[1][1].held == held + len(heard.tokens[1]) - len(alone[0][0])
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_fails_and_is_cancelled_alone(start_worker: StartWorker) -> None:
    _, stub = await start_worker()
    call = stub.DecodeMany()
    heard = Heard(call)
    await call.write(run(1, max_tokens=400, stop_tokens=[0]))
    await call.write(run(2, position=9))  # it holds less
    await call.write(run(3, max_tokens=400, stop_tokens=[0]))
    await heard.ended(2)
    assert (heard.errors[2].code, heard.errors[2].reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HELD_TOO_SHORT")
    assert heard.errors[2].metadata["held"] == "0"
    while not heard.tokens[3]:
        assert await heard.more()
    await call.write(pb.DecodeManyRequest(stream=3))
    await call.write(pb.DecodeManyRequest(stream=77))  # never heard of
    await heard.ended(1)
    assert not heard.finishes[3]
    await call.write(run(4))
    await heard.ended(4)
    call.cancel()


async def test_no_call_has_streams_without_end(start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "MAX_STREAMS", 2)
    monkeypatch.setattr(many, "_FULL", 1)
    _, stub = await start_worker()
    call = stub.DecodeMany()
    heard = Heard(call)
    for number in (1, 2, 3):
        await call.write(run(number))
    await heard.ended(1, 2, 3)
    assert (heard.errors[3].reason, heard.most) == ("TOO_MANY_STREAMS", 1)
    call.cancel()


async def test_the_streams_end_with_the_call(start_worker: StartWorker) -> None:
    _, stub = await start_worker()
    call = stub.DecodeMany()
    for number in PROMPTS:
        await call.write(run(number, max_tokens=450, stop_tokens=[0]))
    await Heard(call).more()
    assert (await stub.Drain(pb.DrainRequest())).num_streams > 0
    call.cancel()

    async def left() -> bool:
        return bool((await stub.Drain(pb.DrainRequest())).num_streams == 0)

    await until(left)


async def iter_read(call: Any) -> AsyncIterator[bytes]:
    while (message := await call.read()) is not grpc.aio.EOF:
        yield message


async def test_a_message_that_is_none_ends_the_call(start_worker: StartWorker) -> None:
    worker, _ = await start_worker()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.port}") as channel:
        call: Any = channel.stream_stream("/rstitch.v1.WorkerService/DecodeMany")()
        await call.write(run(1, max_tokens=450, stop_tokens=[0]).SerializeToString())
        await call.read()
        await call.write(b"\xff")

        async def rest() -> list[bytes]:
            return [message async for message in iter_read(call)]

        assert (await error_of(rest())).reason == "MALFORMED_MESSAGE"


def test_an_error_comes_back_from_its_message() -> None:
    error = invalid("tokens", "they are none.", "Send some.")
    error.metadata["held"], error.retry_after_s = "3", 0.25
    again = from_proto(to_proto(error).SerializeToString())
    assert (type(again), again.reason, str(again)) == (type(error), error.reason, str(error))
    assert (again.field, again.metadata, again.retry_after_s) == ("tokens", {"held": "3"}, 0.25)
    for data in (b"", b"\xff", b"\x08\x63"):
        with pytest.raises(ValueError, match="no status"):
            from_proto(data)


async def said_by(served: many.Many, *messages: pb.DecodeManyRequest) -> list[pb.DecodeManyResponse]:
    async def asked() -> AsyncIterator[pb.DecodeManyRequest]:
        for message in messages:
            yield message

    return [message async for message in served.serve(asked())]


async def test_a_stream_that_is_cancelled_before_it_begins_leaves_nothing() -> None:
    async def decode(runs: AsyncIterator[pb.DecodeRequest]) -> AsyncIterator[pb.DecodeResponse]:
        async for asked in runs:
            yield pb.DecodeResponse(tokens=asked.tokens)

    # All of it is there at once, so that no stream has had a turn when the first is cancelled.
    async with asyncio.timeout(10):
        (message,) = await said_by(many.Many(decode), run(1), pb.DecodeManyRequest(stream=1), run(2))
    assert [(part.stream, list(part.response.tokens)) for part in message.parts] == [(2, PROMPTS[2])]


async def test_what_is_large_is_not_put_upon_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "_FULL", 1000)

    async def decode(runs: AsyncIterator[pb.DecodeRequest]) -> AsyncIterator[pb.DecodeResponse]:
        async for asked in runs:
            yield pb.DecodeResponse(tokens=asked.tokens)

    sizes = {1: 100, 2: 100, 3: 950, 4: 5000, 5: 100}
    said = await said_by(many.Many(decode), *(run(number, tokens=[1] * size) for number, size in sizes.items()))
    assert [[part.stream for part in message.parts] for message in said] == [[1, 2], [3], [4], [5]]
