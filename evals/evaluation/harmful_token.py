"""The first harmful token of a wrong answer, looked for with the LLM: the definition of R-Stitch (arXiv 2507.17307)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evals.asking.record import Record
from evals.asking.systems import Terms
from evals.checking.checker import Checker
from evals.tasks.data import Problem
from evals.tasks.task import Task
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Source

Verdict = Literal["found", "never right", "by the LLM", "at the end"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What became of one wrong answer.

    Attributes:
        index: of the first harmful token in the answer, if found.
        verdict: "found"; "never right": the LLM alone is wrong, too; "by the LLM": the answer turned wrong within
            tokens of the LLM; "at the end": the LLM ends right after every token but the last.
        num_asked: continuations that it took.
    """

    system: str
    problem: int
    verdict: Verdict
    index: int = -1
    num_asked: int = 0


@dataclass(frozen=True, slots=True)
class Search:
    """Looks for the turn of one answer: the LLM goes on from prefixes of it."""

    client: AsyncClient
    task: Task
    checker: Checker
    max_new_tokens: int

    async def turn(self, problem: Problem, record: Record, scan: bool) -> Turn:
        prompt, prompt_text = await self._prompt(problem)
        asked: dict[int, bool] = {}

        async def is_right(length: int) -> bool:
            """Whether the LLM ends right after so many tokens of the answer."""
            if length not in asked:
                asked[length] = await self._ends_right(problem, prompt, prompt_text, record.tokens[:length])
            return asked[length]

        # After each of these tokens the LLM can go on; not after the one that ended the answer.
        indices = [i for i, model in enumerate(record.models) if model == "slm"]
        indices = [i for i in indices if not (record.finish == "stop" and i == len(record.tokens) - 1)]

        def told(verdict: Verdict, index: int = -1) -> Turn:
            return Turn(record.system, record.problem, verdict, index, len(asked))

        if not await is_right(0):
            return told("never right")
        if not indices:
            return told("by the LLM")
        if scan:
            turned = 0
            while turned < len(indices) and await is_right(indices[turned] + 1):
                turned += 1
        elif await is_right(indices[-1] + 1):
            turned = len(indices)
        else:
            right, turned = -1, len(indices) - 1
            while turned - right > 1:
                middle = (right + turned) // 2
                right, turned = (middle, turned) if await is_right(indices[middle] + 1) else (right, middle)
        if turned == len(indices):
            return told("at the end")
        index = indices[turned]
        # Tokens of the LLM may lie between this token of the SLM and the one before.
        return told("found", index) if await is_right(index) else told("by the LLM", index)

    async def _prompt(self, problem: Problem) -> tuple[tuple[int, ...], str]:
        question = Terms.of(self.task).question(problem.prompt)
        answer = await self.client.answer(**question, policy=LlmOnly(), max_new_tokens=1, guard=False)
        segments = (await self.client.trajectory(answer.session_id)).segments
        prompts = [segment for segment in segments if segment.source is Source.PROMPT]
        tokens = tuple(token for segment in prompts for token in segment.tokens)
        return tokens, "".join(segment.text for segment in prompts)

    async def _ends_right(
        self, problem: Problem, prompt: tuple[int, ...], prompt_text: str, prefix: tuple[int, ...]
    ) -> bool:
        answer = await self.client.answer(
            tokens=[*prompt, *prefix],
            policy=LlmOnly(),
            max_new_tokens=max(1, self.max_new_tokens - len(prefix)),
            stop=self.task.stop,
            guard=False,
        )
        whole = (await self.client.trajectory(answer.session_id)).text
        return (await self.checker.check(problem, whole.removeprefix(prompt_text))).correct
