"""The decode loop of speculative decoding (arXiv 2211.17192, 2302.01318): the SLM drafts, the LLM verifies.

Each round the SLM writes a few tokens ahead, then the LLM takes all of them in one forward, keeps those that it would
have written itself and writes one after them. As a choice is a function of (seed, position, logits), "itself" means the
very token also where tokens are sampled: the answer is that of `llm_only` with the same seed, and not only as likely.
The papers' rejection sampling promises no more than the distribution, and needs the draft's on the wire.

Nothing of a draft is kept before it is verified, so this loop, too, begins every round from the tokens kept so far. An
accepted token is the SLM's, its entropy is the LLM's.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable
from functools import partial

from router_svc.decoding.answer import Answer
from router_svc.decoding.follower import Follower
from router_svc.decoding.trials import Trials
from router_svc.observers.trace import GenerationTrace
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.kinds import Speculative
from router_svc.trajectory.types import FinishReason, Model, SwitchReason, common_prefix, tokens_of
from router_svc.workers.accounting import Accounting
from router_svc.workers.runs import PendingRun, Reply, RunEnd, RunFinish, RunSpec
from router_svc.workers.session import WorkerSession


class Speculation:
    """Writes one answer by drafts."""

    def __init__(
        self,
        settings: AnswerSettings,
        answer: Answer,
        follower: Follower,
        trials: Trials,
        trace: GenerationTrace,
        accounting: Accounting,
    ) -> None:
        assert isinstance(settings.policy, Speculative)
        self._policy = settings.policy
        self._budget = settings.budget
        self._answer = answer
        self._follower = follower
        self._trials = trials
        self._trace = trace
        self._accounting = accounting
        self._writer = Model.SLM  # of the open segment

    async def run(self) -> FinishReason:
        """Writes until the answer is complete. Raises RstitchError when it cannot go on; what is kept stays kept."""
        reason = await self._decode()
        self._follower.finish()
        return reason

    async def _decode(self) -> FinishReason:
        writer = self._answer.first_writer()
        await self._follower.catch_up(Model.LLM)
        while writer is not None:
            self._writer = writer
            if (end := self._answer.end) is not None:
                return end
            if self._budget.stop and not self._may_verify():
                break
            if self._trials.due:
                # The trial is the LLM's, whoever wrote the boundary: the answer is that of `llm_only` with early exit.
                author = Model.LLM if self._may_verify() else Model.SLM
                taken = await self._trials.attempt(author, None, self._keep)
                writer = self._answer.next_writer(author) if taken else self._writer
                continue
            finish = await (self._verify(await self._draft()) if self._may_verify() else self._rest())
            if finish is not None and finish.end is RunEnd.STOP and not self._trials.at_boundary:
                return FinishReason.STOP
            if finish is not None and finish.end is RunEnd.CONTEXT:
                return FinishReason.LENGTH
            writer = self._writer
        return FinishReason.BUDGET

    def _may_verify(self) -> bool:
        """Whether the budget has room for a round: the LLM's token, and the switches to the LLM and back again."""
        history, most = self._answer.history, self._budget.max_switches
        begun = self._writer is Model.SLM or self._budget.stop
        return not self._budget.spent(history) and (begun or most is None or history.num_switches + 3 <= most)

    async def _draft(self) -> array[int]:
        """What the SLM would write next; one token less than may come, for the LLM writes one, too."""
        draft = tokens_of()
        num = min(self._policy.draft_tokens, self._answer.num_left - 1)
        if num == 0:
            return draft
        if self._writer is Model.LLM:
            self._writer = self._answer.switch(Model.LLM, 0.0, SwitchReason.DRAFT)
        handoff = self._policy.handoff(Model.SLM, self._answer.history)

        def start(worker: WorkerSession) -> Awaitable[PendingRun]:
            del draft[:]
            stops = self._trials.run_stops(Model.SLM)
            traceparent = self._answer.traceparent
            spec = RunSpec(max_tokens=num, handoff=handoff, stop_tokens=stops, traceparent=traceparent, is_draft=True)
            return worker.try_out(spec)

        def take(reply: Reply) -> bool:
            draft.extend(reply.tokens)
            return False

        while await self._follower.run(Model.SLM, start, take) is None:
            pass  # it failed: the follower has waited, and gives up in the end
        self._accounting.count_draft(len(draft))
        return draft

    # One round, with k drafted tokens of which the LLM agrees with n:
    #
    #   SLM   tries out   d1 ... dn ... dk        held by its worker, not kept
    #   LLM   decodes     d1 ... dn | own         one forward; d1..dn are kept as the SLM's, own as the LLM's
    #   next  SLM is fed  own at position n + 1   its worker drops d(n+1) ... dk there

    async def _verify(self, draft: array[int]) -> RunFinish | None:
        """The LLM keeps what it agrees with of the draft and writes a token. None if a stop string cut that short."""
        # The LLM works on what may become its segment before anybody knows where that begins.
        foreseen = self._answer.traceparent if self._writer is Model.LLM else self._trace.prepare_segment(Model.LLM)
        written = False

        def start(worker: WorkerSession) -> Awaitable[PendingRun]:
            stops = self._trials.run_stops(Model.LLM)
            num = self._answer.num_left if draft else 1
            return worker.decode(RunSpec(max_tokens=num, stop_tokens=stops, traceparent=foreseen, draft=draft[:]))

        def take(reply: Reply) -> bool:
            nonlocal written
            num_accepted = common_prefix(tokens_of(reply.tokens), draft)
            del draft[:num_accepted]  # what is left of it is verified by the next try, should this run fail
            written = num_accepted < len(reply.tokens)
            return self._keep_verified(reply, num_accepted)

        finish: RunFinish | None = None
        while finish is None and not written and self._answer.end is None:
            # One that failed goes on with the rest of the draft: who wrote what is the same as if it had not.
            finish = await self._follower.run(Model.LLM, start, take)
        return finish

    def _keep_verified(self, reply: Reply, num_accepted: int) -> bool:
        """The first tokens are the SLM's, the rest is the LLM's. Returns whether a stop string is complete."""
        if num_accepted:
            begin = len(self._answer.tokens)
            self._accounting.count_accepted(num_accepted)
            stopped = self._keep(Model.SLM, reply.part(0, num_accepted))
            num_kept = len(self._answer.tokens) - begin
            self._follower.workers[Model.LLM].confirm_kept(num_kept)  # it holds them, too
            if stopped:
                self._accounting.count_accepted(num_kept - num_accepted)
                return True
        if num_accepted == len(reply.tokens):
            return False
        return self._keep(Model.LLM, reply.part(num_accepted))

    def _keep(self, writer: Model, reply: Reply) -> bool:
        """Keeps tokens; a model becomes the writer with the first token that it writes."""
        if writer is not self._writer:
            reason = SwitchReason.VERIFICATION if writer is Model.LLM else SwitchReason.BUDGET
            self._writer = self._answer.switch(self._writer, 0.0, reason)
        return self._follower.keep(writer, reply)

    async def _rest(self) -> RunFinish | None:
        """The budget is spent: the SLM writes on, and nobody verifies it."""
        if self._writer is Model.LLM:
            self._writer = self._answer.switch(Model.LLM, 0.0, SwitchReason.BUDGET)
        spec = RunSpec(
            max_tokens=self._answer.num_left,
            stop_tokens=self._trials.run_stops(Model.SLM),
            traceparent=self._answer.traceparent,
        )
        return await self._follower.run(Model.SLM, lambda worker: worker.decode(spec), partial(self._keep, Model.SLM))
