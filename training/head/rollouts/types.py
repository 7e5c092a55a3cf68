"""What a trainer asks for and gets: answers with their consultations. It knows neither engines nor services.

Answers are written by the served system (`served`), on as many workers as there are, and for the laws and for oracles
by two engines in this process (`in_process`). Both give the same answers for the same seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from evals.latency import Run
from evals.tasks.data import Problem
from rstitch.client.events import Consultation
from rstitch.client.policies import Learned, LlmOnly, SlmOnly, Threshold
from rstitch.service.head import Head

Asked = Learned | Threshold | LlmOnly | SlmOnly


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to be had.

    Attributes:
        explore_seed: of the coins of policy `learned`; None: the head decides by itself.
        llm_tokens: budget of the LLM; None: no bound.
    """

    problem: Problem
    explore_seed: int | None = None
    llm_tokens: int | None = None

    def calls(self) -> bool:
        """Decides, in process, where the gate is passed and no head is asked: for the LLM."""
        return True


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer, judged.

    Attributes:
        latency_ms: by the latency model, as it is served.
        runs: who wrote how much, in order, as the latency model wants it.
        consultations: what the head was asked, in order; empty under other policies, and served also where no coin was
            tossed: nothing is learned of those.
        num_consultations: how often it was asked; served, of an exploring answer those that were kept, and of any other
            at least as many as the runs that did not break off say.
        session_id: of its trajectory; empty where there is none.
        explore_seed, llm_tokens: of its job.
    """

    problem: Problem
    text: str
    right: bool
    latency_ms: float
    num_tokens: int
    num_llm_tokens: int
    runs: tuple[Run, ...]
    consultations: tuple[Consultation, ...] = ()
    session_id: str = ""
    explore_seed: int | None = None
    llm_tokens: int | None = None
    num_consultations: int = 0

    @property
    def num_switches(self) -> int:
        return max(0, len(self.runs) - 1)


class Rollouts(Protocol):
    """Writes answers with frozen language models."""

    def use(self, head: Head) -> str:
        """Makes a head known; returns the name under which `Learned` finds it."""
        ...

    def run(self, jobs: Sequence[Job], policy: Asked, on_done: Callable[[Rollout], None]) -> list[Rollout]:
        """Writes the answers, in the order of the jobs; `on_done` is told each as it comes.

        A job's `explore_seed` takes the place of the policy's. Equal jobs have equal answers. Raises RstitchError if
        the service is lost.
        """
        ...
