"""A worker that computes nothing: `python -m evals.bench.toy_worker --role slm --listen ADDRESS ...`.

It speaks the contract of a worker on a real wire, with invented tokens and entropies, so that whatever waits for it is
measured and no model is. Both roles write one text round and round, and a hash of the position says where a model is
unsure: an answer is a function of where it begins. It keeps no session and checks nothing that it is sent.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from tokenizers import Tokenizer

from rstitch.channels import server_options
from rstitch.v1 import common_pb2, worker_pb2

_SERVICE = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
_ROLES = {"slm": common_pb2.MODEL_SLM, "llm": common_pb2.MODEL_LLM}
_CONTEXT = 1 << 20
# The bound that answers are asked with, and what is told of tokens on either side of it; exact in float32.
TAU = 0.5
_Part = worker_pb2.DecodeManyResponse.Part
Send = Callable[[worker_pb2.DecodeResponse], None]
_SURE, _UNSURE = 0.03125, 0.75
_TEXT = "To find the total we add what each of them has: 12 apples and 30 pears are 42 pieces of fruit, so far. "


class _Run:
    """One run of a session: what it still has to write, and the reply that is being filled."""

    __slots__ = ("_left", "_num", "_reply", "_request", "_toy", "position", "send")

    def __init__(self, toy: Toy, request: worker_pb2.DecodeRequest, send: Send) -> None:
        self._toy, self._request = toy, request
        self.send = send
        self.position = request.position + len(request.tokens)
        self._left = request.max_tokens
        self._num = 0
        self._reply = worker_pb2.DecodeResponse()

    def step(self) -> bool:
        """Writes one token, or ends. Returns whether it goes on; replies go out as those of a worker's outbox do."""
        if not self._left:
            return self._end(worker_pb2.Finish.REASON_LENGTH)
        position, handoff, reply = self.position, self._request.handoff, self._reply
        entropy = self._toy.entropy(position)
        rule = handoff.WhichOneof("rule")
        if rule == "above" and entropy > handoff.above:
            reply.finish.proposal.token = self._toy.token(position + 1)  # another than the LLM's
            reply.finish.proposal.entropy = entropy
            return self._end(worker_pb2.Finish.REASON_HANDOFF)
        reply.tokens.append(self._toy.token(position))
        reply.entropies.append(entropy)
        reply.logprobs.append(-entropy)
        self.position, self._left, self._num = position + 1, self._left - 1, self._num + 1
        if rule == "below" and entropy <= handoff.below:
            return self._end(worker_pb2.Finish.REASON_HANDOFF)
        if not self._left:
            return self._end(worker_pb2.Finish.REASON_LENGTH)
        if self._num == 1 or len(reply.tokens) >= self._toy.tokens_per_reply:
            self.send(reply)
            self._reply = worker_pb2.DecodeResponse()
        return True

    def supersede(self) -> None:
        """Ends it, because the next one came."""
        self._end(worker_pb2.Finish.REASON_SUPERSEDED)

    def _end(self, reason: worker_pb2.Finish.Reason) -> bool:
        finish, fed = self._reply.finish, len(self._request.tokens)
        finish.reason, finish.held = reason, self.position
        took = worker_pb2.Timing(queue_us=20, forward_us=900, host_us=60, wait_us=10, total_us=1000)
        took.num_computed_tokens = self._num + fed
        finish.timing.CopyFrom(took)
        self.send(self._reply)
        return False


class Toy:
    """What a toy writes, and how fast."""

    def __init__(self, role: str, files: Path, segment: float, tokens_per_reply: int, step_s: float) -> None:
        self._is_slm = role == "slm"
        self.tokens_per_reply = tokens_per_reply
        self._step_s = step_s
        tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
        self._text = tokenizer.encode(_TEXT, add_special_tokens=False).ids
        self._switch_share = 1 / (segment if self._is_slm else max(1.0, segment / 5))
        self._runs: dict[_Run, None] = {}  # in the order in which they came
        self._came = asyncio.Event()

    def token(self, position: int) -> int:
        """The token at a position, whoever writes it."""
        return self._text[position % len(self._text)]

    def entropy(self, position: int) -> float:
        """The SLM is mostly sure and the LLM mostly not, so that each hands over after a stretch of its own length."""
        draw = hashlib.blake2s(position.to_bytes(8, "little"), digest_size=4).digest()
        switches = int.from_bytes(draw, "little") < self._switch_share * 2**32
        return _UNSURE if switches == self._is_slm else _SURE

    def begin(self, request: worker_pb2.DecodeRequest, send: Send) -> _Run:
        """Takes a run; its tokens come with the next steps."""
        run = _Run(self, request, send)
        self._runs[run] = None
        self._came.set()
        return run

    def leave(self, run: _Run, *, superseded: bool = False) -> None:
        """Ends a run that is not over: another follows it (the caller is told), or the caller is gone."""
        if run in self._runs:
            del self._runs[run]
            if superseded:
                run.supersede()

    async def work(self) -> None:
        """Steps for ever: each run is a token further after each step, as in a batch."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if not self._runs:
                self._came.clear()
                await self._came.wait()
                due = loop.time()
            due = max(due + self._step_s, loop.time())
            await asyncio.sleep(max(0.0, due - loop.time()))
            for run in list(self._runs):
                if not run.step():
                    del self._runs[run]

    async def decode(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Serves the runs of one stream, messages as bytes: whatever the library would do for them is not measured."""
        replies: asyncio.Queue[bytes | None] = asyncio.Queue()
        reading = asyncio.create_task(self._read(requests, replies))
        try:
            while (reply := await replies.get()) is not None:
                await context.write(reply)
        finally:
            reading.cancel()

    async def _read(self, requests: AsyncIterator[bytes], replies: asyncio.Queue[bytes | None]) -> None:
        run: _Run | None = None
        try:
            async for data in requests:
                if run is not None:
                    self.leave(run, superseded=True)
                run = self.begin(
                    worker_pb2.DecodeRequest.FromString(data),
                    lambda reply: replies.put_nowait(reply.SerializeToString()),
                )
        finally:
            if run is not None:
                self.leave(run)
            replies.put_nowait(None)

    async def decode_many(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Serves the streams of a call; what they say while a message goes out is the next one."""
        parts: list[_Part] = []
        wake = asyncio.Event()
        reading = asyncio.create_task(self._read_many(requests, parts, wake))
        reading.add_done_callback(lambda _: wake.set())
        try:
            while parts or not reading.done():
                await wake.wait()
                wake.clear()
                if parts:
                    data = worker_pb2.DecodeManyResponse(parts=parts).SerializeToString()
                    parts.clear()
                    await context.write(data)
        finally:
            reading.cancel()

    async def _read_many(self, requests: AsyncIterator[bytes], parts: list[_Part], wake: asyncio.Event) -> None:
        runs: dict[int, _Run] = {}

        def say(number: int, reply: worker_pb2.DecodeResponse) -> None:
            parts.append(_Part(stream=number, response=reply))
            wake.set()

        try:
            async for data in requests:
                message = worker_pb2.DecodeManyRequest.FromString(data)
                goes_on = message.HasField("run")
                if message.stream in runs:
                    self.leave(runs.pop(message.stream), superseded=goes_on)
                if goes_on:
                    runs[message.stream] = self.begin(message.run, partial(say, message.stream))
        finally:
            for run in runs.values():
                self.leave(run)


async def serve(role: str, listen: str, files: Path, toy: Toy) -> None:
    """Serves one role until SIGTERM; a router that comes is told the tokenizer of `files`."""
    tokenizer = (files / "tokenizer.json").read_bytes()
    info = worker_pb2.GetInfoResponse(
        role=_ROLES[role],
        model=f"toy-{role}",
        tokenizer_fingerprint=hashlib.sha256(tokenizer).hexdigest(),
        vocab_size=Tokenizer.from_str(tokenizer.decode()).get_vocab_size(),
        stop_tokens=[0],
        context_length=_CONTEXT,
        dtype="float32",
        device="cpu",
        num_parameters=1,
        instance_id=uuid.uuid4().hex,
        hidden_size=1,
        decode_many=True,
    ).SerializeToString()
    template = (files / "chat_template.jinja").read_text()
    files_message = worker_pb2.GetTokenizerResponse(data=tokenizer, chat_template=template).SerializeToString()
    closed = worker_pb2.CloseSessionResponse().SerializeToString()

    async def tell_files(_: bytes, __: Any) -> AsyncIterator[bytes]:
        yield files_message

    async def tell_info(_: bytes, __: Any) -> bytes:
        return info

    async def close(_: bytes, __: Any) -> bytes:
        return closed

    server = grpc.aio.server(options=server_options())
    handlers: dict[str, Any] = {
        "GetInfo": grpc.unary_unary_rpc_method_handler(tell_info),
        "CloseSession": grpc.unary_unary_rpc_method_handler(close),
        "GetTokenizer": grpc.unary_stream_rpc_method_handler(tell_files),
        "Decode": grpc.stream_stream_rpc_method_handler(toy.decode),
        "DecodeMany": grpc.stream_stream_rpc_method_handler(toy.decode_many),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    server.add_insecure_port(listen)
    await server.start()
    working = asyncio.create_task(toy.work())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        working.result()
    await server.stop(None)
    working.cancel()


def main() -> None:
    """Runs a toy worker until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=list(_ROLES), required=True)
    parser.add_argument("--listen", metavar="HOST:PORT", required=True)
    parser.add_argument("--files", metavar="DIR", type=Path, required=True, help="Folder of the tokenizer.")
    parser.add_argument("--segment", type=float, default=20.0, help="Mean tokens of the SLM between switches.")
    parser.add_argument("--tokens-per-reply", type=int, default=1, help="Behind a run's first.")
    parser.add_argument("--step-ms", type=float, default=0.0, help="From token to token; 0: as fast as it can.")
    given = parser.parse_args()

    async def served() -> None:
        toy = Toy(given.role, given.files, given.segment, given.tokens_per_reply, given.step_ms / 1000)
        await serve(given.role, given.listen, given.files, toy)

    asyncio.run(served())


if __name__ == "__main__":
    main()
