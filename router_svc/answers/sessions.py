"""The sessions of this router: begins answers, goes on with those that were broken off, lets readers join, drains.

At most one router writes a session, and in it at most one task. Sessions go by their names (`session_names`): what a
caller cannot name is not there for it. It knows no wire.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from dataclasses import replace
from functools import partial
from weakref import WeakValueDictionary

from router_svc.access.account import Admission
from router_svc.access.quotas import Quotas
from router_svc.answers import refusals
from router_svc.answers.assembly import Assembly, ClaimedAnswer
from router_svc.answers.claiming import OwnersLease, cancel_elsewhere, own
from router_svc.answers.claims import Claims
from router_svc.answers.following import Following, kept_answer
from router_svc.answers.kept import Kept
from router_svc.answers.log import AnswerLog
from router_svc.answers.observing import Observing
from router_svc.answers.preparation import Decided, Preparation
from router_svc.answers.repeated import Before, Repeats, asked_before, check_answer, check_question
from router_svc.answers.request import Question, Reattach
from router_svc.answers.running import RunningAnswer
from router_svc.answers.under_way import UnderWay
from router_svc.observers.observer import AnswerObserver, Observers
from router_svc.observers.trace import GenerationTrace, Tracing
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.budget import NO_BUDGET
from router_svc.policies.stored_heads import StoredHeads
from router_svc.settings import RouterSettings
from router_svc.trajectory.errors import Fenced, deleted
from router_svc.trajectory.lease import Lease
from router_svc.trajectory.session_names import session_name
from router_svc.trajectory.store import Owned, OwnedElsewhere, TrajectoryStore
from router_svc.trajectory.types import Ended, Finished, State
from router_svc.workers.bound import BoundSession
from router_svc.workers.fleet import Fleet
from router_svc.workers.run_ahead import RunAheadGate
from router_svc.workers.session import BackgroundWork
from rstitch.errors import RstitchError


class Sessions:
    """All answers that this router writes."""

    def __init__(
        self,
        settings: RouterSettings,
        fleet: Fleet,
        store: TrajectoryStore,
        lease: Lease,
        heads: StoredHeads,
        observers: Observers,
        quotas: Quotas,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._store = store
        self._lease = lease
        self._quotas = quotas
        self._tracing = Tracing(observers.telemetry, settings.trace_names == "exact", settings.trace_group)
        self.clock = observers.clock
        self.observer = AnswerObserver(fleet, settings.guard, observers.clock, observers.metrics)
        gate = RunAheadGate(
            settings.run_ahead, settings.run_ahead_tokens, settings.run_ahead_max_running, lambda: self.num_running
        )
        self.preparation = Preparation(settings, fleet, heads, lambda: self.observer.price(self._load))
        seen_by = (observers.telemetry, observers.metrics)
        self.observing = Observing(self.preparation, store, quotas, self._check_open, *seen_by)
        self._assembly = Assembly(settings, fleet, store, BackgroundWork(settings.catch_up_tokens, gate), self.clock)
        self.under_way = UnderWay()
        self._running: dict[str, RunningAnswer] = {}  # by name
        self.kept = Kept(store)
        self._repeats = Repeats(store, self._settings_of, self.clock)
        self._claims = Claims(store, lease.router_id)
        self._following = Following(store.tailing, settings.max_running)
        self._num_beginning = 0  # answers that will be running soon
        self._stale: list[RunningAnswer] = []  # the store may still think that they run
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._draining = False

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def _load(self) -> int:
        return len(self._running) + self._num_beginning

    async def begin(self, question: Question, started: float) -> AnswerLog:
        """Starts an answer to a request that came at `started`; to one that came before, gives the answer that it has.

        Raises RstitchError for anything in the way.
        """
        self._check_open()
        session_id = question.session_id or uuid.uuid4().hex
        name = session_name(question.tenant, session_id)
        try:
            if question.only_if_new:  # before it takes anything: who comes twice is told so by a full router, too
                await self._check_new(name)
            if self._load >= self._settings.max_running:
                raise refusals.too_many_answers(self._load, self._settings.max_running)
            self._num_beginning += 1
            try:
                return await self._begin(name, session_id, question, started)
            finally:
                self._num_beginning -= 1
        except RstitchError as refusal:
            if not await self._repeats.was_asked(name, question, refusal):
                raise
        return await self.attach(Reattach(question.tenant, session_id, 0, question.request_id), started)

    async def _begin(self, name: str, session_id: str, question: Question, started: float) -> AnswerLog:
        async with self._lock(name):
            if name in self._running:
                raise refusals.taken(name, only_if_new=question.only_if_new)
            # Before it is admitted: one that came before takes nothing of a quota.
            before = await self._repeats.before(name, question)
            async with self._quotas.admission(session_id) as admission:
                await admission.enter()
                # Whatever is refused from here on is in the trace, with the error.
                trace = self._tracing.begin()
                try:
                    policy, head = await self.preparation.settle_policy(question.policy, session_id)
                    is_bounded = question.budget != NO_BUDGET
                    guard = False if policy.explores else question.guard
                    policy, guard_reason = self.observer.choose_policy(
                        policy, guard, self._load, name, is_bounded=is_bounded
                    )
                    decided = Decided(replace(question, policy=policy), head, guard_reason)
                    while True:
                        log = await self._try_begin(name, decided, before, admission, trace, started)
                        if log is not None:
                            return log
                        before = await self._repeats.before(name, question)
                except RstitchError as error:
                    is_there = await self._repeats.was_asked(name, question, error)
                    trace.end(asked_before(name) if is_there else error)
                    if is_there:  # as another error, with which it takes nothing of a quota
                        raise asked_before(name) from None
                    raise
                finally:
                    self.observer.settled(name)

    async def attach(self, asked: Reattach, started: float) -> AnswerLog:
        """The last answer of a session, gone on with if its router is gone. Raises RstitchError."""
        self._check_open()
        name = session_name(asked.tenant, asked.session_id)
        async with self._lock(name), self._quotas.admission(asked.session_id) as admission:
            log = await self._log_here(name, asked)
            if log is not None:
                return log
            lease = OwnersLease(name)
            while True:
                outcome = await self._try_attach(name, asked, admission, started)
                if isinstance(outcome, AnswerLog):
                    return outcome
                if outcome is not None and await lease.lives(outcome):
                    trajectory = await self.kept.trajectory(name)
                    check_answer(asked, name, trajectory.header)
                    self._check_open()  # it took its time
                    return self._following.begin(name, trajectory, self._fleet.vocabularies)

    async def cancel(self, name: str) -> Ended:
        """Ends the answer that is being written, here or on another router, and returns once nobody writes it."""
        async with self._lock(name):
            running = self._running.get(name)
            if running is not None:
                with suppress(RstitchError):  # for those who read it by another router; it ends without, too
                    await self._store.cancelling.mark(name, patience_s=0)
                running.cancel()
                await asyncio.wait({running.task})
                if isinstance(outcome := running.log.outcome, Finished):
                    return Ended(State.FINISHED, outcome.length, was_cancelled=False)
                if not isinstance(outcome, Fenced):  # else it is another router's now, or deleted
                    return Ended(State.INTERRUPTED, running.log.length, was_cancelled=True)
            return await cancel_elsewhere(self._store.cancelling, name, self._lease.lease_s)

    async def delete(self, name: str) -> None:
        """Stops and forgets a session, here, in the store and on the workers. Raises RstitchError (NOT_FOUND)."""
        async with self._lock(name):
            running = self._running.get(name)
            if running is not None:
                running.interrupt(deleted(name))
                await asyncio.wait({running.task})
            if (binding := await self._store.delete(name)) is None:
                raise refusals.unknown_session(name)
            # Below the lock: a question that begins the session anew must not lose its run to this.
            await self._fleet.forget(name, binding)

    async def tidy(self) -> None:
        """Tells a store that can be reached of answers that were interrupted while it could not.

        Those that have stored nothing since the last time ask it whether they are to go on.
        """
        for running in self._running.values():
            running.look()
        while self._stale:
            running = self._stale[0]
            if not await running.release():
                return
            self._stale.remove(running)
        await self._claims.tidy(lambda name: name in self._running or self._lock(name).locked())

    async def drain(self) -> None:
        """Ends what is written and followed here, and gives up the lease; what is asked for from now on is refused."""
        self._draining = True
        await self._following.drain()
        for answer in self._running.values():
            answer.interrupt(refusals.router_draining())
        await self.under_way.end_calls(self._settings.drain_grace_s)  # an answer that one begins is told to end, too
        await self.under_way.end_answers()
        await self._lease.resign()

    async def _check_new(self, name: str) -> None:
        if name in self._running or await self._store.header(name) is not None:
            raise refusals.session_exists(name)

    def _check_open(self) -> None:
        if self._draining:
            raise refusals.router_draining()
        self._fleet.check_ready()

    def _settings_of(self, name: str) -> AnswerSettings | None:
        """What the answer was asked for that is written here in a session."""
        return running.log.settings if (running := self._running.get(name)) is not None else None

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _try_begin(
        self, name: str, decided: Decided, before: Before, admission: Admission, trace: GenerationTrace, started: float
    ) -> AnswerLog | None:
        question = decided.question
        header = before.trajectory.header if before.trajectory is not None else None
        # Whatever changes meanwhile, another router wrote: that one is not gone, and refuses a question, too.
        must_be_as_read = question.only_if_new or self._claims.is_written_elsewhere(header)
        ready = await self.preparation.ready(decided, before.trajectory, trace.traceparent)
        asked = self.clock()
        settings, lengths = ready.prepared.settings, ready.prepared.context_lengths
        bind = partial(BoundSession.bind, self._fleet, name, header, lengths, begins=True)
        bound = bind(may_write=settings.policy.may_write, beginning=question.beginning)
        wanted = (header, name, settings.to_json(), ready.usage, ready.chunks[-1:], bound.binding)
        claim = partial(self._claims.claim, *wanted)
        refusal = refusals.taken(name, only_if_new=question.only_if_new)
        owned = await own(name, claim, refusal, must_be_as_read=must_be_as_read)
        if owned is None:
            return None
        claimed = ClaimedAnswer(name, ready, owned, bound, False, trace, admission)
        return self._start(claimed, started, before.read_s + self.clock() - asked)

    async def _log_here(self, name: str, asked: Reattach) -> AnswerLog | None:
        """The last answer of a session if it is written or followed here.

        More of it may be stored than is known here by now, and its reader may have got that through another router.
        """
        running = self._running.get(name)
        if running is not None and asked.resume_from <= running.log.length:
            check_question(asked, name, running.log.settings)
            return running.log
        header = await self._store.header(name) if running is not None or name in self._following else None
        if header is None:
            return None
        log = running.log if running is not None else self._following.find(name, header)
        if log is not None:
            check_answer(asked, name, header)
        return log

    async def _try_attach(
        self, name: str, asked: Reattach, admission: Admission, started: float
    ) -> AnswerLog | OwnedElsewhere | None:
        since = self.clock()
        trajectory = await self.kept.trajectory(name)
        header = trajectory.header
        check_answer(asked, name, header)
        # Before anything is taken or made for it: who only reads another router's answer needs none of that.
        if self._claims.is_written_elsewhere(header) and (left_ms := await self._store.tailing.lease_ms(header.owner)):
            return OwnedElsewhere(left_ms)
        if header.state is State.FINISHED:
            return kept_answer(trajectory, self._fleet.vocabularies)
        await admission.enter(resumes=True)
        ready = await self.preparation.ready_again(trajectory)
        bound = BoundSession.bind(self._fleet, name, header, ready.prepared.context_lengths, begins=False)
        owned = await self._claims.claim(header, name, header.settings, ready.usage, [], bound.binding)
        if not isinstance(owned, Owned):
            return owned
        trace = self._tracing.begin(ready.prepared.settings.traceparent)
        claimed = ClaimedAnswer(name, ready, owned, bound, True, trace, admission)
        return self._start(claimed, started, self.clock() - since)

    def _start(self, claimed: ClaimedAnswer, started: float, claim_s: float) -> AnswerLog:
        """The session is ours: from here to the task's start nothing is awaited, so nothing can come between."""
        writing = self._assembly.assemble(claimed, started, claim_s)
        settings = claimed.ready.prepared.settings
        # One that may end early, or may not take of the LLM what it would, or explores, is no measure of others.
        bounded = claimed.ready.prepared.exit_rules is not None or settings.budget != NO_BUDGET
        is_usual = not bounded and not settings.policy.explores
        whole = is_usual and writing.log.length == settings.start
        self.observer.answer_began(claimed.name, settings.policy, whole, claimed.bound, writing.log.chunks)
        writing.log.on_shown = partial(self.observer.answer_grew, claimed.name)
        self._running[claimed.name] = running = RunningAnswer(writing, self._settings.detach_grace_s, self._ended)
        self.under_way.add(running.task)
        if self._draining:  # since it was asked for
            running.interrupt(refusals.router_draining())
        return writing.log

    def _ended(self, running: RunningAnswer, outcome: Finished | RstitchError, stale: bool) -> None:
        del self._running[running.name]
        log = running.log
        self.observer.answer_ended(running.name, log.settings, outcome, running.bound, running.trace.context)
        if stale:
            self._stale.append(running)
