"""The sessions of this router: begins answers, goes on with those that were broken off, lets readers join, drains.

At most one router writes a session, and in it at most one task. It knows no wire.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakValueDictionary

import structlog

from router_svc.access.account import Admission
from router_svc.access.quotas import Quotas
from router_svc.answers import refusals
from router_svc.answers.assembly import Assembly, ClaimedAnswer
from router_svc.answers.events import context_of
from router_svc.answers.log import AnswerLog, chunks_of_answer
from router_svc.answers.observing import Observing
from router_svc.answers.preparation import Preparation, check_same, read_session
from router_svc.answers.request import Question, Reattach, check_within
from router_svc.answers.running import RunningAnswer
from router_svc.observers.observer import AnswerObserver
from router_svc.observers.trace import GenerationTrace, begin_trace
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.budget import NO_BUDGET
from router_svc.policies.heads import NamedHead
from router_svc.policies.kinds import Learned
from router_svc.policies.policy import Policy
from router_svc.policies.stored_heads import StoredHeads
from router_svc.settings import RouterSettings
from router_svc.trajectory.errors import deleted
from router_svc.trajectory.lease import Lease
from router_svc.trajectory.store import Cursor, Owned, OwnedElsewhere, TrajectoryStore
from router_svc.trajectory.types import Chunk, Finished, Header, Label, Source, State, Trajectory, entropies_of
from router_svc.trajectory.usage import Usage
from router_svc.workers.pair import WorkerPair
from router_svc.workers.run_ahead import RunAheadGate
from router_svc.workers.session import BackgroundWork
from rstitch.errors import RstitchError
from rstitch.service.metrics import NO_METRICS, Metrics
from rstitch.service.telemetry import Telemetry

_log = structlog.get_logger(__name__)
_OWNER_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Observers:
    """Who looks on while this process writes answers, and by which clock (monotonic, in s)."""

    telemetry: Telemetry
    metrics: Metrics = NO_METRICS
    clock: Callable[[], float] = time.monotonic


class Sessions:
    """All answers that this router writes."""

    def __init__(
        self,
        settings: RouterSettings,
        pair: WorkerPair,
        store: TrajectoryStore,
        lease: Lease,
        heads: StoredHeads,
        observers: Observers,
        quotas: Quotas,
    ) -> None:
        self._settings = settings
        self._pair = pair
        self._store = store
        self._lease = lease
        self._quotas = quotas
        self._telemetry = observers.telemetry
        self.clock = observers.clock
        self.observer = AnswerObserver(pair, settings.guard, observers.clock, observers.metrics)
        gate = RunAheadGate(
            settings.run_ahead, settings.run_ahead_tokens, settings.run_ahead_max_running, lambda: self.num_running
        )
        self._preparation = Preparation(settings, pair, heads, lambda: self.observer.price(self._load))
        seen_by = (observers.telemetry, observers.metrics)
        self.observing = Observing(self._preparation, store, quotas, self._check_open, *seen_by)
        self._assembly = Assembly(settings, pair, store, BackgroundWork(settings.catch_up_tokens, gate), self.clock)
        self._running: dict[str, RunningAnswer] = {}
        self._num_beginning = 0  # answers that will be running soon
        self._stale: list[RunningAnswer] = []  # the store may still think that they run
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._draining = False

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def _load(self) -> int:
        """Counts the answers that are being written or about to be."""
        return len(self._running) + self._num_beginning

    async def begin(self, question: Question, started: float) -> AnswerLog:
        """Starts an answer to a request that came at `started`. Raises RstitchError for anything in the way."""
        self._check_open()
        if self._load >= self._settings.max_running:
            raise refusals.too_many_answers(self._load, self._settings.max_running)
        self._num_beginning += 1
        try:
            return await self._begin(question, started)
        finally:
            self._num_beginning -= 1

    async def _begin(self, question: Question, started: float) -> AnswerLog:
        session_id = question.session_id or uuid.uuid4().hex
        async with self._lock(session_id), self._quotas.admission(session_id) as admission:
            if session_id in self._running:
                raise refusals.session_running(session_id)
            await admission.enter()
            # Whatever is refused from here on is in the trace, with the error.
            trace = begin_trace(self._telemetry)
            try:
                policy, head = await self._preparation.settle_policy(question.policy, session_id)
                is_bounded = question.budget != NO_BUDGET
                guard = False if _explores(policy) else question.guard
                policy, guard_reason = self.observer.choose_policy(
                    policy, guard, self._load, session_id, is_bounded=is_bounded
                )
                decided = replace(question, policy=policy)
                begin = partial(self._try_begin, session_id, decided, head, guard_reason, admission, trace, started)
                return await self._claimed(session_id, begin, refusals.session_running(session_id))
            except RstitchError as error:
                trace.end(error)
                raise
            finally:
                self.observer.settled(session_id)

    async def attach(self, asked: Reattach, started: float) -> AnswerLog:
        """The last answer of a session, gone on with if its router is gone. Raises RstitchError."""
        self._check_open()
        async with self._lock(asked.session_id), self._quotas.admission(asked.session_id) as admission:
            running = self._running.get(asked.session_id)
            if running is not None:
                check_within(asked, running.log.length)
                return running.log
            elsewhere = refusals.owned_elsewhere(asked.session_id, self._lease.lease_s)
            attach = partial(self._try_attach, asked, admission, started)
            return await self._claimed(asked.session_id, attach, elsewhere)

    async def trajectory(self, session_id: str) -> Trajectory:
        """The trajectory as it is stored. Raises RstitchError (NOT_FOUND)."""
        trajectory = await self._store.trajectory(session_id)
        if trajectory is None:
            raise refusals.unknown_session(session_id)
        return trajectory

    async def page(self, num: int, before: Cursor | None, *, labelled: bool) -> tuple[list[Header], Cursor | None]:
        return await self._store.page(num, before, labelled=labelled)

    async def label(self, session_id: str, label: Label | None) -> None:
        """Says whether the last answer was right; None takes that back. Raises RstitchError unless it is finished."""
        state = await self._store.label(session_id, label)
        if state is None:
            raise refusals.unknown_session(session_id)
        if state is not State.FINISHED:
            raise refusals.not_finished(session_id, state)

    async def delete(self, session_id: str) -> None:
        """Stops and forgets a session, here, in the store and on the workers. Raises RstitchError (NOT_FOUND)."""
        async with self._lock(session_id):
            running = self._running.get(session_id)
            if running is not None:
                running.interrupt(deleted(session_id))
                await asyncio.wait({running.task})
            if not await self._store.delete(session_id):
                raise refusals.unknown_session(session_id)
            # Below the lock: a question that begins the session anew must not lose its run to this.
            await self._pair.forget(session_id)

    async def tidy(self) -> None:
        """Marks answers as interrupted that the store could not be told of when they were."""
        while self._stale:
            running = self._stale[0]
            if not await running.release():
                return
            self._stale.remove(running)

    async def drain(self) -> None:
        self._draining = True
        running = list(self._running.values())
        for answer in running:
            answer.interrupt(refusals.router_draining())
        if running:
            await asyncio.wait({answer.task for answer in running})
        await self._lease.resign()

    def _check_open(self) -> None:
        if self._draining:
            raise refusals.router_draining()
        self._pair.check_ready()

    def _lock(self, session_id: str) -> asyncio.Lock:
        return self._locks.setdefault(session_id, asyncio.Lock())

    async def _claimed(
        self,
        session_id: str,
        attempt: Callable[[], Awaitable[AnswerLog | OwnedElsewhere | None]],
        refusal: RstitchError,
    ) -> AnswerLog:
        """Tries until the session is ours. Raises `refusal` if another router lives and writes it.

        At most one router may write. Whoever claims a session raises its epoch, and every append names an epoch, so a
        router that was only slow is fenced off by Redis itself. To leave a living one in peace we look at its lease:

            left_ms falls from look to look    nobody renews it: the router is gone, and at 0 the claim succeeds
            left_ms has grown                  it was renewed in between: that router lives
        """
        lease_ms: int | None = None
        while True:
            match await attempt():
                case AnswerLog() as log:
                    return log
                case OwnedElsewhere(left_ms):
                    if lease_ms is not None and left_ms > lease_ms:
                        raise refusal
                    if lease_ms is None:
                        _log.info("waiting for the lease of another router", session_id=session_id, lease_ms=left_ms)
                    lease_ms = left_ms
                    await asyncio.sleep(min(_OWNER_POLL_S, left_ms / 1000 + 0.001))
                case None:
                    _log.debug("changed meanwhile, reading again", session_id=session_id)

    async def _try_begin(
        self,
        session_id: str,
        question: Question,
        head: NamedHead | None,
        guard_reason: str,
        admission: Admission,
        trace: GenerationTrace,
        started: float,
    ) -> AnswerLog | OwnedElsewhere | None:
        asked = self.clock()
        before = await self._store.trajectory(session_id) if question.session_id else None
        read_s = self.clock() - asked
        vocabularies = self._pair.vocabularies  # once: a worker may come back as another model meanwhile
        prompt = await self._preparation.prompt(question, vocabularies, before)
        length = before.header.length if before else 0
        start = length + len(prompt.tokens)
        prepared = await self._preparation.prepare(
            question, vocabularies, prompt, start, head, guard_reason, trace.traceparent
        )
        usage = Usage(num_prompt_tokens=start)
        chunk = Chunk(Source.PROMPT, length, prompt.tokens, entropies_of(), notes=prompt.notes)
        chunks = [*(before.chunks if before else ()), chunk]
        session = await read_session(chunks, vocabularies)
        asked = self.clock()
        of = (before.header if before else None, session_id, self._lease.router_id)
        owned = await self._store.claim(*of, prepared.settings.to_json(), usage, [chunk])
        if not isinstance(owned, Owned):
            return owned
        claimed = ClaimedAnswer(session_id, prepared, chunks, session, owned, False, usage, trace, admission)
        return self._start(claimed, started, read_s + self.clock() - asked)

    async def _try_attach(
        self, asked: Reattach, admission: Admission, started: float
    ) -> AnswerLog | OwnedElsewhere | None:
        since = self.clock()
        trajectory = await self.trajectory(asked.session_id)
        header = trajectory.header
        check_within(asked, header.length)
        settings, vocabularies = AnswerSettings.from_json(header.settings), self._pair.vocabularies
        if header.state is State.FINISHED:
            check_same(settings, vocabularies)
            chunks = chunks_of_answer(trajectory.chunks, settings.start)
            context = context_of(trajectory.chunks, settings.start, vocabularies.answer_tokenizers)
            tokenizers = vocabularies.answer_tokenizers
            return AnswerLog(asked.session_id, settings, context, tokenizers, chunks, header.finished)
        await admission.enter(resumes=True)
        prepared = await self._preparation.prepare_again(settings, vocabularies, asked.session_id)
        chunks = list(trajectory.chunks)
        session = await read_session(chunks, vocabularies)
        # Counted on: what the router before spent belongs to the same answer.
        usage = header.usage.copy()
        router_id = self._lease.router_id
        owned = await self._store.claim(header, asked.session_id, router_id, header.settings, usage, [])
        if not isinstance(owned, Owned):
            return owned
        trace = begin_trace(self._telemetry, settings.traceparent)
        claimed = ClaimedAnswer(asked.session_id, prepared, chunks, session, owned, True, usage, trace, admission)
        return self._start(claimed, started, self.clock() - since)

    def _start(self, claimed: ClaimedAnswer, started: float, claim_s: float) -> AnswerLog:
        """The session is ours: from here to the task's start nothing is awaited, so nothing can come between."""
        writing = self._assembly.assemble(claimed, started, claim_s)
        settings = claimed.prepared.settings
        # One that may end early, or may not take of the LLM what it would, or explores, is no measure of others.
        bounded = claimed.prepared.exit_rules is not None or settings.budget != NO_BUDGET
        is_usual = not bounded and not _explores(settings.policy)
        whole = is_usual and writing.log.length == settings.start
        self.observer.answer_began(claimed.session_id, settings.policy, whole)
        running = RunningAnswer(writing, self._settings.detach_grace_s, self._ended)
        self._running[claimed.session_id] = running
        if self._draining:  # since it was asked for
            running.interrupt(refusals.router_draining())
        return writing.log

    def _ended(self, running: RunningAnswer, outcome: Finished | RstitchError, stale: bool) -> None:
        del self._running[running.session_id]
        self.observer.answer_ended(running.session_id, running.log.settings, outcome)
        if stale:
            self._stale.append(running)


def _explores(policy: Policy) -> bool:
    """Whether decisions are drawn: such an answer is repeated by its seed, whatever the guard would choose."""
    return isinstance(policy, Learned) and policy.explore_seed is not None
