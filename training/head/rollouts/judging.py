"""From what was written to a judged `Rollout`. It knows neither engines nor services."""

from __future__ import annotations

from dataclasses import dataclass

from evals.asking.systems import Terms
from evals.checking.checker import Checker
from evals.latency import LatencyModel, Run, Service
from rstitch.client.events import Consultation
from training.head.rollouts.types import Job, Rollout

_SERVICE = Service()


@dataclass(frozen=True, slots=True)
class Written:
    """One answer as it was written.

    Attributes:
        num_prompt_tokens: before it.
        runs: who wrote how much, in order.
    """

    text: str
    num_prompt_tokens: int
    runs: tuple[Run, ...]
    consultations: tuple[Consultation, ...] = ()
    session_id: str = ""
    num_consultations: int = 0


@dataclass(frozen=True, slots=True)
class Judge:
    """How answers are asked for and judged: alike, whoever writes them.

    Attributes:
        latency: gives the reward's L, as `service` serves.
    """

    terms: Terms
    checker: Checker
    latency: LatencyModel
    service: Service = _SERVICE

    async def judged(self, job: Job, written: Written) -> Rollout:
        """Checks the answer, which may take a while, and models its latency."""
        verdict = await self.checker.check(job.problem, written.text)
        return Rollout(
            job.problem,
            written.text,
            verdict.correct,
            self.latency.trajectory_ms(written.num_prompt_tokens, written.runs, self.service),
            sum(run.num_tokens for run in written.runs),
            sum(run.num_tokens for run in written.runs if run.model == "llm"),
            written.runs,
            written.consultations,
            written.session_id,
            job.explore_seed,
            job.llm_tokens,
            written.num_consultations,
        )


def unanswered(job: Job) -> Rollout:
    """Stands for the answer to a question that does not fit the models: wrong, and of no length."""
    return Rollout(job.problem, "", False, 0.0, 0, 0, (), explore_seed=job.explore_seed, llm_tokens=job.llm_tokens)
