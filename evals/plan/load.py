"""What comes to a fleet, and what an answer asks of each model. It knows no worker and no time that anything takes.

An answer begins with the SLM where both models write. Every token that one model wrote is computed by the other, too:
in the background, so that a switch costs one step. Only what it lags by at the answer's end it need not compute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rstitch.errors import invalid

Role = Literal["slm", "llm"]
ROLES: tuple[Role, Role] = ("slm", "llm")
LAG = 16  # tokens that the other model has not seen, on average: half of a router's --catch-up-tokens


@dataclass(frozen=True, slots=True)
class Demand:
    """What an answer asks of one model, on average.

    Attributes:
        steps: rows that decode, with proposals that are thrown away.
        others: tokens that are only computed: the prompt, and what the other model wrote.
        runs: times that it begins to write.
    """

    steps: float
    others: float
    runs: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What answers are like. Raises RstitchError for what cannot be.

    Attributes:
        tokens: of an answer, on average; `cv` is their standard deviation over that.
        prompt_tokens: that have to be computed before the first; `held_tokens` of earlier turns need not be.
        llm_share: of the tokens.
        switches: in 100 tokens, in both directions together.
        unseen_tokens: by which the model that did not write last lags at the end.
    """

    tokens: float = 1000.0
    cv: float = 0.6
    prompt_tokens: float = 300.0
    held_tokens: float = 0.0
    llm_share: float = 0.2
    switches: float = 4.0
    unseen_tokens: float = LAG

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--tokens", self.tokens, 1), ("--tokens-cv", self.cv, 0), ("--prompt-tokens", self.prompt_tokens, 1),
            ("--held-tokens", self.held_tokens, 0), ("--switches", self.switches, 0),
        ):  # fmt: skip
            if not least <= value < math.inf:
                raise invalid(flag, f"{value:g} is out of range.", f"Give {least} or more.")
        if not 0 <= self.llm_share <= 1:
            raise invalid("--llm-share", f"{self.llm_share:g} is no share.", "Give 0 to 1, or 0% to 100%.")
        if self.is_routed != bool(self.switches):
            remedy = "Give more than 0 where both models write, and 0 where one does."
            raise invalid("--switches", f"{self.switches:g} do not go with an LLM share of {self.llm_share:g}.", remedy)
        most = 200 * min(self.llm_share, 1 - self.llm_share)
        if self.switches > most + 1e-9:
            what = f"{self.switches:g} in 100 tokens leave no token to each run at an LLM share of {self.llm_share:g}."
            raise invalid("--switches", what, f"Give at most {most:g}.")

    @property
    def is_routed(self) -> bool:
        """Tells whether both models write."""
        return 0 < self.llm_share < 1

    @property
    def num_switches(self) -> float:
        """Of an answer, on average; half of them go to the LLM."""
        return self.tokens * self.switches / 100

    @property
    def context(self) -> float:
        """Tokens before a row, on average over an answer's steps: a long answer has more of them."""
        return self.held_tokens + self.prompt_tokens + self.tokens * (1 + self.cv**2) / 2

    @property
    def kept_tokens(self) -> float:
        """Tokens of a session at the end of an answer, which workers should have room for."""
        return self.held_tokens + self.prompt_tokens + self.tokens

    def demand(self, role: Role) -> Demand:
        """What one answer asks of a model; nothing of one that takes no part."""
        by_llm, to_llm = self.tokens * self.llm_share, self.num_switches / 2
        own, other = (by_llm, self.tokens - by_llm) if role == "llm" else (self.tokens - by_llm, by_llm)
        if not own:
            return Demand(0, 0, 0)
        # Taken as likely to end an answer as it is to write a token of it.
        seen = max(0.0, other - self.unseen_tokens * other / self.tokens)
        if role == "llm":
            return Demand(own, self.prompt_tokens + seen, to_llm if self.is_routed else 1)
        return Demand(own + to_llm, self.prompt_tokens + seen, to_llm + 1)
