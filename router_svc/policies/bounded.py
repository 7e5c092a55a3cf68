"""A policy within a budget, itself a policy, so that the decode loop knows nothing of budgets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from router_svc.policies.budget import NO_BUDGET, Budget
from router_svc.policies.policy import Handoff, History, Policy
from router_svc.trajectory.types import Model, SwitchReason


@dataclass(frozen=True, slots=True)
class BoundedPolicy(Policy):
    """Decides as `policy` does while the budget lasts; then the SLM writes the rest, or the answer ends."""

    policy: Policy
    budget: Budget

    # It never runs ahead: a budget that the LLM is about to spend would change the hand-off condition.

    def first_writer(self, history: History) -> Model:
        first = self.policy.first_writer(history)
        may_return = self.policy.may_write(Model.SLM)
        return first if first is Model.SLM or self.budget.llm_may_start(may_return) else Model.SLM

    def next_writer(self, writer: Model, history: History) -> Model | None:
        # Asked first, so that a budget that is not needed changes nothing.
        wanted = self.policy.next_writer(writer, history)
        if wanted is not Model.LLM or self.budget.llm_may_write(writer, history):
            return wanted
        return None if self.budget.stop else Model.SLM

    def may_write(self, model: Model) -> bool:
        """The SLM writes the rest once the LLM's tokens are spent, whatever the policy."""
        rest = model is Model.SLM and self.budget.llm_tokens is not None and not self.budget.stop
        return rest or self.policy.may_write(model)

    def is_spent(self, history: History) -> bool:
        return bool(self.budget.spent(history))

    def may_still_write(self, model: Model, history: History) -> bool:
        """The LLM can take over while no bound is reached."""
        return self.may_write(model) and (model is Model.SLM or not self.is_spent(history))

    def handoff(self, writer: Model, history: History) -> Handoff | None:
        """None where the SLM may not hand over any more and writes the rest."""
        if writer is Model.SLM and not self.budget.stop and self.is_spent(history):
            return None
        wanted = self.policy.handoff(writer, history)
        if wanted is None or wanted.terms is None:
            return wanted
        terms = replace(wanted.terms, llm_tokens_left=self.budget.llm_tokens_left(history))
        return replace(wanted, terms=terms)

    def run_length(self, writer: Model, history: History) -> int | None:
        return self.policy.run_length(writer, history)

    def tokens_left(self, writer: Model, history: History) -> int | None:
        return self.budget.llm_tokens_left(history) if writer is Model.LLM else None

    def switch_reason(self, leaving: Model, history: History) -> SwitchReason:
        """The budget, where the policy would have let the LLM go on."""
        spent = leaving is Model.LLM and not self.budget.llm_may_write(leaving, history)
        if spent and self.policy.next_writer(leaving, history) is Model.LLM:
            return SwitchReason.BUDGET
        return self.policy.switch_reason(leaving, history)

    def bound(self, leaving: Model) -> float | None:
        return self.policy.bound(leaving)


def within(policy: Policy, budget: Budget) -> Policy:
    """Puts `policy` under `budget`, if that bounds anything."""
    return policy if budget == NO_BUDGET else BoundedPolicy(policy, budget)
