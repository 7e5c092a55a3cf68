"""Rollouts without models: answers of a few unsure places, of which it is known what staying there costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from evals.latency import Run
from evals.tasks.data import Problem
from rstitch.client.events import Consultation
from rstitch.client.policies import Learned, LlmOnly, SlmOnly
from rstitch.service.coin import uniform
from rstitch.service.consulting import Consultant, HeadTerms, in_half_precision
from rstitch.service.head import Head
from training.head.rollouts.types import Asked, Job, Rollout

HIDDEN_SIZE = 8
HARM = (0.0, 0.02, 0.2, 0.5)  # of each place of an answer: the probability that the SLM's own token makes it wrong
BASE_MS, CALL_MS = 20.0, 5.0


def toy_problems(num: int) -> list[Problem]:
    return [Problem(index, str(index), f"question {index}", "") for index in range(num)]


@dataclass
class ToyRollouts:
    """`Rollouts` whose answers are a function of question, decisions and seed. `num_written` counts them.

    Attributes:
        fails_after: raises KeyboardInterrupt once so many answers were told.
    """

    heads: dict[str, Head] = field(default_factory=dict)
    num_written: int = 0
    fails_after: int | None = None

    def use(self, head: Head) -> str:
        name = f"toy@{head.version}"
        self.heads[name] = head
        return name

    def run(
        self, jobs: Sequence[Job], policy: Asked, on_done: Callable[[Rollout], None] = lambda rollout: None
    ) -> list[Rollout]:
        made = []
        for job in jobs:
            if self.fails_after is not None and self.num_written >= self.fails_after:
                raise KeyboardInterrupt
            made.append(self._written(job, policy))
            self.num_written += 1
            on_done(made[-1])
        return made

    def _written(self, job: Job, policy: Asked) -> Rollout:
        consultations: list[Consultation] = []
        num_llm, is_right = 0, True
        for place, harm in enumerate(HARM):
            to_llm = isinstance(policy, LlmOnly)
            if isinstance(policy, Learned):
                rng = np.random.default_rng((job.problem.index, place))
                state = rng.normal(0, 0.3, HIDDEN_SIZE).astype("<f4")
                state[place] += 1
                terms = HeadTerms(10 + place, job.explore_seed, num_llm_tokens=num_llm)
                said = Consultant(self.heads[policy.name], terms).ask(state.tobytes(), 10 + place, 0.5)
                to_llm = said.to_llm
                consultations.append(
                    Consultation(
                        said.position,
                        in_half_precision(said.hidden_state),
                        said.entropy,
                        place,
                        said.features,
                        said.probability,
                        said.to_llm,
                        said.context_length,
                    )
                )
            num_llm += to_llm
            # What goes wrong is the question's own, so that answers to one question are alike.
            is_right &= to_llm or uniform(job.problem.index, place, b"harm") >= harm
        runs = (Run("llm", 4),) if isinstance(policy, LlmOnly) else (Run("slm", 4),)
        assert isinstance(policy, Learned | LlmOnly | SlmOnly)
        return Rollout(
            job.problem, f"{num_llm} calls", is_right, BASE_MS + CALL_MS * num_llm, len(HARM), num_llm, runs,
            tuple(consultations), "", job.explore_seed, job.llm_tokens, len(consultations),
        )  # fmt: skip
