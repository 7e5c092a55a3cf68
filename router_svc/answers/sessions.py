"""The sessions of this router: begins answers, goes on with those that were broken off, lets readers join, drains.

At most one router writes a session, and in it at most one task. It knows no wire.
"""

from __future__ import annotations

import asyncio
import time
import uuid
import zlib
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from weakref import WeakValueDictionary

import structlog

from router_svc.answers.log import AnswerLog
from router_svc.answers.refusals import (
    owned_elsewhere,
    router_draining,
    session_running,
    too_many_answers,
    unknown_session,
)
from router_svc.answers.request import Question, Reattach, budget_for, check_within, prompt_of
from router_svc.answers.running import Running
from router_svc.decoding.early_exit import ExitRules, Exits, settle
from router_svc.decoding.loop import Generation
from router_svc.decoding.recovery import Recovery
from router_svc.decoding.speculation import Speculation
from router_svc.decoding.stopwatch import Stopwatch
from router_svc.observers.observer import AnswerObserver
from router_svc.observers.trace import GenerationTrace, begin_trace
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.budget import NO_BUDGET
from router_svc.policies.early_exit import EarlyExit, ExitStyle
from router_svc.policies.heads import Heads, NamedHead
from router_svc.policies.kinds import Learned, Random, Speculative
from router_svc.policies.policy import Head, Policy, Trail
from router_svc.settings import RouterSettings
from router_svc.text.answer_text import AnswerText
from router_svc.trajectory.errors import deleted
from router_svc.trajectory.journal import Journal
from router_svc.trajectory.lease import Lease
from router_svc.trajectory.store import Owned, OwnedElsewhere, TrajectoryStore
from router_svc.trajectory.types import (
    Chunk,
    Finished,
    Header,
    Model,
    Source,
    State,
    Trajectory,
    entropies_of,
    joined_tokens,
)
from router_svc.trajectory.usage import Usage
from router_svc.workers.pair import Pair
from router_svc.workers.run_ahead import RunAheadGate
from router_svc.workers.session import WorkerSession
from rstitch.errors import RstitchError
from rstitch.service.metrics import NO_METRICS, Metrics
from rstitch.service.telemetry import Telemetry

_log = structlog.get_logger(__name__)
_OWNER_POLL_S = 0.1


class Sessions:
    """All answers that this router writes.

    Args:
        clock: monotonic, in s.
    """

    def __init__(
        self,
        settings: RouterSettings,
        pair: Pair,
        store: TrajectoryStore,
        lease: Lease,
        heads: Heads,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self._settings = settings
        self._pair = pair
        self._store = store
        self._lease = lease
        self._heads = heads
        self._telemetry = telemetry
        self.clock = clock
        self.watch = AnswerObserver(pair, settings.guard, clock, metrics)
        self._running: dict[str, Running] = {}
        self._run_ahead = RunAheadGate(
            settings.run_ahead, settings.run_ahead_tokens, settings.run_ahead_max_running, lambda: self.num_running
        )
        self._num_beginning = 0  # answers that will be running soon
        self._stale: list[Running] = []  # the store may still think that they run
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._draining = False

    @property
    def num_running(self) -> int:
        """Answers being written."""
        return len(self._running)

    async def begin(self, question: Question, started: float) -> AnswerLog:
        """Puts the question into its session and starts the answer. Raises RstitchError for anything in the way.

        Args:
            started: when the request came, by `clock`.
        """
        self._check_open()
        num = len(self._running) + self._num_beginning
        if num >= self._settings.max_running:
            raise too_many_answers(num, self._settings.max_running)
        self._num_beginning += 1
        try:
            return await self._begin(question, started)
        finally:
            self._num_beginning -= 1

    async def _begin(self, question: Question, started: float) -> AnswerLog:
        session_id = question.session_id or uuid.uuid4().hex
        async with self._lock(session_id):
            if session_id in self._running:
                raise session_running(session_id)
            trace = begin_trace(self._telemetry)
            try:
                named = await self._head(question.policy)
                policy, guard_reason = self.watch.decide(
                    self._settled(question.policy, session_id, named),
                    question.guard,
                    len(self._running) + self._num_beginning,
                    is_bounded=question.budget != NO_BUDGET,
                )
                decided = replace(question, policy=policy)
                return await self._claimed(
                    session_id,
                    lambda: self._try_begin(session_id, decided, named, guard_reason, trace, started),
                    session_running(session_id),
                )
            except RstitchError as error:
                trace.end(error)
                raise

    async def attach(self, asked: Reattach, started: float) -> AnswerLog:
        """The last answer of a session, gone on with if its router is gone. Raises RstitchError."""
        self._check_open()
        async with self._lock(asked.session_id):
            running = self._running.get(asked.session_id)
            if running is not None:
                check_within(asked, running.log.length)
                return running.log
            elsewhere = owned_elsewhere(asked.session_id, self._lease.lease_s)
            return await self._claimed(asked.session_id, lambda: self._try_attach(asked, started), elsewhere)

    async def trajectory(self, session_id: str) -> Trajectory:
        """As stored. Raises RstitchError (NOT_FOUND)."""
        trajectory = await self._store.trajectory(session_id)
        if trajectory is None:
            raise unknown_session(session_id)
        return trajectory

    async def page(self, num: int, before: tuple[int, str] | None) -> tuple[list[Header], tuple[int, str] | None]:
        """A page of headers, as `TrajectoryStore.page`."""
        return await self._store.page(num, before)

    async def delete(self, session_id: str) -> None:
        """Stops and forgets a session, here, in the store and on the workers. Raises RstitchError (NOT_FOUND)."""
        async with self._lock(session_id):
            running = self._running.get(session_id)
            if running is not None:
                running.interrupt(deleted(session_id))
                await asyncio.wait({running.task})
            if not await self._store.delete(session_id):
                raise unknown_session(session_id)
            # Below the lock: a question that begins the session anew must not lose its run to this.
            await asyncio.gather(*(self._forget(model, session_id) for model in Model))

    async def tidy(self) -> None:
        """Marks answers as interrupted that the store could not be told of when they were."""
        while self._stale:
            running = self._stale[0]
            if not await running.release():
                return
            self._stale.remove(running)

    async def drain(self) -> None:
        """Interrupts every answer cleanly and gives the sessions free for other routers."""
        self._draining = True
        running = list(self._running.values())
        for answer in running:
            answer.interrupt(router_draining())
        if running:
            await asyncio.wait({answer.task for answer in running})
        await self._lease.resign()

    def _check_open(self) -> None:
        if self._draining:
            raise router_draining()
        self._pair.check_ready()

    def _lock(self, session_id: str) -> asyncio.Lock:
        return self._locks.setdefault(session_id, asyncio.Lock())

    async def _claimed(
        self,
        session_id: str,
        attempt: Callable[[], Awaitable[AnswerLog | OwnedElsewhere | None]],
        refusal: RstitchError,
    ) -> AnswerLog:
        """Tries until it is ours. Waits for the lease of a router that is gone; one that renews it lives: `refusal`."""
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
        named: NamedHead | None,
        guard_reason: str,
        trace: GenerationTrace,
        started: float,
    ) -> AnswerLog | OwnedElsewhere | None:
        asked = self.clock()
        before = await self._store.trajectory(session_id) if question.session_id else None
        read_s = self.clock() - asked
        prompt = await self._prompt(question, before)
        rules = await self._exit_rules(question.early_exit)
        length = before.header.length if before else 0
        start = length + len(prompt)
        settings = AnswerSettings(
            policy=question.policy,
            sampling=question.sampling,
            max_new_tokens=budget_for(
                start, question.max_new_tokens, self._settings.max_new_tokens, self._pair.context_length
            ),
            stop=question.stop,
            start=start,
            traceparent=trace.traceparent,
            guard_reason=guard_reason,
            budget=question.budget,
            profile=question.profile,
            early_exit=rules.settings if rules is not None else None,
        )
        usage = Usage(num_prompt_tokens=start)
        chunk = Chunk(Source.PROMPT, length, prompt, entropies_of())
        asked = self.clock()
        claimed = await self._store.claim(
            before.header if before else None, session_id, self._lease.router_id, settings.to_json(), usage, [chunk]
        )
        if not isinstance(claimed, Owned):
            return claimed
        claim_s = read_s + self.clock() - asked
        chunks = [*(before.chunks if before else ()), chunk]
        return self._start(session_id, settings, named, rules, chunks, claimed, length, usage, trace, started, claim_s)

    async def _head(self, policy: Policy) -> NamedHead | None:
        """Of a policy that has one. Raises RstitchError. Off the loop: it is read from a file, or fetched."""
        return await asyncio.to_thread(self._heads.get, policy.head) if isinstance(policy, Learned) else None

    def _settled(self, policy: Policy, session_id: str, named: NamedHead | None) -> Policy:
        """With what the question left open: the seed of its coin; version, tau and place of its head."""
        if isinstance(policy, Random) and policy.seed is None:
            return replace(policy, seed=zlib.crc32(session_id.encode()))
        if isinstance(policy, Learned) and named is not None:
            tau = named.head.facts.tau if policy.tau is None else policy.tau
            return Learned(named.full_name, tau, self._settings.head_in_worker)
        return policy

    async def _exit_rules(self, asked: EarlyExit | None) -> ExitRules | None:
        """Of early exit, if it is asked for. Raises RstitchError. Off the loop: all tokens are looked through."""
        own = self._settings
        style = ExitStyle(
            tuple(own.early_exit_boundaries), own.early_exit_prompt, own.early_exit_end, own.early_exit_thinking_end
        )
        return await asyncio.to_thread(settle, asked, style, self._pair.tokenizer) if asked is not None else None

    async def _prompt(self, question: Question, before: Trajectory | None) -> array[int]:
        """Off the loop: a long text takes its time."""
        return await asyncio.to_thread(
            prompt_of, question.input, self._pair.tokenizer, self._pair.vocab_size, before, self._is_stop
        )

    async def _try_attach(self, asked: Reattach, started: float) -> AnswerLog | OwnedElsewhere | None:
        since = self.clock()
        trajectory = await self.trajectory(asked.session_id)
        header = trajectory.header
        check_within(asked, header.length)
        settings = AnswerSettings.from_json(header.settings)
        if header.state is State.FINISHED:
            chunks = _answer(trajectory.chunks, settings)
            return AnswerLog(asked.session_id, settings, trajectory.tokens(), chunks, header.finished)
        named = await self._head(settings.policy)
        settings = replace(settings, policy=self._settled(settings.policy, asked.session_id, named))
        rules = await self._exit_rules(settings.early_exit)
        usage = header.usage.copy()
        claimed = await self._store.claim(header, asked.session_id, self._lease.router_id, header.settings, usage, [])
        if not isinstance(claimed, Owned):
            return claimed
        claim_s = self.clock() - since
        trace = begin_trace(self._telemetry, settings.traceparent)
        chunks = list(trajectory.chunks)
        return self._start(
            asked.session_id, settings, named, rules, chunks, claimed, header.length, usage, trace, started, claim_s
        )

    def _start(
        self,
        session_id: str,
        settings: AnswerSettings,
        named: NamedHead | None,
        rules: ExitRules | None,
        chunks: list[Chunk],
        owned: Owned,
        held: int,
        usage: Usage,
        trace: GenerationTrace,
        started: float,
        claim_s: float,
    ) -> AnswerLog:
        """The session is ours: from here to the task's start nothing is awaited, so nothing can come between."""
        tokens = joined_tokens(chunks)
        answer = _answer(chunks, settings)
        log = AnswerLog(session_id, settings, tokens, answer, trace_id=trace.trace_id)
        text: AnswerText | None = None
        if settings.stop:
            text = AnswerText(self._pair.tokenizer.decode, log.context, settings.stop)
            for token in tokens[settings.start :]:
                text.push(token)
        workers = {
            model: WorkerSession(
                self._pair.client(model),
                session_id,
                tokens,
                held,
                settings.sampling,
                usage,
                self._settings.catch_up_tokens,
                self._run_ahead,
            )
            for model in Model
        }
        journal = Journal(self._store, session_id, owned, len(tokens), usage, log.show)
        recovery = Recovery(self._pair, self._settings.worker_patience_s, self._settings.capacity_patience_s)
        last = next(chunk for chunk in reversed(chunks) if chunk.tokens)
        trail = Trail(settings.start, entropies_of())
        for chunk in answer:
            if chunk.tokens:
                trail.grow(chunk.entropies, chunk.uncertainties)
        generation = (Speculation if isinstance(settings.policy, Speculative) else Generation)(
            settings,
            tokens,
            last,
            trail,
            usage,
            workers,
            self._stop_tokens(),
            text,
            journal,
            recovery,
            trace,
            Stopwatch(usage, started, claim_s, self.clock),
            self._asked_here(settings.policy, named),
            Exits(rules, tokens, settings.start, usage.exit_position > 0) if rules is not None else None,
        )
        # One that may end early, or may not take of the LLM what it would, is no measure of others.
        is_usual = rules is None and settings.budget == NO_BUDGET
        self.watch.began(session_id, whole=len(tokens) == settings.start and is_usual)
        trace.describe(session_id, owned.epoch, settings, self._models())
        self._running[session_id] = Running(
            log, generation, journal, workers, usage, trace, self._settings.detach_grace_s, self._ended
        )
        if self._draining:  # since it was asked for
            self._running[session_id].interrupt(router_draining())
        return log

    def _asked_here(self, policy: Policy, named: NamedHead | None) -> Head | None:
        """The head that this router asks; None if there is none or the SLM's worker asks it, for which it is kept."""
        if named is None or not isinstance(policy, Learned):  # the guard may have chosen another
            return None
        if not policy.in_worker:
            return named.head
        self._pair.client(Model.SLM).keep_head(named.full_name, named.head.data)
        return None

    def _ended(self, running: Running, outcome: Finished | RstitchError, stale: bool) -> None:
        del self._running[running.session_id]
        self.watch.ended(running.session_id, running.log.settings, outcome)
        if stale:
            self._stale.append(running)

    def _stop_tokens(self) -> dict[Model, frozenset[int]]:
        infos = {model: self._pair.info(model) for model in Model}
        return {model: info.stop_tokens if info else frozenset() for model, info in infos.items()}

    def _is_stop(self, token: int) -> bool:
        return any(token in tokens for tokens in self._stop_tokens().values())

    def _models(self) -> dict[Model, str]:
        infos = {model: self._pair.info(model) for model in Model}
        return {model: info.model if info else "" for model, info in infos.items()}

    async def _forget(self, model: Model, session_id: str) -> None:
        """Best effort: what a worker holds of a forgotten session is evicted anyway."""
        try:
            await self._pair.client(model).close_session(session_id)
        except RstitchError as error:
            _log.info("session not closed on worker", role=model.label, session_id=session_id, error=str(error))


def _answer(chunks: Sequence[Chunk], settings: AnswerSettings) -> list[Chunk]:
    """The chunks of the last answer."""
    return [chunk for chunk in chunks if chunk.position >= settings.start and chunk.source is not Source.PROMPT]
