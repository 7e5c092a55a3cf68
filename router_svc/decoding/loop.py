"""The decode loop of one answer: Algorithm 1 of R-Stitch (arXiv 2507.17307).

It keeps nothing but the trajectory and what the workers hold of it: every iteration starts from the tokens kept so far,
so a failed run, a lost worker or another router going on is the next iteration and nothing else. It knows neither
readers nor the store.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Mapping

from router_svc.decoding.early_exit import Exits, Trial
from router_svc.decoding.recovery import Recovery
from router_svc.decoding.stopwatch import Stopwatch
from router_svc.observers.trace import GenerationTrace
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.budget import NO_BUDGET
from router_svc.policies.policy import Handoff, Head, Trail
from router_svc.text.answer_text import AnswerText
from router_svc.trajectory.journal import Journal
from router_svc.trajectory.types import Chunk, FinishReason, Model, Source, SwitchReason, entropies_of, tokens_of
from router_svc.trajectory.usage import Usage
from router_svc.workers.runs import PendingRun, Reply, RunEnd, RunFinish
from router_svc.workers.session import WorkerSession
from rstitch.errors import RstitchError


class Generation:
    """One answer being written.

    Args:
        settings: what was asked for.
        tokens: of the session; grows as tokens are kept.
        last: the last chunk with tokens in the trajectory: a prompt, or where an answer was broken off.
        trail: of the answer so far; grows.
        usage: of the answer so far; updated.
        workers: both models' sides of the session.
        stop_tokens: of each model.
        text: of the answer so far, if stop strings must be looked for.
        journal: takes what is kept.
        stopwatch: of the answer.
        head: of the policy, if it has one and its worker does not ask it.
        exits: where the thinking can end early, if that was asked for.
    """

    def __init__(
        self,
        settings: AnswerSettings,
        tokens: array[int],
        last: Chunk,
        trail: Trail,
        usage: Usage,
        workers: Mapping[Model, WorkerSession],
        stop_tokens: Mapping[Model, frozenset[int]],
        text: AnswerText | None,
        journal: Journal,
        recovery: Recovery,
        trace: GenerationTrace,
        stopwatch: Stopwatch,
        head: Head | None = None,
        exits: Exits | None = None,
    ) -> None:
        self._settings = settings
        self._policy = settings.policy
        self._budget = settings.budget
        self._head = head
        self._exits = exits
        self._tokens = tokens
        self._last = last
        self._trail = trail
        self._usage = usage
        self._workers = workers
        self._stop_tokens = stop_tokens
        self._text = text
        self._journal = journal
        self._recovery = recovery
        self._trace = trace
        self._watch = stopwatch
        self._opening = (SwitchReason.NONE, 0.0)  # why the segment that has no token yet began
        self._proposal: int | None = None  # the SLM's, discarded just now
        self._out_of_budget = False  # and the answer is to end there
        self._traceparent = ""

    async def run(self) -> FinishReason:
        """Writes until the answer is complete. Raises RstitchError when it cannot go on; what is kept stays kept."""
        reason = await self._run()
        for worker in self._workers.values():
            worker.stop_ahead(self._traceparent)
        return reason

    async def _run(self) -> FinishReason:
        pen = self._take_pen()
        await self._catch_up(pen.other)
        while (complete := self._complete()) is None:
            if self._exits is not None and self._exits.due:
                pen = await self._try_exit(self._exits, pen)
                continue
            finish = await self._write(pen)
            if finish is None:
                pen = self._pen_again(pen)
            elif finish.end is RunEnd.STOP and not self._at_boundary():
                return FinishReason.STOP
            elif finish.end is RunEnd.CONTEXT:
                return FinishReason.LENGTH
            elif self._complete() is not None:
                continue
            elif finish.end is RunEnd.HANDOFF and pen is Model.SLM:
                pen = self._leave_slm(finish)
            elif finish.end is RunEnd.HANDOFF:
                pen = self._hand_over(pen)
            else:
                pen = self._pen_again(pen)
        return complete

    def end(self) -> None:
        """All but the end is stored."""
        self._watch.end()

    async def _write(self, pen: Model) -> RunFinish | None:
        """One run of `pen`: it is fed what it has not seen, then decodes by itself until the hand-off condition holds.

        Returns: how it ended; None if a stop string cut it short or it failed and another try is worth it.
        """

        def start(worker: WorkerSession) -> Awaitable[PendingRun]:
            ends = self._run_ends_at(pen)
            return worker.decode(self._run_length(pen), self._handoff(pen), self._traceparent, ends)

        return await self._follow(pen, start, lambda reply: self._keep(pen, reply))

    async def _try_exit(self, exits: Exits, pen: Model) -> Model:
        """A trial answer by `pen`, if there is room for one: if it is sure enough it is kept and the thinking is over,
        else it is as if it had not been. Returns who has the pen; a trial that failed is due again.
        """
        num = exits.num_tokens(self._num_left_of(pen))
        if num < 1:
            exits.tried()
            return pen
        trial, prompt, position, began = Trial(), exits.rules.prompt, len(self._tokens), self._watch.now()
        with self._trace.trial(pen, position) as span:

            def start(worker: WorkerSession) -> Awaitable[PendingRun]:
                listening = exits.listening(self._handoff(pen))
                return worker.try_out(prompt, num, listening, span.traceparent, exits.rules.ends | self._stops(pen))

            if await self._follow(pen, start, trial.add) is None:
                return pen
            taken = exits.ends_thinking(trial)
            span.set_outcome(len(prompt) + len(trial.tokens), trial.confidence, taken)
        self._recovery.progress()
        self._usage.record_trial(len(prompt) + len(trial.tokens), self._watch.since_us(began))
        if not taken:
            return pen
        self._usage.exit_position, self._usage.exit_confidence = position, trial.confidence
        self._keep(pen, trial.kept(prompt))
        return self._pen_again(pen)

    async def _follow(
        self, pen: Model, start: Callable[[WorkerSession], Awaitable[PendingRun]], take: Callable[[Reply], bool]
    ) -> RunFinish | None:
        """One run of `pen`, to its end.

        Args:
            take: gets the tokens as they come; returns whether the rest is not wanted.
        Returns: how it ended; None if it was cut short, or it failed and another try is worth it.
        """
        worker = self._workers[pen]
        if worker.lost:
            await self._recovery.before(pen)
            await worker.found()
        run = await start(worker)
        self._trace.add_catch_up(run.num_sent)
        began = since = self._watch.run_begins()
        self._run_ahead()
        try:
            while True:
                reply = await run.next()
                since = self._watch.had_the_pen(pen, since)
                if reply.tokens and take(reply):
                    self._ran(worker, await worker.cut_short(run, self._traceparent), began)
                    return None
                if reply.finish is not None:
                    self._ran(worker, reply.finish, began)
                    return reply.finish
                began += await self._room()
                await self._catch_up(pen.other)
        except RstitchError as error:
            worker.refused(run, error)
            await self._recovery.after(pen, error)
            await worker.found()
            self._watch.had_the_pen(pen, since)
            self._watch.run_is_over()
            return None

    def _ran(self, worker: WorkerSession, finish: RunFinish | None, began: float) -> None:
        """A run that decodes is over; None: the worker did not say how."""
        self._watch.run_is_over()
        if finish is not None:
            worker.count(finish, self._watch.since_us(began))
            self._usage.num_consultations += finish.num_consultations
            self._trace.add_run(finish)

    async def _room(self) -> float:
        """Waits for room in the journal; returns for how long, in s."""
        if self._journal.has_room:
            return 0.0
        since = self._watch.now()
        await self._journal.room()
        return self._watch.waited_for_store(since)

    def _keep(self, pen: Model, reply: Reply, is_proposal: bool = False) -> bool:
        """Tokens go into the trajectory, up to one that completes a stop string; returns whether one does.

        Args:
            is_proposal: the worker has not kept it.
        """
        num = len(reply.tokens)
        if self._text is not None:
            for index, token in enumerate(reply.tokens):
                self._text.push(token)
                if self._text.stopped:
                    num = index + 1
                    break
        entropies, uncertainties = entropies_of(reply.entropies[:num]), entropies_of(reply.uncertainties[:num])
        self._add(pen, tokens_of(reply.tokens[:num]), entropies, uncertainties, is_proposal)
        return self._text is not None and self._text.stopped

    def _add(
        self,
        pen: Model,
        tokens: array[int],
        entropies: array[float],
        uncertainties: array[float],
        is_proposal: bool = False,
    ) -> None:
        reason, entropy = self._opening
        chunk = Chunk(pen.source, len(self._tokens), tokens, entropies, reason, entropy, uncertainties)
        self._opening = (SwitchReason.NONE, 0.0)
        self._tokens.extend(tokens)
        usage = self._usage
        if tokens:
            self._last = chunk
            self._trail.grow(entropies, uncertainties)
            num_ahead = 0 if is_proposal else self._workers[pen].wrote(len(tokens))
            self._trace.add_kept(len(tokens), num_ahead)
            self._recovery.progress()
            self._watch.stop()
            usage.time_to_first_token_us = usage.time_to_first_token_us or usage.total_time_us
        if pen is Model.SLM:
            usage.num_slm_tokens += len(tokens)
        else:
            usage.num_llm_tokens += len(tokens)
        self._journal.add(chunk, usage)

    def _leave_slm(self, finish: RunFinish) -> Model:
        """The SLM was unsure: its token is discarded and the LLM has the pen, unless head or budget say otherwise."""
        proposal = finish.proposal
        assert proposal is not None, "a worker that discards a token shows it"
        if self._head is not None:
            self._usage.num_consultations += 1
            if not self._head.wants_llm(proposal.hidden_state, self._trail.position):
                self._keep(Model.SLM, Reply([proposal.token], [proposal.entropy], None), is_proposal=True)
                return Model.SLM
        self._usage.num_discarded_proposals += 1
        if not self._budget.llm_may_write(Model.SLM, self._usage):
            self._out_of_budget = True
            if self._opening[0]:  # it had just got the pen, and nobody will hear of that
                self._usage.num_switches -= 1
            return Model.SLM
        self._proposal = proposal.token
        return self._hand_over(Model.SLM, proposal.uncertainty)

    def _hand_over(self, pen: Model, value: float | None = None, reason: SwitchReason | None = None) -> Model:
        """The pen goes to the other model.

        Args:
            value: of the signal that decided; None: that of the last token kept.
            reason: None: the policy's.
        """
        self._usage.num_switches += 1
        if self._segment_is_empty(pen):
            self._add(pen, tokens_of(), entropies_of(), entropies_of())
        value = self._trail.uncertainty if value is None else value
        self._open(pen.other, self._policy.reason(pen) if reason is None else reason, value)
        return pen.other

    def _open(self, pen: Model, reason: SwitchReason, value: float) -> None:
        if reason in (SwitchReason.COIN, SwitchReason.BUDGET):
            value = 0.0
        self._opening = (reason, value)
        bound = self._policy.bound(pen.other if reason else Model.SLM)
        self._traceparent = self._trace.begin_segment(pen, len(self._tokens), reason, value, bound)

    def _take_pen(self) -> Model:
        """At the start of an answer whom the policy says; where an answer was broken off, whom its last token says."""
        starts = self._last.source is Source.PROMPT
        pen = self._starts() if starts else self._last.source.model
        self._open(pen, SwitchReason.NONE, 0.0)
        return pen if starts else self._pen_again(pen)

    def _pen_again(self, pen: Model) -> Model:
        """Who goes on after a run that did not say: what its last token says, if it wrote one."""
        if self._segment_is_empty(pen) or self._complete() is not None:
            return pen
        after = self._policy.pen_after(pen, self._trail)
        if after is Model.LLM and not self._budget.llm_may_write(pen, self._usage):
            self._out_of_budget = self._budget.stop
            after = pen if self._budget.stop else Model.SLM
            return pen if after is pen else self._hand_over(pen, reason=SwitchReason.BUDGET)
        return pen if after is pen else self._hand_over(pen)

    def _starts(self) -> Model:
        pen = self._policy.starts(self._trail)
        may_return = self._policy.may_write(Model.SLM)
        return pen if pen is Model.SLM or self._budget.llm_may_start(may_return) else Model.SLM

    def _segment_is_empty(self, pen: Model) -> bool:
        return bool(self._opening[0]) or self._last.source is not pen.source

    def _complete(self) -> FinishReason | None:
        """Whether the tokens kept are a whole answer: also one whose last run could not say so."""
        if self._last.source is not Source.PROMPT and self._tokens[-1] in self._stops(self._last.source.model):
            return FinishReason.STOP
        if self._text is not None and self._text.stopped:
            return FinishReason.STOP_STRING
        if self._out_of_budget:
            return FinishReason.BUDGET
        return FinishReason.LENGTH if self._num_left() <= 0 else None

    def _stops(self, author: Model) -> frozenset[int]:
        """The tokens with which an answer ends if `author` wrote them."""
        return self._stop_tokens[author]

    def _num_left(self) -> int:
        return self._settings.max_new_tokens - (len(self._tokens) - self._settings.start)

    def _num_left_of(self, pen: Model) -> int:
        """How many tokens `pen` may write."""
        left = self._budget.llm_tokens_left(self._usage) if pen is Model.LLM else None
        return self._num_left() if left is None else min(self._num_left(), left)

    def _run_length(self, pen: Model) -> int:
        """How many tokens a run may keep."""
        length = self._policy.run_length(pen, self._trail)
        return self._num_left_of(pen) if length is None else min(self._num_left_of(pen), length)

    def _run_ends_at(self, pen: Model) -> frozenset[int]:
        """Tokens that end a run: also those that a trial would follow, so that nothing is decoded in vain. None: the
        model's own.
        """
        if self._exits is None or not self._exits.thinking:
            return frozenset()
        return self._stops(pen) | self._exits.rules.boundaries

    def _at_boundary(self) -> bool:
        """Whether a run was stopped where a trial may follow, and not by the end of the answer."""
        return self._exits is not None and self._complete() is not FinishReason.STOP

    def _handoff(self, pen: Model) -> Handoff | None:
        """The policy's condition; none where the SLM may not hand over, and writes the rest."""
        if pen is Model.SLM and not (self._budget.stop or self._budget.llm_may_write(pen, self._usage)):
            return None
        return self._policy.handoff(pen, self._trail)

    def _may_write(self, model: Model) -> bool:
        """Whether a model can get the pen from here on."""
        if model is Model.LLM:
            return self._policy.may_write(model) and self._budget.llm_may_write(Model.SLM, self._usage)
        return self._policy.may_write(model) or (self._budget.llm_tokens is not None and not self._budget.stop)

    async def _catch_up(self, model: Model) -> None:
        """The model that waits is fed in the background, so that a switch costs a decode step and not a prefill."""
        if self._may_write(model):
            await self._workers[model].catch_up(self._traceparent)

    def _run_ahead(self) -> None:
        """Once the LLM is asked for a position, the SLM goes on from what it proposed there itself."""
        proposal, self._proposal = self._proposal, None
        if proposal is None or not (self._policy.runs_ahead and self._policy.may_write(Model.SLM)):
            return
        # A budget that the LLM is about to spend would change the hand-off.
        ends = self._run_ends_at(Model.SLM)
        if self._budget == NO_BUDGET and proposal not in (ends or self._stop_tokens[Model.SLM]):
            handoff = self._policy.handoff(Model.SLM, self._trail)
            self._workers[Model.SLM].run_ahead(proposal, self._num_left() - 1, handoff, self._traceparent, ends)
