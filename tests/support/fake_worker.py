"""A worker on the real wire whose model is a toy; it can be slowed, broken, emptied and restarted."""

from __future__ import annotations

import asyncio
import random
import struct
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import grpc

from model_worker.handoffs import consultation, terms_of
from model_worker.many import Many
from rstitch.errors import RstitchError
from rstitch.local.processes import free_port
from rstitch.service.consulting import Consultant, in_half_precision
from rstitch.service.head import Head
from rstitch.service.server import Server
from rstitch.service.telemetry import setup_telemetry
from rstitch.service.tls import ServerTls
from rstitch.v1 import worker_pb2, worker_pb2_grpc
from tests.support.toy import STOP, VOCAB_SIZE, ToyModel, make_tokenizer_files

_Finish = worker_pb2.Finish


class FakeWorker(worker_pb2_grpc.WorkerServiceServicer):
    """role: 1 SLM, 2 LLM. `start` and `stop` may alternate; the port stays, sessions and heads do not."""

    def __init__(self, role: int, model: ToyModel, seed: int = 0) -> None:
        self.role = role
        self.model = model
        self.files = make_tokenizer_files()
        self.vocab_size = VOCAB_SIZE
        self.stop_token = STOP
        self.more_stop_tokens: list[int] = []
        self.context_length = 4096
        self.delay_s = 0.0  # per token
        self.pace: Callable[[], Awaitable[None]] = self._sleep  # awaited before each token
        self.evict_share = 0.05  # of the runs: their session is forgotten with them
        self.max_message_tokens = 4
        self.errors: list[RstitchError] = []  # raised by the next runs that decode
        self.background_errors: list[RstitchError] = []  # raised by the next of them in the background
        self.worker_id = ""  # its name in the fleet
        self.weights_fingerprint = ""
        self.draining = False
        self.num_pages = 1000
        self.num_free_pages = 1000
        self.decode_many = True  # False: as a worker that is too old for it
        self.head_terms = True  # False: as a worker that is too old for them
        self.max_reported = True  # False: likewise for a bound of what is reported
        self.num_reported = 0  # consultations
        self.head_errors: list[RstitchError] = []  # raised when the next heads are put
        self.break_after: list[int] = []  # the next streams end without a word after so many tokens
        self.observe_errors: list[RstitchError] = []  # raised by the next calls that observe
        self.requests: list[worker_pb2.DecodeRequest] = []
        self.observed: list[worker_pb2.ObserveRequest] = []
        self.closed: list[str] = []
        self.sessions: dict[str, list[int]] = {}
        self.heads: dict[str, Head] = {}
        self.num_streams = 0
        self.num_tokenizers = 0  # that were given away
        self.tls: ServerTls | None = None
        self.metadata: list[dict[str, str]] = []  # of each call that asks or decodes
        self.num_observing = 0
        self.busy: set[str] = set()  # sessions in which a run is going on
        self.host = "127.0.0.1"
        self.port = free_port()  # kept from start to start
        self._rng = random.Random(seed)
        self.answering = asyncio.Event()  # while it is not set, nobody learns what this worker is
        self.answering.set()
        self._server: Server | None = None
        self.instance_id = ""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        self.sessions.clear()
        self.heads.clear()
        self.instance_id = uuid.uuid4().hex
        self._server = Server(self.address, service_names=[], telemetry=setup_telemetry("fake", None), tls=self.tls)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server.grpc)
        self.port = await self._server.start()
        await self._server.set_serving(True)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def GetInfo(self, request: Any, context: Any) -> worker_pb2.GetInfoResponse:
        self.metadata.append({"call": "GetInfo", **dict(context.invocation_metadata())})
        await self.answering.wait()
        return worker_pb2.GetInfoResponse(
            role=self.role,
            model=f"toy-{self.role}",
            tokenizer_fingerprint=f"{zlib.crc32(self.files.data):08x}",
            vocab_size=self.vocab_size,
            stop_tokens=[self.stop_token, *self.more_stop_tokens],
            context_length=self.context_length,
            dtype="float32",
            device="cpu",
            num_parameters=1,
            instance_id=self.instance_id,
            hidden_size=1,
            head_terms=self.head_terms,
            decode_many=self.decode_many,
            worker_id=self.worker_id,
            weights_fingerprint=self.weights_fingerprint,
            draining=self.draining,
            capacity=worker_pb2.Capacity(
                num_pages=self.num_pages,
                num_free_pages=self.num_free_pages,
                num_sessions=len(self.sessions),
                num_runs=len(self.busy),
            ),
        )

    async def Drain(self, request: worker_pb2.DrainRequest, context: Any) -> worker_pb2.DrainResponse:
        self.draining = not request.undo
        return worker_pb2.DrainResponse(num_running=len(self.busy), num_streams=self.num_streams)

    async def GetTokenizer(self, request: Any, context: Any) -> AsyncIterator[worker_pb2.GetTokenizerResponse]:
        self.num_tokenizers += 1
        half = len(self.files.data) // 2
        yield worker_pb2.GetTokenizerResponse(
            data=self.files.data[:half],
            chat_template=self.files.chat_template,
            special_tokens=dict(self.files.special_tokens),
            early_exit=worker_pb2.ExitStyle(**asdict(self.files.early_exit)),
        )
        yield worker_pb2.GetTokenizerResponse(data=self.files.data[half:])

    async def PutHead(self, request: worker_pb2.PutHeadRequest, context: Any) -> worker_pb2.PutHeadResponse:
        if self.head_errors:
            raise self.head_errors.pop(0)
        self.heads[request.name] = Head.from_bytes(request.data)
        return worker_pb2.PutHeadResponse()

    async def CloseSession(self, request: Any, context: Any) -> worker_pb2.CloseSessionResponse:
        self.closed.append(request.session_id)
        return worker_pb2.CloseSessionResponse(held=len(self.sessions.pop(request.session_id, [])))

    async def Decode(
        self, request_iterator: AsyncIterator[worker_pb2.DecodeRequest], context: Any
    ) -> AsyncIterator[worker_pb2.DecodeResponse]:
        self.num_streams += 1
        self.metadata.append({"call": "Decode", **dict(context.invocation_metadata())})
        queue: asyncio.Queue[worker_pb2.DecodeRequest | None] = asyncio.Queue()

        async def read() -> None:
            async for request in request_iterator:
                queue.put_nowait(request)
            queue.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (request := await queue.get()) is not None:
                self.requests.append(request)
                if request.session_id in self.busy:
                    raise RstitchError(grpc.StatusCode.ABORTED, "SESSION_BUSY", "another stream runs it")
                self.busy.add(request.session_id)
                try:
                    async for response in self._run(request, queue):
                        yield response
                finally:
                    self.busy.discard(request.session_id)
        finally:
            reader.cancel()
            self.num_streams -= 1

    async def DecodeMany(
        self, request_iterator: AsyncIterator[worker_pb2.DecodeManyRequest], context: Any
    ) -> AsyncIterator[worker_pb2.DecodeManyResponse]:
        async with aclosing(Many(lambda runs: self.Decode(runs, context)).serve(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def Observe(
        self, request: worker_pb2.ObserveRequest, context: Any
    ) -> AsyncIterator[worker_pb2.ObserveResponse]:
        self.observed.append(request)
        if self.observe_errors:
            raise self.observe_errors.pop(0)
        self.num_observing += 1
        try:
            async for response in self._observe(request):
                yield response
        finally:
            self.num_observing -= 1

    async def _observe(self, request: worker_pb2.ObserveRequest) -> AsyncIterator[worker_pb2.ObserveResponse]:
        stop_after = self.break_after.pop(0) if self.break_after else None
        reply = worker_pb2.ObserveResponse()
        for position in range(request.start, len(request.tokens)):
            await self.pace()
            read = list(request.tokens[:position])
            entropy = self.model.entropy(read)
            if entropy > request.above:
                state = in_half_precision(self.model.hidden_state(read))
                reply.consultations.add(
                    position=position,
                    hidden_state=state,
                    entropy=entropy,
                    proposal=self.model.token(read),
                    context_length=position,
                )
            reply.num_positions += 1
            last = position + 1 - request.start == stop_after
            if last or reply.num_positions >= self._rng.randint(1, self.max_message_tokens):
                yield reply
                reply = worker_pb2.ObserveResponse()
            if last:
                raise RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "broken by the test")
        if reply.num_positions:
            yield reply

    async def _run(
        self, request: worker_pb2.DecodeRequest, queue: asyncio.Queue[Any]
    ) -> AsyncIterator[worker_pb2.DecodeResponse]:
        if self.errors and request.max_tokens:
            raise self.errors.pop(0)
        if self.background_errors and request.priority == worker_pb2.PRIORITY_BACKGROUND:
            raise self.background_errors.pop(0)
        consultant = self._consultant(request.handoff)
        session = self._accept(request)
        if request.max_tokens == 0:
            await self._sleep()
            yield self._finish(session, _Finish.REASON_LENGTH if queue.empty() else _Finish.REASON_SUPERSEDED)
            return
        stop_after = self.break_after.pop(0) if self.break_after else None
        num, num_asked, reply = 0, 0, worker_pb2.DecodeResponse()
        signal = request.handoff.signal
        recent = list(request.handoff.recent_entropies)
        while True:
            await self.pace()
            if not queue.empty():
                reason = _Finish.REASON_SUPERSEDED
                break
            token, entropy = self.model.token(session), self.model.entropy(session)
            assert token not in request.masked_tokens, "toys do not know masks: ask one for what it may write"
            rule = request.handoff.WhichOneof("rule")
            recent = [*recent, entropy][-request.handoff.window :] if signal == 4 else []
            value = entropy if signal < 2 else sum(recent) / len(recent) if signal == 4 else self.model.doubt(session)
            hidden_state = self.model.hidden_state(session)
            leaves = rule == "above" and value > request.handoff.above
            if leaves and consultant is not None:
                num_asked += 1
                verdict = consultant.ask(hidden_state, len(session), entropy)
                leaves = verdict.to_llm
                bound = consultant.terms.max_reported if self.max_reported else 0
                if consultant.terms.report and (not bound or num_asked <= bound):
                    self.num_reported += 1
                    reply.consultations.append(consultation(token, verdict))
            if leaves:
                reply.finish.proposal.token, reply.finish.proposal.entropy = token, entropy
                reply.finish.proposal.hidden_state = hidden_state
                reply.finish.proposal.logprob = self.model.logprob(session)
                if signal > 1:
                    reply.finish.proposal.uncertainty = value
                if request.top_logprobs:
                    reply.finish.proposal.alternatives.CopyFrom(self._alternatives(request, session))
                reason = _Finish.REASON_HANDOFF
                break
            reply.logprobs.append(self.model.logprob(session))
            if request.top_logprobs:
                reply.alternatives.append(self._alternatives(request, session))
            session.append(token)
            if consultant is not None:
                consultant.keep(entropy)
            reply.tokens.append(token)
            reply.entropies.append(entropy)
            if signal > 1:
                reply.uncertainties.append(value)
            num += 1
            if stop_after is not None and num >= stop_after:
                yield reply
                raise RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "broken by the test")
            if token in (request.stop_tokens or [self.stop_token, *self.more_stop_tokens]):
                reason = _Finish.REASON_STOP
                break
            if request.draft and (num > len(request.draft) or token != request.draft[num - 1]):
                reason = _Finish.REASON_LENGTH
                break
            if rule == "below" and value <= request.handoff.below:
                reason = _Finish.REASON_HANDOFF
                break
            if num == request.max_tokens:
                reason = _Finish.REASON_LENGTH
                break
            if len(reply.tokens) >= self._rng.randint(1, self.max_message_tokens):
                yield reply
                reply = worker_pb2.DecodeResponse()
        if reply.tokens and self._rng.random() < 0.3:  # the finish may come by itself
            last = worker_pb2.DecodeResponse()
            if reply.finish.HasField("proposal"):
                last.finish.proposal.CopyFrom(reply.finish.proposal)
                last.consultations.extend(told for told in reply.consultations if told.to_llm)
            kept = [told for told in reply.consultations if not told.to_llm]
            reply.ClearField("finish")
            reply.ClearField("consultations")
            reply.consultations.extend(kept)
            yield reply
            reply = last
        reply.finish.MergeFrom(self._finish(session, reason).finish)
        reply.finish.num_consultations = num_asked
        yield reply

    def _alternatives(self, request: worker_pb2.DecodeRequest, session: list[int]) -> worker_pb2.Alternatives:
        found = self.model.alternatives(session, request.top_logprobs)
        found = [(token, value) for token, value in found if token not in request.masked_tokens]
        return worker_pb2.Alternatives(tokens=[token for token, _ in found], logprobs=[value for _, value in found])

    def _consultant(self, handoff: worker_pb2.Handoff) -> Consultant | None:
        name = handoff.head
        if name and name not in self.heads:
            found = {"head": name}
            raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "HEAD_UNKNOWN", "no such head", metadata=found)
        return Consultant(self.heads[name], terms_of(handoff.terms)) if name else None

    async def _sleep(self) -> None:
        await asyncio.sleep(self.delay_s)

    def _accept(self, request: worker_pb2.DecodeRequest) -> list[int]:
        session = self.sessions.setdefault(request.session_id, [])
        held = {"held": str(len(session))}
        if len(session) < request.position:
            raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "HELD_TOO_SHORT", "short", metadata=held)
        prefix = session[: request.position]
        if request.prefix_checksum != zlib.crc32(struct.pack(f"<{len(prefix)}I", *prefix)):
            raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "PREFIX_MISMATCH", "differs", metadata=held)
        session[request.position :] = request.tokens
        assert session, "no tokens at position 0"
        if self._rng.random() < self.evict_share:
            self.sessions.pop(request.session_id)  # evicted while it runs out, so to speak: the next run finds nothing
        return session

    def _finish(self, session: list[int], reason: int) -> worker_pb2.DecodeResponse:
        timing = worker_pb2.Timing(queue_us=3, forward_us=7)
        return worker_pb2.DecodeResponse(finish=_Finish(reason=reason, held=len(session), timing=timing))
