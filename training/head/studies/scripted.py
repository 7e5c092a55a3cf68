"""Answers to a tiny task's questions in one process, decided by scripts, thresholds and heads. It searches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from evals.asking.systems import Terms
from evals.checking.checkers import checker_of
from evals.latency import LatencyModel
from evals.tasks import task as tasks
from evals.tasks.data import Problem, load_data
from rstitch.client.policies import Learned, LlmOnly, Threshold
from rstitch.service.head import Head
from training.head.rollouts.engines import open_engines
from training.head.rollouts.in_process import InProcessRollouts
from training.head.rollouts.judging import Judge
from training.head.rollouts.types import Asked, Job, Rollout
from training.head.studies.hand_overs import STAY, Path, Script


@dataclass(frozen=True, slots=True)
class _ScriptedJob(Job):
    """An answer whose hand-overs a script decides; `decided` is what it has decided so far."""

    script: Script = STAY
    decided: list[bool] = field(default_factory=list)

    def calls(self) -> bool:
        self.decided.append(self.script.calls(len(self.decided)))
        return self.decided[-1]


class Scripted:
    """The first questions of a split, put to a pair again and again. A context manager: it holds the task's checker.

    Args:
        models: SLM and LLM, folders.
        n: questions.
    """

    def __init__(self, models: tuple[str, str], task: str, split: str, n: int, latency: LatencyModel) -> None:
        described = tasks.load(task)
        self._problems: list[Problem] = load_data(described, split=split, n=n).problems
        judge = Judge(Terms.of(described, None), checker_of(described), latency)
        self._rollouts = InProcessRollouts(open_engines(*models), judge)

    def __enter__(self) -> Self:
        self._rollouts.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._rollouts.__exit__(*raised)

    def run(self, scripts: Sequence[tuple[int, Script]], tau: float) -> list[Path]:
        """Answers questions by their number, each with its script, which is asked where the entropy is above `tau`."""
        jobs = [_ScriptedJob(self._problems[number], script=script) for number, script in scripts]
        made = self._rollouts.run(jobs, Threshold(tau))
        return [_path(each, len(job.decided), sum(job.decided)) for job, each in zip(jobs, made, strict=True)]

    def llm_only(self) -> list[Path]:
        """Answers all questions by the LLM."""
        return [_path(each, 0, 0) for each in self._all(LlmOnly())]

    def threshold(self, tau: float) -> list[Path]:
        """Answers all questions as `threshold` does."""
        calls = [(each, sum(run.discarded for run in each.runs)) for each in self._all(Threshold(tau))]
        return [_path(each, num_calls, num_calls) for each, num_calls in calls]

    def head(self, head: Head, price: float = 1.0) -> list[Path]:
        """Answers all questions as `learned` does."""
        made = self._all(Learned(self._rollouts.use(head), price=price))
        return [_path(each, len(each.consultations), sum(a.to_llm for a in each.consultations)) for each in made]

    def _all(self, policy: Asked) -> list[Rollout]:
        return self._rollouts.run([Job(problem) for problem in self._problems], policy)


def _path(rollout: Rollout, num_asked: int, num_calls: int) -> Path:
    return Path(rollout.right, rollout.latency_ms, num_asked, num_calls)
