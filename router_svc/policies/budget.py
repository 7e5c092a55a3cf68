"""What an answer may take of the LLM. It keeps nothing: the history tells what was taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from router_svc.trajectory.types import Model


class Taken(Protocol):
    """What an answer has taken of the LLM so far, as a history or a usage tells it."""

    @property
    def num_llm_tokens(self) -> int: ...

    @property
    def num_switches(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds on what one answer takes of the LLM; None: no bound."""

    llm_tokens: int | None = None
    max_switches: int | None = None  # hand-overs, counted in both directions
    stop: bool = False  # whether a spent budget ends the answer; otherwise the SLM writes the rest

    def spent(self, taken: Taken) -> list[str]:
        """Names the bounds that are reached; while there is one, the SLM does not hand over.

        To hand over takes one token and two switches: the SLM must be able to get the answer back.
        """
        reached = []
        if self.llm_tokens is not None and taken.num_llm_tokens >= self.llm_tokens:
            reached.append("llm_tokens")
        if self.max_switches is not None and taken.num_switches + 2 > self.max_switches:
            reached.append("max_switches")
        return reached

    def llm_may_write(self, writer: Model, taken: Taken) -> bool:
        """Whether the LLM may write the next token: another one of its own, or one that it takes from the SLM."""
        return self.llm_tokens_left(taken) != 0 if writer is Model.LLM else not self.spent(taken)

    def llm_may_start(self, may_return: bool) -> bool:
        """Whether the LLM may write the first token, which takes no switch; to come back takes one."""
        return self.llm_tokens != 0 and not (may_return and self.max_switches == 0)

    def llm_tokens_left(self, taken: Taken) -> int | None:
        return None if self.llm_tokens is None else max(0, self.llm_tokens - taken.num_llm_tokens)


NO_BUDGET = Budget()
