"""Runs: what a worker is asked to do and what comes back, as the router's own values. It knows no wire."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from router_svc.policies.policy import Handoff
from router_svc.trajectory.consultations import Consultation
from router_svc.trajectory.details import Alternatives
from router_svc.trajectory.types import Model, Sampling, tokens_of
from rstitch.errors import RstitchError


class RunEnd(IntEnum):
    """Why a run ended, numbered as in the contract."""

    STOP = 1
    LENGTH = 2
    HANDOFF = 3
    SUPERSEDED = 4
    CONTEXT = 5


@dataclass(frozen=True, slots=True)
class SessionKey:
    """What workers know a session by, and the tenant that it belongs to."""

    session_id: str
    cache_salt: str = ""


@dataclass(frozen=True, slots=True)
class WorkerRoom:
    """How full a worker is. Free are the pages that somebody new could get: those of idle sessions, too."""

    num_pages: int = 0
    num_free_pages: int = 0
    num_running: int = 0  # runs, waiting ones included
    num_sessions: int = 0  # held, idle ones included


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself; sizes are in tokens. Of one instance all but the last two stay as they are."""

    role: Model | None
    model: str
    fingerprint: str
    vocab_size: int  # ids below it have a row in the model
    stop_tokens: frozenset[int]
    context_length: int
    dtype: str
    device: str
    num_parameters: int
    instance_id: str
    hidden_size: int = 0
    head_terms: bool = False  # whether it asks heads on the terms of a run; one that is older would ignore them
    grammars: bool = False  # whether it holds runs to grammars; likewise
    weights_fingerprint: str = ""  # "": of one that is older
    worker_id: str = ""  # its name in the fleet
    num_cards: int = 1
    draining: bool = field(default=False, compare=False)
    room: WorkerRoom = field(default_factory=WorkerRoom, compare=False)


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must be, as in the contract."""

    json_schema: str
    start: int  # the position on the worker where the answer begins
    thinking_end: str = ""
    thinking_begin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What a run is to do, wherever the worker stands in the session; tokens are the answer's ids."""

    max_tokens: int  # the most to decode; 0: only catch up
    handoff: Handoff | None = None
    stop_tokens: frozenset[int] = frozenset()  # those that end the run; none: the model's own
    traceparent: str = ""
    draft: array[int] = field(default_factory=tokens_of)  # to be verified after the tokens that are fed
    prompt: array[int] = field(default_factory=tokens_of)  # of a trial: fed after the session's and not part of it
    is_draft: bool = False  # nothing but the tokens is wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(RunSpec):
    """A run as one worker is sent it, in its own ids: append `tokens` at `position`, then do as the spec says."""

    position: int
    tokens: array[int]
    sampling: Sampling
    prefix_checksum: int  # of the session's tokens before `position`
    position_offset: int = 0  # added to a position before its token is drawn
    penalized_from: int = 0  # the position from which on tokens count for penalties
    masked_tokens: tuple[int, ...] = ()  # that the model is not to write
    cache_salt: str = ""  # the worker takes over what it has computed under this one only
    background: bool = False  # decodes only in rows that the worker has to spare
    top_logprobs: int = 0  # how many alternatives are to come with each token
    grammar: Grammar | None = None  # what the answer must be


@dataclass(frozen=True, slots=True)
class Proposal:
    """A token that a model would write and did not keep."""

    token: int
    entropy: float
    uncertainty: float  # by the hand-off's signal; the entropy where that is the signal
    hidden_state: bytes  # float32 little-endian, [hidden_size]; empty unless asked for
    logprob: float = 0.0
    alternatives: Alternatives = ()  # none unless asked for


@dataclass(frozen=True, slots=True)
class RunFinish:
    """How a run ended, with the worker's own timing."""

    end: RunEnd
    held: int  # tokens that the worker holds now
    proposal: Proposal | None  # the token that was not kept, under `Handoff.above`
    queue_us: int
    forward_us: int
    host_us: int
    wait_us: int
    total_us: int
    num_accepted: int = 0  # tokens of the draft that were kept
    num_consultations: int = 0  # how often the worker asked the hand-off's head
    num_cached_tokens: int = 0  # fed, and not computed: another session had them
    num_computed_tokens: int = 0  # put through the model, fed or decoded


@dataclass(slots=True)
class Reply:
    """What has come of a run since the last reply: kept tokens, then perhaps the finish.

    `uncertainties` is the hand-off's signal, one per token; empty where that is the entropy. `logprobs` has one per
    token, None where none was computed, and `alternatives` likewise, empty where none are asked for.
    """

    tokens: list[int]
    entropies: list[float]
    finish: RunFinish | None
    uncertainties: list[float] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    consultations: list[Consultation] = field(default_factory=list)  # of a head that the worker asked, if wanted
    alternatives: list[Alternatives] = field(default_factory=list)

    def part(self, begin: int, end: int | None = None) -> Reply:
        """Some of its tokens, and what is told of each; without what is told of the run."""
        return Reply(
            self.tokens[begin:end],
            self.entropies[begin:end],
            None,
            self.uncertainties[begin:end],
            self.logprobs[begin:end],
            alternatives=self.alternatives[begin:end],
        )

    def add(self, other: Reply) -> None:
        """Takes what has come since."""
        self.tokens += other.tokens
        self.entropies += other.entropies
        self.uncertainties += other.uncertainties
        self.logprobs += other.logprobs
        self.consultations += other.consultations
        self.alternatives += other.alternatives
        self.finish = other.finish


class PendingRun:
    """A run whose replies come. Made by `DecodeStream.start`."""

    __slots__ = ("_bug", "_replies", "_wake", "accepted", "early", "failure", "finish", "num_sent")

    def __init__(self, num_sent: int) -> None:
        self.num_sent = num_sent
        self.accepted = False
        self.finish: RunFinish | None = None
        self._replies: list[Reply] = []
        self.failure: RstitchError | None = None  # why no more will come, if it failed
        self._wake: asyncio.Future[None] | None = None
        # Called with a reply that is not the last one, if somebody awaits `next`, who is told what it returns, if
        # anything. So a token need not wait until the task of whoever takes it has its turn.
        self.early: Callable[[Reply], Reply | None] | None = None
        self._bug: Exception | None = None  # what it raised, to be raised by `next`

    async def next(self) -> Reply:
        """All that has come since the last call, at least something. Raises RstitchError when the run failed."""
        while not self._replies:
            if self._bug is not None:
                raise self._bug
            if self.failure is not None:
                raise self.failure
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        return self._taken()

    def poll(self) -> Reply | None:
        """As `next`, but None if nothing has come."""
        return self._taken() if self._replies else None

    def unread(self, reply: Reply) -> None:
        """Puts a reply back: the next read gets it first."""
        self._replies.insert(0, reply)

    def _taken(self) -> Reply:
        replies, self._replies = self._replies, []
        first = replies[0]
        for reply in replies[1:]:
            first.add(reply)
        return first

    def feed(self, reply: Reply) -> None:
        """Hands a reply from the wire to whoever awaits `next`."""
        self.accepted = True
        self.finish = reply.finish
        if self.early is not None and reply.finish is None and self._is_awaited:
            try:
                rest = self.early(reply)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is for whoever awaits the run
                self._bug = error
                self._awake()
                return
            if rest is None:
                return
            reply = rest
        self._replies.append(reply)
        self._awake()

    @property
    def _is_awaited(self) -> bool:
        return self._wake is not None and not self._wake.done()

    def fail(self, error: RstitchError) -> None:
        self.failure = error
        self._awake()

    def _awake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
