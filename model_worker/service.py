"""WorkerService on the wire: streams of runs in, streams of kept tokens out.

It computes nothing and waits for nothing except the driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from opentelemetry import trace

from model_worker import messages
from model_worker.draining import Call, Draining
from model_worker.driver import EngineDriver
from model_worker.engine.errors import EngineError, ForwardFailed
from model_worker.engine.types import RunFailed, RunFinished, RunRequest
from model_worker.grammars import Grammars
from model_worker.handoffs import consultation, num_to_report
from model_worker.heads import HeadTable
from model_worker.many import Many
from model_worker.metrics import WorkerMetrics
from model_worker.observing import observed
from model_worker.outbox import Piece
from model_worker.spans import ObserveSpan, close_span, fail_span, open_span
from rstitch.errors import RstitchError, invalid
from rstitch.v1 import worker_pb2, worker_pb2_grpc

_log = structlog.get_logger(__name__)
_TOKENIZER_CHUNK_BYTES = 1 << 20
_LEAST_POSITIONS = 64  # of a message, but for the last; a step adds at most MAX_OBSERVED


@dataclass(slots=True)
class _Run:
    """What a stream remembers of a run."""

    span: trace.Span
    is_background: bool
    num_to_report: int  # consultations that its responses may still carry


@dataclass(slots=True, eq=False)
class _Stream:
    """One Decode call: the pieces of its runs in order, and the run that goes on (ticket 0: none does).

    `ended` is set when the client will send no more. None in `pieces` wakes the writer.
    """

    pieces: asyncio.Queue[tuple[int, Piece] | None] = field(default_factory=asyncio.Queue)
    ticket: int = 0
    session_id: str = ""
    ended: bool = False
    failure: Exception | None = None
    runs: dict[int, _Run] = field(default_factory=dict)  # by ticket, until they have finished

    @property
    def is_running(self) -> bool:
        return self.ticket != 0

    def put(self, ticket: int, piece: Piece) -> None:
        """Takes a piece from the driver, as the sink of this stream's runs."""
        if ticket == self.ticket and piece.end is not None:
            self.ticket = 0
        self.pieces.put_nowait((ticket, piece))


@dataclass(frozen=True, slots=True)
class Card:
    """What a worker says of its model, once and for all."""

    info: worker_pb2.GetInfoResponse  # the reply to GetInfo, without what changes
    tokenizer: worker_pb2.GetTokenizerResponse  # the reply to GetTokenizer in one piece


@dataclass(frozen=True, eq=False)
class WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    """The contract of worker.proto over an engine."""

    _driver: EngineDriver
    _card: Card
    _heads: HeadTable
    _grammars: Grammars
    _tracer: trace.Tracer
    _metrics: WorkerMetrics
    _draining: Draining
    _shallow: bool  # serves the SLM of a model with shared layers

    async def Step(self, request: worker_pb2.StepRequest, context: Any) -> worker_pb2.StepResponse:
        """Appends tokens and returns the distribution after them."""
        run = self._of_role(messages.step_request(request, self._card.info.vocab_size))
        done: asyncio.Future[Piece] = asyncio.get_running_loop().create_future()
        ticket = self._driver.submit(run, lambda _, piece: None if done.done() else done.set_result(piece))
        try:
            with self._draining.visit(Call()):
                end = (await done).end
        except asyncio.CancelledError:
            self._driver.cancel(ticket)
            raise
        if isinstance(end, RunFailed):
            raise _refusal(end.error)
        assert end is not None, "a step keeps no token"
        return messages.step_response(end)

    async def Decode(
        self, request_iterator: AsyncIterator[worker_pb2.DecodeRequest], context: Any
    ) -> AsyncIterator[worker_pb2.DecodeResponse]:
        """Serves the runs of one session, one after another; a new one ends the one before."""
        stream = _Stream()
        reader = asyncio.create_task(self._read(stream, request_iterator))
        try:
            with self._draining.visit(stream):
                async for response in self._responses(stream):
                    yield response
        finally:
            reader.cancel()
            if stream.ticket:
                self._driver.cancel(stream.ticket)
            self._driver.leave(stream.session_id)
            for run in stream.runs.values():
                run.span.end()

    async def DecodeMany(
        self, request_iterator: AsyncIterator[worker_pb2.DecodeManyRequest], context: Any
    ) -> AsyncIterator[worker_pb2.DecodeManyResponse]:
        """Serves the streams of many sessions as one call."""
        async with aclosing(Many(lambda runs: self.Decode(runs, context)).serve(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def Observe(
        self, request: worker_pb2.ObserveRequest, context: Any
    ) -> AsyncIterator[worker_pb2.ObserveResponse]:
        """Tells what the model would have written along given tokens, several steps in a message."""
        run = messages.observe_request(request, self._card.info.vocab_size, self._card.info.context_length)
        response = worker_pb2.ObserveResponse()
        with ObserveSpan(self._tracer, run, self._metrics) as span, self._draining.visit(Call()):
            try:
                async with aclosing(observed(self._driver, self._of_role(run), span.add_slice)) as events:
                    async for event in events:
                        span.add(event)
                        response.consultations.extend(messages.observations(event))
                        response.num_positions += event.num_positions
                        if response.num_positions >= _LEAST_POSITIONS:
                            yield response
                            response = worker_pb2.ObserveResponse()
            except EngineError as error:
                raise _refusal(error) from error
        if response.num_positions:
            yield response

    async def ForkSession(self, request: worker_pb2.ForkSessionRequest, context: Any) -> worker_pb2.ForkSessionResponse:
        """Begins a session with another's tokens and what is computed of them."""
        fork = messages.fork_request(request)
        try:
            held, num_cached = await self._driver.ask(lambda engine: engine.fork_session(fork))
        except EngineError as error:
            raise messages.to_rstitch_error(error) from error
        return worker_pb2.ForkSessionResponse(held=held, num_cached_tokens=num_cached)

    async def CloseSession(
        self, request: worker_pb2.CloseSessionRequest, context: Any
    ) -> worker_pb2.CloseSessionResponse:
        """Forgets a session and frees its pages; a run of it that is going on fails."""
        self._grammars.forget(request.session_id)
        return worker_pb2.CloseSessionResponse(held=await self._driver.close_session(request.session_id))

    async def PutHead(self, request: worker_pb2.PutHeadRequest, context: Any) -> worker_pb2.PutHeadResponse:
        self._heads.put(request.name, request.data)
        return worker_pb2.PutHeadResponse()

    async def Drain(self, request: worker_pb2.DrainRequest, context: Any) -> worker_pb2.DrainResponse:
        """Asks to get no new sessions, or takes that back; says what is left of those that are here."""
        if request.undo:
            self._draining.undo()
        else:
            self._draining.begin()
        return worker_pb2.DrainResponse(num_running=self._draining.num_running, num_streams=self._draining.num_streams)

    async def GetInfo(self, request: worker_pb2.GetInfoRequest, context: Any) -> worker_pb2.GetInfoResponse:
        """Tells the model, and the engine's room and counters at this moment."""
        capacity, counters = await self._driver.ask(messages.state_of)
        response = worker_pb2.GetInfoResponse()
        response.CopyFrom(self._card.info)
        response.draining = self._draining.is_on
        response.capacity.CopyFrom(messages.capacity(capacity))
        response.counters.CopyFrom(messages.counters(counters))
        return response

    async def GetTokenizer(
        self, request: worker_pb2.GetTokenizerRequest, context: Any
    ) -> AsyncIterator[worker_pb2.GetTokenizerResponse]:
        # The file goes in parts; all else is in the first.
        data = self._card.tokenizer.data
        yield worker_pb2.GetTokenizerResponse(
            data=data[:_TOKENIZER_CHUNK_BYTES],
            chat_template=self._card.tokenizer.chat_template,
            special_tokens=dict(self._card.tokenizer.special_tokens),
            early_exit=self._card.tokenizer.early_exit,
            named_templates=dict(self._card.tokenizer.named_templates),
        )
        for start in range(_TOKENIZER_CHUNK_BYTES, len(data), _TOKENIZER_CHUNK_BYTES):
            yield worker_pb2.GetTokenizerResponse(data=data[start : start + _TOKENIZER_CHUNK_BYTES])

    async def _read(self, stream: _Stream, requests: AsyncIterator[worker_pb2.DecodeRequest]) -> None:
        """Submits the runs of a stream as they come; each supersedes the one before."""
        try:
            async for message in requests:
                run = self._of_role(messages.decode_request(message, self._card.info.vocab_size, self._heads))
                if (asked := messages.asked_grammar(message)) is not None:
                    run = replace(run, grammar=await self._grammars.of(run.session_id, asked))
                if stream.session_id not in ("", run.session_id):
                    told = f"this stream serves session {stream.session_id}, not {run.session_id}."
                    raise invalid("session_id", told, "Open one stream per session.")
                stream.session_id = run.session_id
                if stream.ticket:
                    self._driver.supersede(stream.ticket)
                stream.ticket = self._driver.submit(run, stream.put)
                span = open_span(self._tracer, run, message.traceparent)
                stream.runs[stream.ticket] = _Run(span, run.is_background, num_to_report(message.handoff.terms))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer raises it to the interceptor
            stream.failure = error
        stream.ended = True
        stream.pieces.put_nowait(None)

    async def _responses(self, stream: _Stream) -> AsyncIterator[worker_pb2.DecodeResponse]:
        """Yields messages, each with everything that has come since the one before, up to a run's end."""
        pieces = stream.pieces
        while not (stream.ended and not stream.ticket and pieces.empty()):
            response = worker_pb2.DecodeResponse()
            failure: Exception | None = None
            item = await pieces.get()
            while item is not None:
                ticket, piece = item
                response.tokens.extend(piece.tokens)
                response.entropies.extend(piece.entropies)
                response.logprobs.extend(piece.logprobs)
                response.uncertainties.extend(piece.uncertainties)
                response.alternatives.extend(messages.alternatives(each) for each in piece.alternatives)
                run = stream.runs[ticket]
                verdicts = piece.verdicts[: run.num_to_report]
                run.num_to_report -= len(verdicts)
                response.consultations.extend(consultation(*told) for told in verdicts)
                if isinstance(piece.end, RunFinished):
                    response.finish.CopyFrom(messages.finish(piece.end))
                    close_span(run.span, piece.end)
                    self._metrics.record_run(piece.end.timing, run.is_background)
                    del stream.runs[ticket]
                    break
                if piece.end is not None:
                    failure = _refusal(piece.end.error)
                    fail_span(run.span, failure)
                    break
                item = None if pieces.empty() else pieces.get_nowait()
            if response.tokens or response.HasField("finish"):
                yield response
            failure = failure or stream.failure
            if failure is not None:
                raise failure

    def _of_role(self, run: RunRequest) -> RunRequest:
        return replace(run, shallow=True) if self._shallow else run


def _refusal(error: Exception) -> RstitchError:
    """Returns the status for the caller; a failed forward, which the caller cannot look into, also goes to the log."""
    if isinstance(error, ForwardFailed):
        _log.error("forward failed", exc_info=error)
    return messages.to_rstitch_error(error)
