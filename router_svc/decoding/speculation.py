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
from collections.abc import Awaitable, Sequence

from router_svc.decoding.early_exit import Exits
from router_svc.decoding.loop import Generation
from router_svc.policies.kinds import Speculative
from router_svc.policies.policy import Handoff
from router_svc.trajectory.types import FinishReason, Model, SwitchReason, tokens_of
from router_svc.workers.runs import PendingRun, Reply, RunEnd, RunFinish
from router_svc.workers.session import WorkerSession


class Speculation(Generation):
    """One answer being written by drafts. Its policy is `Speculative`."""

    _pen = Model.SLM

    async def _run(self) -> FinishReason:
        self._pen = self._take_pen()
        await self._catch_up(Model.LLM)
        while (complete := self._complete()) is None:
            if self._budget.stop and not self._may_verify():
                return FinishReason.BUDGET
            if self._exits is not None and self._exits.due:
                await self._try_exit_by_llm(self._exits)
                continue
            finish = await (self._verify(await self._draft()) if self._may_verify() else self._rest())
            if finish is not None and finish.end is RunEnd.STOP and not self._at_boundary():
                return FinishReason.STOP
            if finish is not None and finish.end is RunEnd.CONTEXT:
                return FinishReason.LENGTH
        return complete

    async def _try_exit_by_llm(self, exits: Exits) -> None:
        """The trial is the LLM's, too, whoever wrote the boundary: the answer is that of `llm_only` with early exit."""
        before = len(self._tokens)
        pen = await self._try_exit(exits, Model.LLM if self._may_verify() else Model.SLM)
        if len(self._tokens) > before:
            self._pen = pen

    def _may_verify(self) -> bool:
        """Whether the budget has room for a round: the LLM's token, and the switches to the LLM and back again."""
        most = self._budget.max_switches
        begun = self._pen is Model.SLM or self._budget.stop
        return not self._budget.spent(self._usage) and (begun or most is None or self._usage.num_switches + 3 <= most)

    async def _draft(self) -> array[int]:
        """What the SLM would write next; one token less than may come, for the LLM writes one, too."""
        assert isinstance(self._policy, Speculative)
        draft = tokens_of()
        num = min(self._policy.draft_tokens, self._num_left() - 1)
        if num == 0:
            return draft
        if self._pen is Model.LLM:
            self._pen = self._hand_over(Model.LLM, 0.0, SwitchReason.DRAFT)
        handoff = self._policy.handoff(Model.SLM, self._trail)

        def start(worker: WorkerSession) -> Awaitable[PendingRun]:
            del draft[:]
            return worker.try_out(tokens_of(), num, handoff, self._traceparent, self._run_ends_at(Model.SLM))

        def take(reply: Reply) -> bool:
            draft.extend(reply.tokens)
            return False

        while await self._follow(Model.SLM, start, take) is None:
            pass  # it failed: `_follow` has waited, and gives up in the end
        self._usage.num_draft_tokens += len(draft)
        return draft

    async def _verify(self, draft: array[int]) -> RunFinish | None:
        """The LLM keeps what it agrees with and writes a token; without a draft it writes a token. Takes the draft.

        Returns: how that ended; None if a stop string cut it short.
        """
        traceparent = self._traceparent if self._pen is Model.LLM else self._trace.prepare_segment(Model.LLM)
        written = False

        def start(worker: WorkerSession) -> Awaitable[PendingRun]:
            ends = self._run_ends_at(Model.LLM)
            return worker.decode(self._num_left() if draft else 1, None, traceparent, ends, draft[:])

        def take(reply: Reply) -> bool:
            nonlocal written
            num_accepted = _common_prefix(reply.tokens, draft)
            del draft[:num_accepted]
            written = num_accepted < len(reply.tokens)
            return self._keep_verified(reply, num_accepted)

        finish: RunFinish | None = None
        while finish is None and not written and self._complete() is None:
            # One that failed goes on with the rest of the draft: who wrote what is the same as if it had not.
            finish = await self._follow(Model.LLM, start, take)
        return finish

    def _keep_verified(self, reply: Reply, num_accepted: int) -> bool:
        """The first tokens are the SLM's, the rest is the LLM's. Returns whether a stop string is complete."""
        if num_accepted:
            begin = len(self._tokens)
            self._usage.num_accepted_draft_tokens += num_accepted
            stopped = self._keep(Model.SLM, Reply(reply.tokens[:num_accepted], reply.entropies[:num_accepted], None))
            num_kept = len(self._tokens) - begin
            self._workers[Model.LLM].wrote(num_kept)  # it holds them, too
            if stopped:
                self._usage.num_accepted_draft_tokens += num_kept - num_accepted
                return True
        if num_accepted == len(reply.tokens):
            return False
        return self._keep(Model.LLM, Reply(reply.tokens[num_accepted:], reply.entropies[num_accepted:], None))

    def _keep(self, pen: Model, reply: Reply, is_proposal: bool = False) -> bool:
        """As `Generation._keep`; the LLM gets the pen with the first token that it writes."""
        if pen is not self._pen:
            reason = SwitchReason.VERIFICATION if pen is Model.LLM else SwitchReason.BUDGET
            self._pen = self._hand_over(self._pen, 0.0, reason)
        return super()._keep(pen, reply, is_proposal)

    async def _rest(self) -> RunFinish | None:
        """The budget is spent: the SLM writes on, and nobody verifies it."""
        if self._pen is Model.LLM:
            self._pen = self._hand_over(Model.LLM, 0.0, SwitchReason.BUDGET)
        return await self._write(Model.SLM)

    def _handoff(self, pen: Model) -> Handoff | None:
        """Drafts alone have one."""
        return None

    def _stops(self, author: Model) -> frozenset[int]:
        """A draft ends the answer where the LLM says so."""
        return super()._stops(author if self._budget.spent(self._usage) else Model.LLM)


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two rows begin with in common."""
    pairs = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
