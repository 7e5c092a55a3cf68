"""What the LLM and the SLM do alone, before anything is trained: what makes training pointless is refused or said here.

It asks through `Rollouts` and knows no service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from evals.checking.checkers import checker_of
from evals.figures.statistics import paired_difference
from evals.tasks.data import Problem
from evals.tasks.task import BY_ANSWER, Task
from rstitch.client.policies import LlmOnly, SlmOnly
from rstitch.errors import invalid
from training.head.evaluate import Figures, figures_of
from training.head.questions import solution_of
from training.head.rollouts import Job, Rollout, Rollouts

_NUM_CHECKED = 8  # references that the checker should call right
_SHOWN = 80  # characters of an answer


@dataclass(frozen=True, slots=True)
class Baselines:
    """Both models alone on the same questions.

    Attributes:
        harmed: share of the questions that the LLM alone gets right and the SLM alone does not.
        helped: the reverse.
        notes: what does not forbid training and should be known before it.
    """

    llm_only: Figures
    slm_only: Figures
    harmed: float
    helped: float
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """From what `dataclasses.asdict` made of it."""
        llm, slm = Figures(**plain["llm_only"]), Figures(**plain["slm_only"])
        return cls(llm, slm, plain["harmed"], plain["helped"], tuple(plain["notes"]))


def check_checker(task: Task, problems: Sequence[Problem], num: int = _NUM_CHECKED) -> None:
    """Tries the checker before any answer is written: it should call the data's own answers right, and not fail.

    Raises: RstitchError (INVALID_ARGUMENT) that names the problem.
    """
    asyncio.run(_check_checker(task, problems[:num]))


async def _check_checker(task: Task, problems: Sequence[Problem]) -> None:
    async with checker_of(task) as checker:
        for problem in problems:
            solution = solution_of(problem)
            text = solution or f"\\boxed{{{problem.reference}}}"
            verdict = await checker.check(problem, text)
            if verdict.correct or not (solution or task.check in BY_ANSWER):
                continue  # of a function of the user's it is not known what a right text looks like
            why = f": {verdict.detail}" if verdict.detail else ""
            raise invalid(
                "--check",
                f"it calls the data's own answer to problem {problem.id} wrong{why}: {_end(text)!r}.",
                'Mend the answer, or choose another check: "exact" compares texts.' if task.check in BY_ANSWER else
                "Mend the check, or leave out the column `solution`.",
            )  # fmt: skip


def measure(
    rollouts: Rollouts, task: Task, problems: Sequence[Problem], on_done: Callable[[Rollout], None]
) -> Baselines:
    """Has both models answer the questions by themselves. Raises RstitchError where training cannot help."""
    jobs = [Job(problem) for problem in problems]
    return baselines_of(task, rollouts.run(jobs, LlmOnly(), on_done), rollouts.run(jobs, SlmOnly(), on_done))


def baselines_of(task: Task, llm: Sequence[Rollout], slm: Sequence[Rollout]) -> Baselines:
    """Compares answers of both models to the same questions.

    Raises: RstitchError (INVALID_ARGUMENT) if the checker never says right, or the LLM never is.
    """
    _refuse_wrong(task, llm, slm)
    pairs = [(ours.right, theirs.right) for ours, theirs in zip(slm, llm, strict=True)]
    harmed = sum(theirs and not ours for ours, theirs in pairs) / len(pairs)
    helped = sum(ours and not theirs for ours, theirs in pairs) / len(pairs)
    alone = figures_of("llm_only", llm), figures_of("slm_only", slm)
    return Baselines(*alone, harmed, helped, tuple(_notes(*alone, pairs)))


def _refuse_wrong(task: Task, llm: Sequence[Rollout], slm: Sequence[Rollout]) -> None:
    if any(each.right for each in llm):
        return
    num_right, n = sum(each.right for each in slm), len(llm)
    if num_right:
        what = f"the LLM alone is right in none of {n} questions, the SLM alone in {num_right}."
        raise invalid("--llm", what, "Nothing is to be had from such an LLM. Are the two the right way round?")
    limit = task.max_new_tokens
    num_cut = sum(each.num_tokens >= limit for each in llm)
    example = next((each for each in llm if each.num_tokens < limit), llm[0])
    raise invalid(
        "--check",
        f"no answer of either model to {n} questions is right; {num_cut} of the LLM's were cut off at {limit} tokens. "
        f"Problem {example.problem.id} wants {example.problem.reference!r}; the LLM ends {_end(example.text)!r}.",
        "If that is right, mend the check; if it is cut off, raise --max-new-tokens; if it lacks its box, ask for one "
        "by --prompt; else take easier questions.",
    )


def _notes(llm: Figures, slm: Figures, pairs: Sequence[tuple[bool, bool]]) -> list[str]:
    notes = []
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    difference, low, high = (100 * share for share in paired_difference(theirs, ours))
    if low <= 0:
        notes.append(
            f"nothing to stitch: the LLM alone is not shown to be better than the SLM alone ({difference:+.1f} "
            f"[{low:+.1f}, {high:+.1f}] points, n = {llm.n}). Serve slm_only, or take harder questions."
        )
    if slm.latency_ms >= llm.latency_ms:
        notes.append(
            f"nothing to save: an answer takes the SLM {slm.latency_ms:.4g} ms and the LLM {llm.latency_ms:.4g} ms "
            "alone (modelled), by its length or its steps. `rstitch pairs` looks for a better SLM."
        )
    return notes


def _end(text: str) -> str:
    return text if len(text) <= _SHOWN else f"...{text[-_SHOWN:]}"
