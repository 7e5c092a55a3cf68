"""A policy that lets the writer change between characters only, itself a policy.

Where the models have no ids in common the next writer reads the answer as text, and half a character is none. Until the
character is whole its writer goes on: the SLM keeps what it would have handed over, as where a head says stay; the LLM
goes on writing; a coin waits; a budget, too, lets the character be ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from router_svc.policies.policy import Handoff, History, Policy
from router_svc.trajectory.types import Model, SwitchReason


@dataclass(frozen=True, slots=True)
class WholeCharacters(Policy):
    """Decides as `policy` does, but within a character its writer stays."""

    policy: Policy

    # It never runs ahead: what the SLM wrote there would not be what it reads once the LLM has written the same.

    def first_writer(self, history: History) -> Model:
        return self.policy.first_writer(history)

    def next_writer(self, writer: Model, history: History) -> Model | None:
        return writer if history.mid_character else self.policy.next_writer(writer, history)

    def may_switch(self, history: History) -> bool:
        return not history.mid_character

    def may_write(self, model: Model) -> bool:
        return self.policy.may_write(model)

    def is_spent(self, history: History) -> bool:
        return self.policy.is_spent(history)

    def may_still_write(self, model: Model, history: History) -> bool:
        return self.policy.may_still_write(model, history)

    def handoff(self, writer: Model, history: History) -> Handoff | None:
        return self.policy.handoff(writer, history)

    def run_length(self, writer: Model, history: History) -> int | None:
        return self.policy.run_length(writer, history)

    def tokens_left(self, writer: Model, history: History) -> int | None:
        """Within a character one more at least, whatever the budget."""
        left = self.policy.tokens_left(writer, history)
        return left if left is None or not history.mid_character else max(left, 1)

    def switch_reason(self, leaving: Model, history: History) -> SwitchReason:
        return self.policy.switch_reason(leaving, history)

    def bound(self, leaving: Model) -> float | None:
        return self.policy.bound(leaving)
