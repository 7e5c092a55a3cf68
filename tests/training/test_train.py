"""Training of heads on a toy whose best policy is known: runs are functions of their seed, and outlive any kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rstitch.client.policies import Learned
from rstitch.errors import InvalidArgument
from rstitch.service.head import HeadFacts
from tests.support.toy_rollouts import BASE_MS, CALL_MS, HARM, HIDDEN_SIZE, ToyRollouts, toy_problems
from training.head.choice import best_look
from training.head.dual import Dual, dual_of
from training.head.effort import Clock
from training.head.evaluate import figures_of
from training.head.mlp import Policy
from training.head.recipe import FAST
from training.head.rollouts.kept import KeptRollouts
from training.head.rollouts.types import Job
from training.head.train import CHECKPOINT, LOG, Look, Setting, Trainer
from training.head.work import Work

LLM_MS = BASE_MS + CALL_MS * len(HARM)
PRICED = dual_of(0.004, None, None, 1.0, LLM_MS, 100)


def trainer(
    folder: Path, toy: ToyRollouts | None = None, dual: Dual = PRICED, features: tuple[str, ...] = (), **recipe: object
) -> Trainer:
    made = replace(FAST, **recipe)  # type: ignore[arg-type]
    torch.manual_seed(made.seed)
    policy = Policy(HIDDEN_SIZE, 0, (8,), 0.5, features)
    setting = Setting(toy_problems(64), HeadFacts(HIDDEN_SIZE, "", 0.1, features=features), dual, 100.0)
    rollouts = KeptRollouts(toy or ToyRollouts(), folder, Clock(folder / "clock.json"))
    return Trainer(made, setting, rollouts, policy, folder)


def test_a_run_is_a_function_of_its_seed_and_outlives_kills(tmp_path: Path) -> None:
    dual = dual_of(None, 0.05, None, 1.0, LLM_MS, 100)
    whole = trainer(tmp_path / "whole", dual=dual)
    curves = [whole.step(), whole.step()]
    assert trainer(tmp_path / "other", dual=dual, seed=2).step() != curves[0]

    folder = tmp_path / "killed"
    broken = trainer(folder, dual=dual)
    broken.step()
    again = trainer(folder, ToyRollouts(fails_after=4), dual)
    assert again.resume()
    with pytest.raises(KeyboardInterrupt):
        again.step()
    toy = ToyRollouts()
    again = trainer(folder, toy, dual)
    assert again.resume()
    assert again.step() == curves[1]
    assert toy.num_written == FAST.num_questions * FAST.group_size * curves[1]["num_groups_seen"] // 2 - 4
    assert again.head().version == whole.head().version != trainer(tmp_path / "new").head().version
    assert again.price == whole.price != dual.begin()
    assert (curves[1]["slack_low"], curves[1]["slack"], curves[1]["slack_high"]) == dual.interval(whole.price)
    assert [json.loads(line) for line in (folder / LOG).read_text().splitlines()] == curves
    assert sorted(path.name for path in folder.iterdir()) == [CHECKPOINT, "clock.json", LOG]


def test_dapo_learns_where_the_llm_is_worth_its_time(tmp_path: Path) -> None:
    """It begins with one probability everywhere, and learns where a call avoids more harm."""
    dual = dual_of(0.006, None, None, 1.0, LLM_MS, 100)
    made = trainer(tmp_path, dual=dual, num_questions=32, group_size=8, lr=2e-2, num_minibatches=4, max_rounds=1)
    for _ in range(8):
        made.step()
    assert "slack" not in made.curves[-1], "there is no target"
    toy = ToyRollouts()
    asked = toy.run([Job(problem) for problem in toy_problems(100)], Learned(toy.use(made.head())))
    chances = np.mean([[said.probability for said in each.consultations] for each in asked], axis=0)
    log_odds = np.log(chances / (1 - chances))
    assert list(log_odds) == sorted(log_odds)
    assert log_odds[3] - log_odds[0] > 1


def test_heads_that_see_what_is_left_are_trained_within_budgets(tmp_path: Path) -> None:
    made = trainer(tmp_path, features=("left",), num_questions=16, group_size=2)
    jobs: list[Job] = []
    run = made._rollouts.run
    made._rollouts.run = lambda given, *rest: (jobs.extend(given), run(given, *rest))[1]  # type: ignore[method-assign]
    made.step()
    budgets = [job.llm_tokens for job in jobs]
    assert budgets[::2] == budgets[1::2], "answers to one question have one budget"
    bounded = [budget for budget in budgets if budget is not None]
    assert 0 < len(bounded) < len(budgets)
    assert 1 <= min(bounded) < max(bounded) <= 100


def test_the_head_that_is_taken_serves_what_was_asked_for() -> None:
    toy = ToyRollouts()
    (rollout,) = toy.run([Job(toy_problems(1)[0])], Learned(toy.use(trainer_head())))
    figures = figures_of("look", [rollout])

    def look(step: int, accuracy: float, latency_ms: float) -> Look:
        right_ms = accuracy * latency_ms
        told = replace(figures, accuracy=accuracy, latency_ms=latency_ms, right_latency_ms=right_ms)
        return Look(step, told, 0.0, b"")

    looks = [look(0, 0.96, 60.0), look(1, 0.95, 50.0), look(2, 0.90, 30.0), look(3, 0.94, 45.0)]
    loss = dual_of(None, 0.02, None, 0.96, 80.0, 100)
    assert best_look(looks, loss, 0.96, 0.0).step == 3
    assert best_look(looks, loss, 1.0, 0.0).step == 0, "none keeps it: the most accurate"
    assert best_look(looks, dual_of(None, None, 1.6, 0.96, 80.0, 100), 0.96, 0.0).step == 1
    assert best_look(looks, dual_of(None, None, 4, 0.96, 80.0, 100), 0.96, 0.0).step == 2, "none is so fast"
    assert best_look(looks, PRICED, 0.96, 1e-4).step == 0
    assert best_look(looks, PRICED, 0.96, 1e-2).step == 2


def trainer_head():  # type: ignore[no-untyped-def]
    return Policy(HIDDEN_SIZE, 0, (8,), 0.5).to_head(HeadFacts(HIDDEN_SIZE, "", 0.1))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    work = Work(tmp_path, {"recipe": {"seed": 1}, "questions": "abc"})
    assert work.stage("some", lambda: [1]) == [1]
    again = Work(tmp_path, {"recipe": {"seed": 1}, "questions": "abc"})
    assert again.stage("some", lambda: [2]) == [1]
    with pytest.raises(InvalidArgument, match=r"another recipe \(seed 1, not 2"):
        Work(tmp_path, {"recipe": {"seed": 2}, "questions": "abc"})
    with pytest.raises(InvalidArgument, match="another questions"):
        Work(tmp_path, {"recipe": {"seed": 1}, "questions": "abd"})


def test_a_run_that_was_refused_may_be_begun_otherwise(tmp_path: Path) -> None:
    made_of = {"questions": "abc"}
    work = Work(tmp_path, made_of)
    assert work.stage("alone", lambda: 1) == 1
    work.settle("goal", {"target_loss": 0.03})
    Work(tmp_path, made_of).settle("goal", {"target_loss": 0.03})
    with pytest.raises(InvalidArgument, match=r"another goal \(target_loss 0.03, not 0.01"):
        Work(tmp_path, made_of).settle("goal", {"target_loss": 0.01})
    work.begin_anew("alone")
    assert Work(tmp_path, {"questions": "other"}).stage("alone", lambda: 2) == 2
