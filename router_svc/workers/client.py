"""A model worker as the router sees it; the edge where the messages of worker.proto stop.

It sends runs and hands back replies. It does not know who writes, nor what to do about an error.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict
from typing import Any
from weakref import WeakSet

import grpc
import structlog

from router_svc.policies.policy import Handoff
from router_svc.text.tokenizer import TokenizerFiles
from router_svc.trajectory.consultations import Consultation
from router_svc.trajectory.details import Alternatives
from router_svc.trajectory.types import Model, Signal
from router_svc.workers.connection import Connection
from router_svc.workers.informing import files_of, info_of
from router_svc.workers.kept_heads import KeptHeads
from router_svc.workers.runs import PendingRun, Proposal, Reply, Run, RunEnd, RunFinish, WorkerInfo
from rstitch.errors import RstitchError, from_rpc_error
from rstitch.v1 import common_pb2, worker_pb2, worker_pb2_grpc

_log = structlog.get_logger(__name__)
# Fields that the contract's messages have under the same names.
_TIMING_FIELDS = (
    "queue_us",
    "forward_us",
    "host_us",
    "wait_us",
    "total_us",
    "num_cached_tokens",
    "num_computed_tokens",
)
_TRANSPORT_CODES = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)


class DecodeStream:
    """One Decode call: runs go out at once, replies go to their runs as they come. Nothing waits for the caller."""

    pending: type[PendingRun] = PendingRun  # a subclass may have runs of its own

    def __init__(self, stub: worker_pb2_grpc.WorkerServiceStub, session_id: str) -> None:
        self._session_id = session_id
        self._outgoing: asyncio.Queue[worker_pb2.DecodeRequest | None] = asyncio.Queue()
        self._runs: deque[PendingRun] = deque()  # oldest first; each ends with exactly one finish
        self._failure: RstitchError | None = None
        self._unsent: RstitchError | None = None  # why the writer gave up
        self._closed = False
        self._call: Any = stub.Decode()
        self._reader = asyncio.create_task(self._read(), name=f"decode-{session_id}")
        self._writer = asyncio.create_task(self._write(), name=f"decode-requests-{session_id}")

    @property
    def broken(self) -> bool:
        """Whether the call is over: open a new one."""
        return self._failure is not None

    @property
    def lost(self) -> bool:
        """Whether it is over because the worker went away."""
        return self._failure is not None and is_lost(self._failure)

    def start(self, run: Run) -> PendingRun:
        """Sends a run; one that is still going on ends first (SUPERSEDED)."""
        pending = self.pending(len(run.tokens))
        if self._failure is not None:
            pending.fail(self._failure)
            return pending
        self._runs.append(pending)
        self._outgoing.put_nowait(_decode_request(self._session_id, run))
        return pending

    def lose(self, error: RstitchError) -> None:
        """Ends it because the worker is known to be gone: its runs fail with `error`."""
        self._unsent = error
        self._call.cancel()

    async def close(self) -> None:
        """Stops the work at once; the session stays on the worker, evictable."""
        if self._closed:
            return
        self._closed = True
        self._call.cancel()
        self._reader.cancel()
        self._writer.cancel()
        await asyncio.wait({self._reader, self._writer})

    async def _write(self) -> None:
        try:
            while (request := await self._outgoing.get()) is not None:
                await self._call.write(request)
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):  # the call is over: the reader is told why
            return
        except Exception as exc:  # noqa: BLE001 - whatever it is: a run must never wait for ever
            self._unsent = _broken("a run could not be sent", exc)
            self._call.cancel()

    async def _read(self) -> None:
        try:
            async for message in self._call:
                reply = _reply(message)
                run = self._runs[0]
                if reply.finish is not None:
                    self._runs.popleft()
                run.feed(reply)
            error = RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "the worker ended the stream.")
        except grpc.aio.AioRpcError as exc:
            error = from_rpc_error(exc)
        except Exception as exc:  # noqa: BLE001 - whatever a broken message leads to: a run must never wait for ever
            error = _broken("the worker broke the contract", exc)
        except asyncio.CancelledError:
            error = RstitchError(grpc.StatusCode.CANCELLED, "CLOSED", "the stream was closed.")
        self._failure = error = self._unsent or error
        self._outgoing.put_nowait(None)
        while self._runs:
            self._runs.popleft().fail(error)


# Makes the stream of a session; a benchmark or a test may pass streams of its own.
OpenStream = Callable[[worker_pb2_grpc.WorkerServiceStub, str], DecodeStream]


class WorkerClient:
    """The connection to the worker that should be `model`. Every method raises RstitchError; none retries."""

    def __init__(
        self,
        model: Model,
        connection: Connection,
        stream: OpenStream = DecodeStream,
        heads: KeptHeads | None = None,
    ) -> None:
        self.model = model
        self.address = connection.address
        self._streams: WeakSet[DecodeStream] = WeakSet()
        self._open_stream = stream
        self._connection = connection
        self._channel: Any = None  # that of the stub
        self._heads = KeptHeads() if heads is None else heads

    @property
    def _stub(self) -> worker_pb2_grpc.WorkerServiceStub:
        channel = self._connection.channel
        if channel is not self._channel:
            self._channel, self._made = channel, worker_pb2_grpc.WorkerServiceStub(channel)
        return self._made

    async def info(self, timeout_s: float = 5.0) -> WorkerInfo:
        try:
            message = await self._stub.GetInfo(worker_pb2.GetInfoRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        return info_of(message)

    async def drain(self, *, undo: bool, timeout_s: float = 5.0) -> tuple[int, int]:
        """Lets the worker take no new sessions, or again some. Returns how many runs and streams it has yet."""
        try:
            left = await self._stub.Drain(worker_pb2.DrainRequest(undo=undo), timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        return left.num_running, left.num_streams

    async def tokenizer(self, timeout_s: float = 60.0) -> TokenizerFiles:
        call = self._stub.GetTokenizer(worker_pb2.GetTokenizerRequest(), timeout=timeout_s)
        try:
            messages = [message async for message in call]
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        return files_of(messages or [worker_pb2.GetTokenizerResponse()])

    def open(self, session_id: str) -> DecodeStream:
        """A stream of runs for one session; a worker that is not there fails its first run."""
        stream = self._open_stream(self._stub, session_id)
        self._streams.add(stream)
        return stream

    async def observe(
        self, tokens: array[int], start: int, *, above: float, masked_tokens: Sequence[int], cache_salt: str
    ) -> AsyncGenerator[tuple[list[Consultation], int], None]:
        """Yields what the model thought along `tokens` from `start` on, and how many positions each is of.

        Told are those with an entropy over `above`; their positions count `tokens`.
        """
        call = self._stub.Observe(
            worker_pb2.ObserveRequest(
                tokens=tokens, start=start, above=above, masked_tokens=masked_tokens, cache_salt=cache_salt
            )
        )
        try:
            async for message in call:
                yield [_consultation(each) for each in message.consultations], message.num_positions
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        finally:
            call.cancel()

    async def put_head(self, name: str, timeout_s: float = 5.0) -> None:
        """Sends a head that is kept, once the worker says that it does not know it."""
        request = worker_pb2.PutHeadRequest(name=name, data=self._heads.get(name))
        try:
            await self._stub.PutHead(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc

    async def close_session(self, session_id: str, timeout_s: float = 2.0) -> None:
        try:
            await self._stub.CloseSession(worker_pb2.CloseSessionRequest(session_id=session_id), timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc

    def lose(self) -> None:
        """The worker is gone, and nothing that it may still say is to be heard."""
        error = RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "the worker is not in the fleet any more.")
        for stream in list(self._streams):
            stream.lose(error)

    async def close(self, grace_s: float | None = None) -> None:
        """Closes the connection; calls in flight are cancelled, after `grace_s` if that is given."""
        await self._connection.close(grace_s)


def _broken(what: str, error: Exception) -> RstitchError:
    _log.error(what, exc_info=error)
    remedy = "Run workers and router of one version; the router's log has more."
    return RstitchError(grpc.StatusCode.INTERNAL, "PROTOCOL", f"{what}.", remedy=remedy)


def is_lost(error: RstitchError) -> bool:
    """Whether the worker went away, and not only refused."""
    return error.code is grpc.StatusCode.UNAVAILABLE or (error.reason == "TRANSPORT" and error.code in _TRANSPORT_CODES)


def _decode_request(session_id: str, run: Run) -> worker_pb2.DecodeRequest:
    handoff, how = run.handoff, run.sampling
    return worker_pb2.DecodeRequest(
        session_id=session_id,
        position=run.position,
        tokens=run.tokens + run.prompt,
        sampling=common_pb2.Sampling(
            temperature=how.temperature,
            top_p=how.top_p,
            top_k=how.top_k,
            seed=how.seed,
            position_offset=run.position_offset,
            min_p=how.min_p,
            logit_bias=dict(how.logit_bias),
            presence_penalty=how.presence_penalty,
            frequency_penalty=how.frequency_penalty,
            repetition_penalty=how.repetition_penalty if how.repetition_penalty != 1 else 0,
            penalized_from=run.penalized_from,
        ),
        max_tokens=run.max_tokens,
        handoff=_handoff(handoff) if handoff is not None else None,
        prefix_checksum=run.prefix_checksum,
        traceparent=run.traceparent,
        priority=worker_pb2.PRIORITY_BACKGROUND if run.background else worker_pb2.PRIORITY_UNSPECIFIED,
        stop_tokens=run.stop_tokens,
        draft=run.draft,
        cache_salt=run.cache_salt,
        masked_tokens=run.masked_tokens,
        top_logprobs=run.top_logprobs,
        grammar=worker_pb2.Grammar(**asdict(run.grammar)) if run.grammar is not None else None,
    )


def _handoff(handoff: Handoff) -> worker_pb2.Handoff:
    return worker_pb2.Handoff(
        above=handoff.above,
        below=handoff.below,
        signal=common_pb2.Signal.Name(handoff.signal.value) if handoff.signal is not Signal.ENTROPY else None,
        window=handoff.window,
        recent_entropies=handoff.recent,
        hidden_state=handoff.hidden_state,
        head=handoff.head,
        terms=worker_pb2.HeadTerms(**asdict(handoff.terms)) if handoff.head and handoff.terms is not None else None,
    )


def _reply(message: worker_pb2.DecodeResponse) -> Reply:
    finish: RunFinish | None = None
    if message.HasField("finish"):
        ended = message.finish
        finish = RunFinish(
            end=RunEnd(ended.reason),
            held=ended.held,
            proposal=_proposal(ended.proposal) if ended.HasField("proposal") else None,
            num_accepted=ended.num_accepted,
            num_consultations=ended.num_consultations,
            **{name: getattr(ended.timing, name) for name in _TIMING_FIELDS},
        )
    # Slices, not lists of them, and no loop over what most replies have none of: there is a reply for each token.
    logprobs: Any = message.logprobs[:]
    return Reply(
        message.tokens[:],
        message.entropies[:],
        finish,
        message.uncertainties[:],
        logprobs,
        [_consultation(each) for each in message.consultations] if message.consultations else [],
        [_alternatives(each) for each in message.alternatives] if message.alternatives else [],
    )


def _alternatives(message: worker_pb2.Alternatives) -> Alternatives:
    return tuple(zip(message.tokens, message.logprobs, strict=True))


def _consultation(message: common_pb2.Consultation) -> Consultation:
    plain = {name: getattr(message, name) for name in Consultation.__slots__ if name != "features"}
    return Consultation(features=tuple(message.features), **plain)


def _proposal(message: worker_pb2.Proposal) -> Proposal:
    # 0 is unset: the signal is the entropy. What is taken from here is only shown.
    uncertainty = message.uncertainty or message.entropy
    others = _alternatives(message.alternatives)
    return Proposal(message.token, message.entropy, uncertainty, message.hidden_state, message.logprob, others)
