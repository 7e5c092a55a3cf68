"""The decode loop of one answer: Algorithm 1 of R-Stitch (arXiv 2507.17307).

Where it departs from the paper's Algorithm 1:

1. An iteration is a run, not a token: a worker decodes by itself until the policy's hand-off condition holds.
2. Only kept tokens count towards the limit; in the paper a discarded proposal uses up one of T_max.
3. `tau_return` may differ from tau, so that handing back can have a hysteresis.
4. Any of several signals may take the entropy's place, and a policy may decide by a coin or a trained head (R-Stitch+).
5. The model that waits is prefilled in the background, and the SLM may run ahead of the LLM from its own discarded
   proposal. Both change the time of an answer and no token of it.
6. A budget, stop strings and early exit may end an answer, or its thinking, earlier.

Not a departure, though it may look like one: a high-entropy end of sequence by the SLM is discarded like any token.

The loop keeps nothing but the answer and what the workers hold of it. Every round starts from the tokens kept so far,
so a failed run, a lost worker or another router taking over is the next round and nothing else. It knows neither
readers nor the store.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from router_svc.decoding.answer import Answer
from router_svc.decoding.follower import Follower
from router_svc.decoding.trials import Trials
from router_svc.policies.policy import Handoff
from router_svc.trajectory.consultations import Consultation
from router_svc.trajectory.types import FinishReason, Model, Signal
from router_svc.workers.accounting import Accounting
from router_svc.workers.runs import PendingRun, Proposal, Reply, RunEnd, RunFinish, RunSpec
from router_svc.workers.session import WorkerSession
from rstitch.service.consulting import Consultant, Verdict, in_half_precision
from rstitch.service.head import Head


class Decoding:
    """Writes one answer by a policy that decides, token by token, which model writes.

    The head is that of the policy, if it has one and its worker does not consult it.
    """

    def __init__(
        self, answer: Answer, follower: Follower, trials: Trials, accounting: Accounting, head: Head | None
    ) -> None:
        self._answer = answer
        self._policy = answer.policy
        self._follower = follower
        self._trials = trials
        self._accounting = accounting
        self._head = head
        self._proposal: int | None = None  # the SLM's, discarded just now: it may run ahead from there

    async def run(self) -> FinishReason:
        """Writes until the answer is complete. Raises RstitchError when it cannot go on; what is kept stays kept."""
        reason = await self._decode()
        self._follower.finish()
        return reason

    async def _decode(self) -> FinishReason:
        writer = self._answer.first_writer()
        if writer is not None:
            await self._follower.catch_up(writer.other)
        # Each round begins from the kept tokens alone, and the writer is a function of them: so a round can fail, or be
        # another router's, without a token changing. None: the budget is spent and the answer ends with it.
        while writer is not None:
            if (end := self._answer.end) is not None:
                return end
            if self._trials.due:
                handoff = self._policy.handoff(writer, self._answer.history)
                if await self._trials.attempt(writer, handoff, self._follower.keep):
                    writer = self._answer.next_writer(writer)
                continue
            if self._follower.workers[writer].room < 1:
                return FinishReason.LENGTH
            finish = await self._follower.run(
                writer, partial(self._start, writer), partial(self._follower.keep, writer)
            )
            match finish:
                case RunFinish(end=RunEnd.STOP) if not self._trials.at_boundary:
                    return FinishReason.STOP
                case RunFinish(end=RunEnd.CONTEXT):
                    return FinishReason.LENGTH
                case RunFinish(end=RunEnd.HANDOFF) if self._answer.end is None:
                    # H > tau: the SLM's token was discarded. H <= tau: the LLM's token was kept.
                    writer = self._weigh(finish.proposal) if writer is Model.SLM else self._answer.next_writer(writer)
                case _:
                    # Its length was used up, it met a boundary, failed, or was cut short by a stop string.
                    writer = self._answer.next_writer(writer)
        return FinishReason.BUDGET

    async def _start(self, writer: Model, worker: WorkerSession) -> PendingRun:
        """Feeds the writer what it has not seen and lets it decode until the hand-off condition holds."""
        history = self._answer.history
        left, length = self._answer.num_left_for(writer), self._policy.run_length(writer, history)
        run = await worker.decode(
            RunSpec(
                max_tokens=left if length is None else min(left, length),
                handoff=self._reporting(
                    self._policy.handoff(writer, history), max_reported=self._answer.num_consultations_left
                ),
                stop_tokens=self._trials.run_stops(writer),
                traceparent=self._answer.traceparent,
            )
        )
        self._run_ahead()  # not before: the LLM's request goes out first
        return run

    def _weigh(self, proposal: Proposal | None) -> Model | None:
        """The SLM was unsure: its token is discarded and the LLM writes, unless head or budget (None) say otherwise."""
        assert proposal is not None, "a worker that discards a token shows it"
        if not self._policy.may_switch(self._answer.history):
            self._answer.forget_asked()
            return self._keep_proposal(proposal)
        if self._head is not None and not self._wants_llm(self._head, proposal):
            return self._keep_proposal(proposal)  # R-Stitch+ only ever keeps the SLM writing
        self._accounting.count_discarded()
        if self._policy.is_spent(self._answer.history):
            self._answer.forget_opening()
            return None
        self._proposal = proposal.token
        return self._answer.switch(Model.SLM, proposal.uncertainty)

    def _wants_llm(self, head: Head, proposal: Proposal) -> bool:
        """Asks the head, on the terms on which a worker would ask it."""
        self._accounting.count_consultation()
        handoff = self._policy.handoff(Model.SLM, self._answer.history)
        terms = handoff.terms if handoff is not None else None
        assert terms is not None, "a policy with a head says on which terms"
        # The context that the head was trained with is what the SLM reads.
        length = self._follower.workers[Model.SLM].length
        verdict = Consultant(head, terms).ask(proposal.hidden_state, length, proposal.entropy)
        if self._answer.keeps_consultations:
            self._answer.note_consultations([_consultation(verdict, proposal.token)])
        return verdict.to_llm

    def _reporting(self, handoff: Handoff | None, max_reported: int = 0) -> Handoff | None:
        """The condition, and that what a head is asked under it is wanted back, if it is to be kept."""
        if handoff is None or handoff.terms is None or not self._answer.keeps_consultations:
            return handoff
        return replace(handoff, terms=replace(handoff.terms, report=True, max_reported=max_reported))

    def _keep_proposal(self, proposal: Proposal) -> Model:
        """Keeps what the SLM was unsure of; its worker has dropped the token and is fed it again."""
        handoff = self._policy.handoff(Model.SLM, self._answer.history)
        is_entropy = handoff is None or handoff.signal is Signal.ENTROPY
        uncertainties = [] if is_entropy else [proposal.uncertainty]
        reply = Reply([proposal.token], [proposal.entropy], None, uncertainties, [proposal.logprob])
        reply.alternatives = [proposal.alternatives]
        self._follower.keep(Model.SLM, reply, is_proposal=True)
        return Model.SLM

    def _run_ahead(self) -> None:
        """Once the LLM is asked for a position, the SLM goes on from what it proposed there itself."""
        proposal, self._proposal = self._proposal, None
        if proposal is None or not (self._policy.runs_ahead and self._policy.may_write(Model.SLM)):
            return
        stops = self._trials.run_stops(Model.SLM)
        # The run must be exactly the one that `_start` would ask for if the LLM agrees with the proposal.
        if proposal not in (stops or self._answer.stop_tokens(Model.SLM)):
            # Reported without a bound, as it is short: what is asked where the LLM turns out to write takes no place.
            handoff = self._reporting(self._policy.handoff(Model.SLM, self._answer.history))
            if handoff is not None and handoff.terms is not None:
                handoff = replace(handoff, terms=handoff.terms.one_later())
            spec = RunSpec(
                max_tokens=self._answer.num_left - 1,
                handoff=handoff,
                stop_tokens=stops,
                traceparent=self._follower.trace.begin_run_ahead(len(self._answer.tokens)),
            )
            if not self._follower.workers[Model.SLM].run_ahead(proposal, spec):
                self._follower.trace.forget_run_ahead()


def _consultation(verdict: Verdict, proposal: int) -> Consultation:
    return Consultation(
        verdict.position,
        verdict.context_length,
        in_half_precision(verdict.hidden_state),
        verdict.entropy,
        proposal,
        verdict.features,
        verdict.probability,
        verdict.to_llm,
    )
