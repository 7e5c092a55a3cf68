"""Whole answers of a running stack beside what the model says of them. One question at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evals.asking.ask import Job, ask
from evals.asking.systems import Served, Terms
from evals.latency.calls import Run, Service, are_two, runs_of
from evals.latency.fit import fit_serving
from evals.latency.formulas import Serving
from evals.latency.model import LatencyModel
from evals.tasks.data import Problem
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Policy, SlmOnly, Threshold
from rstitch.errors import invalid

# From no hand-over to very many.
POLICIES: dict[str, Policy] = {
    "llm_only": LlmOnly(),
    "slm_only": SlmOnly(),
    "tau 0.001": Threshold(0.001),
    "tau 0.005": Threshold(0.005),
    "tau 0.02": Threshold(0.02),
    "tau 0.05": Threshold(0.05),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One answer: how it was asked for, which calls it made, and how long the client waited for it, in ms."""

    system: str
    num_prompt_tokens: int
    runs: tuple[Run, ...]
    latency_ms: float

    @property
    def num_calls(self) -> int:
        """How often a model began to write."""
        return sum(run.num_calls > 0 for run in self.runs)

    @property
    def num_steps(self) -> int:
        """Forwards that the answer waited for."""
        return sum(run.num_calls for run in self.runs)


class Asker:
    """Asks a router each question by every policy, in an order of its own."""

    def __init__(self, client: AsyncClient, max_new_tokens: int, seed: int) -> None:
        self._client = client
        self._systems = [Served(name, client, policy, Terms(max_new_tokens)) for name, policy in POLICIES.items()]
        self._random = random.Random(seed)

    async def ask(self, question: str, tick: Callable[[], None] = lambda: None) -> list[Measured]:
        """One answer of each policy. The trajectories are deleted. Raises RstitchError if one is refused."""
        problem = Problem(0, "", question, "")
        wanted = [Job(system, problem) for system in self._random.sample(self._systems, len(self._systems))]
        answers = []
        for record in await ask(wanted, on_record=lambda record: tick()):
            if record.error:
                raise invalid("--max-new-tokens", record.error, "Ask for what the router allows.")
            num_prompt_tokens, runs = runs_of(await self._client.trajectory(record.session_id))
            answers.append(Measured(record.system, num_prompt_tokens, tuple(runs), record.client_ms))
        for system in self._systems:
            await system.forget()
        return answers


def serving_of(model: LatencyModel, answers: Sequence[Measured], service: Service) -> Serving:
    """What serving adds, from answers that are not used to check it."""
    bare = Service(service.catch_up_tokens, overheads=False)
    steps = np.array([model.trajectory_ms(a.num_prompt_tokens, a.runs, bare) for a in answers])
    total = np.array([a.latency_ms for a in answers])
    beside = bool(service.catch_up_tokens)
    counts = [[a.num_calls, a.num_steps, a.num_steps * (beside and are_two(a.runs))] for a in answers]
    return fit_serving(total - steps, total, np.array(counts, float))
