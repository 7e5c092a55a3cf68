"""What an answer may take of the LLM, and what it has taken. It keeps nothing: usage tells it all."""

from __future__ import annotations

from dataclasses import dataclass

from router_svc.trajectory.types import Model
from router_svc.trajectory.usage import Usage


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of one answer.

    Attributes:
        llm_tokens: the LLM writes at most so many; None: no bound.
        max_switches: hand-overs in either direction; None: no bound.
        stop: whether the answer ends when it is spent, and not the SLM writes the rest.
    """

    llm_tokens: int | None = None
    max_switches: int | None = None
    stop: bool = False

    def spent(self, usage: Usage) -> list[str]:
        """The bounds that are reached, by name: while there is one, the SLM does not hand over. To hand over takes a
        token, and two switches: the pen must be able to come back.
        """
        made = []
        if self.llm_tokens is not None and usage.num_llm_tokens >= self.llm_tokens:
            made.append("llm_tokens")
        if self.max_switches is not None and usage.num_switches + 2 > self.max_switches:
            made.append("max_switches")
        return made

    def llm_may_write(self, pen: Model, usage: Usage) -> bool:
        """Whether the LLM may write the next token: a new one of its own, or one that it takes from the SLM."""
        return self.llm_tokens_left(usage) != 0 if pen is Model.LLM else not self.spent(usage)

    def llm_may_start(self, may_return: bool) -> bool:
        """Whether the LLM may write the first token, which takes no switch; to come back takes one."""
        return self.llm_tokens != 0 and not (may_return and self.max_switches == 0)

    def llm_tokens_left(self, usage: Usage) -> int | None:
        """None: no bound."""
        return None if self.llm_tokens is None else max(0, self.llm_tokens - usage.num_llm_tokens)


NO_BUDGET = Budget()
