"""The runs of one session on one worker, as a call of its own or as one of many that share a call.

Here the messages of a run stop: it sends runs and hands back replies. It does not know who writes, nor what to do about
an error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import grpc

from router_svc.policies.policy import Handoff
from router_svc.trajectory.consultations import Consultation
from router_svc.trajectory.details import Alternatives
from router_svc.trajectory.types import Signal
from router_svc.workers.many import DecodeMany
from router_svc.workers.runs import PendingRun, Proposal, Reply, Run, RunEnd, RunFinish
from router_svc.workers.sending import broken, send_all
from rstitch.errors import RstitchError, from_rpc_error
from rstitch.v1 import common_pb2, worker_pb2, worker_pb2_grpc

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
        self._runs: deque[PendingRun] = deque()  # oldest first; each ends with exactly one finish
        self._failure: RstitchError | None = None
        self._closed = False
        self._open(stub)

    def _open(self, stub: Any) -> None:
        self._outgoing: asyncio.Queue[worker_pb2.DecodeRequest | None] = asyncio.Queue()
        self._unsent: RstitchError | None = None  # why the writer gave up
        self._call: Any = stub.Decode()
        session_id = self._session_id
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
        self._send(_decode_request(self._session_id, run))
        return pending

    def _send(self, request: worker_pb2.DecodeRequest) -> None:
        self._outgoing.put_nowait(request)

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
        # Who was told that the worker is gone knows better than a call that is over by then.
        self._unsent = await send_all(self._call, self._outgoing) or self._unsent

    async def _read(self) -> None:
        try:
            async for message in self._call:
                self._take(message)
            error = RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "the worker ended the stream.")
        except grpc.aio.AioRpcError as exc:
            error = from_rpc_error(exc)
        except Exception as exc:  # noqa: BLE001 - whatever a broken message leads to: a run must never wait for ever
            error = broken("the worker broke the contract", exc)
        except asyncio.CancelledError:
            error = RstitchError(grpc.StatusCode.CANCELLED, "CLOSED", "the stream was closed.")
        self._outgoing.put_nowait(None)
        self._fail(self._unsent or error)

    def _take(self, message: worker_pb2.DecodeResponse) -> None:
        reply = _reply(message)
        run = self._runs[0]
        if reply.finish is not None:
            self._runs.popleft()
        run.feed(reply)

    def _fail(self, error: RstitchError) -> None:
        self._failure = error
        while self._runs:
            self._runs.popleft().fail(error)


class StreamOfMany(DecodeStream):
    """The same as one of the streams of a DecodeMany call."""

    def __init__(self, many: DecodeMany, session_id: str) -> None:
        super().__init__(many, session_id)  # type: ignore[arg-type]

    def _open(self, stub: DecodeMany) -> None:
        self._many = stub
        self._number = stub.open(self._take_part, self._fail)

    def _send(self, request: worker_pb2.DecodeRequest) -> None:
        self._many.send(self._number, request)

    def _take_part(self, message: worker_pb2.DecodeResponse) -> None:
        try:
            self._take(message)
        except Exception as exc:  # noqa: BLE001 - whatever it leads to, it is this stream's and no other's
            self.lose(broken("the worker broke the contract", exc))

    def lose(self, error: RstitchError) -> None:
        self._many.leave(self._number)
        self._fail(error)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.lose(RstitchError(grpc.StatusCode.CANCELLED, "CLOSED", "the stream was closed."))


class NoStream(DecodeStream):
    """That of a worker which is known to be gone, whether it still answers or not: its runs fail."""

    def __init__(self, error: RstitchError) -> None:
        # No call is opened, and no run is ever under way.
        self._failure, self._runs, self._closed = error, deque(), False

    def lose(self, error: RstitchError) -> None:
        """Does nothing: every run has failed as it was started."""

    async def close(self) -> None:
        self._closed = True


# Makes the stream of a session; a benchmark or a test may pass streams of its own.
OpenStream = Callable[[worker_pb2_grpc.WorkerServiceStub, str], DecodeStream]


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
        [consultation_of(each) for each in message.consultations] if message.consultations else [],
        [_alternatives(each) for each in message.alternatives] if message.alternatives else [],
    )


def _alternatives(message: worker_pb2.Alternatives) -> Alternatives:
    return tuple(zip(message.tokens, message.logprobs, strict=True))


def consultation_of(message: common_pb2.Consultation) -> Consultation:
    """What a worker says that a head was asked, or would be."""
    plain = {name: getattr(message, name) for name in Consultation.__slots__ if name != "features"}
    return Consultation(features=tuple(message.features), **plain)


def _proposal(message: worker_pb2.Proposal) -> Proposal:
    # 0 is unset: the signal is the entropy. What is taken from here is only shown.
    uncertainty = message.uncertainty or message.entropy
    others = _alternatives(message.alternatives)
    return Proposal(message.token, message.entropy, uncertainty, message.hidden_state, message.logprob, others)
