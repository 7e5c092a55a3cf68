"""What is asked: a system takes one question at a time or many, and gives a `Record` of each answer, not yet judged."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from evals.asking.record import Record, entropies_of, parts_of
from evals.tasks.data import Problem
from evals.tasks.task import Task
from rstitch.client.aio import AsyncClient
from rstitch.client.specs import Spec, parse, text_of
from rstitch.client.types import Answer, Chunk, Event, Message, Policy, Random, Sampling, Started
from rstitch.errors import RstitchError

# Refusals of a question, not of a system that is not there: the answer counts as wrong.
_REFUSALS = {"INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION"}
# Tokens of an answer that is begun to see whether it can be.
_TRY_TOKENS = 8
GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms on which every system is asked.

    Attributes:
        max_new_tokens: of an answer; 0: the router's default.
        sampling: of the first sample; those after it have the seeds that follow.
        message: the system message before a question.
        input: through the models' chat template, or as plain text.
    """

    max_new_tokens: int
    sampling: Sampling = GREEDY
    message: str = ""
    input: Literal["chat", "text"] = "chat"
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: Task, max_new_tokens: int | None = None, sampling: Sampling = GREEDY) -> Terms:
        return cls(max_new_tokens or task.max_new_tokens, sampling, task.system, task.input, task.stop)

    def question(self, prompt: str) -> dict[str, Any]:
        """The input of `generate`: plain text, or a chat for the models' template."""
        if self.input == "text":
            return {"text": prompt}
        before = [Message("system", self.message)] if self.message else []
        return {"chat": [*before, Message("user", prompt)]}


class System(ABC):
    """Something that answers questions, many at a time unless `is_single`."""

    is_single = False

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    async def answer(self, problem: Problem, sample: int = 0) -> Record:
        """One answer. Its `client_ttft_ms` counts from this call; verdict and other times are the caller's to fill."""

    async def try_out(self, problem: Problem) -> None:  # noqa: B027 - most need none
        """Begins an answer, uncounted. Raises RstitchError where the system is not there or has no room."""

    async def forget(self) -> None:  # noqa: B027 - most have nothing to forget
        """Drops what the answers left behind; called outside of the measured time."""


class Served(System):
    """The whole stack under a spec: client, router, Redis, two workers."""

    def __init__(self, name: str, client: AsyncClient, spec: Spec | Policy, terms: Terms) -> None:
        super().__init__(name)
        self.client = client
        self.spec = spec if isinstance(spec, Spec) else Spec(spec)
        self.terms = terms
        self._session_ids: list[str] = []

    async def answer(self, problem: Problem, sample: int = 0) -> Record:
        """One answer; a question that the router refuses has an `error`. Raises RstitchError if the service is lost."""
        record = Record(self.name, problem.index, problem.id, sample, self.terms.sampling.seed + sample)
        begin, first_s, events = time.perf_counter(), 0.0, list[Event]()
        try:
            async for event in self._events(problem, sample):
                if not first_s and isinstance(event, Chunk):
                    first_s = time.perf_counter()
                events.append(event)
        except RstitchError as error:
            if error.code.name not in _REFUSALS:
                raise
            return dataclasses.replace(record, error=str(error))
        answer = Answer.of(events)
        self._session_ids.append(answer.session_id)
        finished = answer.finished
        return dataclasses.replace(
            record,
            session_id=answer.session_id,
            trace_id=next(event.trace_id for event in events if isinstance(event, Started)),
            finish=finished.reason.value,
            budget_spent=tuple(finished.budget_spent),
            exited_early=finished.early_exit is not None,
            client_ttft_ms=round(1000 * (first_s - begin), 3) if first_s else 0.0,
            usage=dataclasses.asdict(finished.usage),
            parts=parts_of(events),
            tokens=answer.tokens,
            entropies=entropies_of(answer),
        )

    async def try_out(self, problem: Problem) -> None:
        """Begins an answer and stops it: a system that cannot answer is refused now. Raises RstitchError, naming it."""
        session_id, enough = "", 0
        try:
            async with aclosing(self._events(problem, 0)) as events:
                async for event in events:
                    if isinstance(event, Started):
                        session_id, enough = event.session_id, event.position + _TRY_TOKENS
                    elif isinstance(event, Chunk) and event.position + len(event.tokens) >= enough:
                        break
            await self.client.delete_trajectory(session_id)  # stops it, too
        except RstitchError as error:
            error.message = f"{self.name}: {error.message}"
            raise

    async def forget(self) -> None:
        """Deletes the trajectories, so that no stack grows slower than another."""
        for session_id in self._session_ids:
            await self.client.delete_trajectory(session_id)
        self._session_ids.clear()

    def arguments(self, problem: Problem, sample: int) -> dict[str, Any]:
        seed = self.terms.sampling.seed + sample
        return self.terms.question(problem.prompt) | {
            "policy": _seeded(self.spec.policy, seed * 1_000_003 + problem.index),
            "early_exit": self.spec.early_exit,
            "budget": self.spec.budget,
            "sampling": dataclasses.replace(self.terms.sampling, seed=seed),
            "max_new_tokens": self.terms.max_new_tokens,
            "stop": self.terms.stop,
            "guard": False,  # what was asked for is what is measured
        }

    def _events(self, problem: Problem, sample: int) -> AsyncGenerator[Event, None]:
        events = self.client.generate(**self.arguments(problem, sample))
        assert isinstance(events, AsyncGenerator)
        return events


def named_specs(words: Sequence[str]) -> dict[str, Spec]:
    """The specs that are named in the words of `rstitch ask --policy`, once each. Raises RstitchError for bad ones."""
    return {text_of(spec): spec for spec in map(parse, words)}


def _seeded(policy: Policy | None, seed: int) -> Policy | None:
    """The policy with this seed, if it flips coins and has none: the same answers another time."""
    if isinstance(policy, Random) and policy.seed is None:
        return dataclasses.replace(policy, seed=seed)
    return policy
