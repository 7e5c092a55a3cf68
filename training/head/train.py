"""Trains a head by DAPO: rollouts, rewards, advantages, one pass, the next price; the language models are frozen.

A step is a function of (head, seed, step, price): questions, coins and budgets are drawn from its number, so that a run
that was killed goes on as it would have gone. Its answers are kept as they come, and what it made is written whole.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evals.tasks.data import Problem
from rstitch.client.policies import Learned
from rstitch.service.coin import uniform
from rstitch.service.head import Head, HeadFacts
from training.head import dapo
from training.head.dual import Dual, Price
from training.head.evaluate import Figures
from training.head.files import write_whole
from training.head.mlp import Policy, inputs_of
from training.head.recipe import Recipe
from training.head.rollouts.kept import KeptRollouts
from training.head.rollouts.types import Job, Rollout

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
_OnDone = Callable[[Rollout], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a head is trained on and for.

    Attributes:
        answer_tokens: of an answer by the LLM alone, in the mean: the scale of budgets.
    """

    questions: Sequence[Problem]
    facts: HeadFacts
    dual: Dual
    answer_tokens: float


@dataclass(frozen=True, slots=True)
class Group:
    """G answers to one question, and what they earned."""

    rollouts: list[Rollout]
    rewards: Tensor

    @property
    def is_bounded(self) -> bool:
        """Whether a budget kept the LLM from writing what it was asked for."""
        return self.rollouts[0].llm_tokens is not None


@dataclass(frozen=True, slots=True)
class Look:
    """A head that was looked at on dev: after which step, what it did there, the price then, and its file."""

    step: int
    figures: Figures
    price: float
    data: bytes


class Trainer:
    """A head being trained.

    Args:
        policy: where it starts.
        folder: of the checkpoint.
    """

    def __init__(self, recipe: Recipe, setting: Setting, rollouts: KeptRollouts, policy: Policy, folder: Path) -> None:
        self.recipe = recipe
        self.policy = policy
        self.step_number = 0
        self.price: Price = setting.dual.begin()
        self.looks: list[Look] = []
        self.curves: list[dict[str, Any]] = []
        self._setting = setting
        self._rollouts = rollouts
        self._folder = folder
        self._optimizer = torch.optim.Adam(policy.parameters(), lr=recipe.lr)
        self._num_drawn = 0  # questions so far

    def head(self) -> Head:
        return self.policy.to_head(self._setting.facts)

    def step(self, on_done: _OnDone = lambda rollout: None) -> dict[str, Any]:
        """One step of DAPO, kept. Returns its curves: reward, accuracy, latency, LLM share, lambda, slack."""
        recipe, number = self.recipe, self.step_number + 1
        with self._rollouts.stage(f"step-{number}", forget=True):
            groups: list[Group] = []
            seen: list[Group] = []
            for round_number in range(recipe.max_rounds):
                fresh = self._groups(number, round_number, on_done)
                seen += fresh
                groups += [group for group in fresh if self._has_signal(group)]
                if len(groups) >= recipe.num_questions:
                    break
            groups = groups[: recipe.num_questions]
            losses = self._learn(number, groups)
            self.curves.append(self._curve(number, seen, len(groups), float(np.mean(losses or [0.0]))))
            free = [group.rollouts for group in seen if not group.is_bounded]
            self.price = self._setting.dual.after(self.price, free)
            self.curves[-1] |= self._to_spare()
            self.step_number = number
            self.save()
        return self.curves[-1]

    def look(self, figures: Figures) -> None:
        """Remembers the head as it is now, with what it did on dev."""
        self.looks.append(Look(self.step_number, figures, self.price.value, self.head().data))
        self.save()

    def save(self) -> None:
        """Writes the checkpoint: all that the next step depends on."""
        state = {
            "step": self.step_number,
            "num_drawn": self._num_drawn,
            "price": astuple(self.price),
            "policy": self.policy.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "looks": [(look.step, asdict(look.figures), look.price, look.data) for look in self.looks],
            "curves": self.curves,
        }
        write_whole(self._folder / CHECKPOINT, lambda file: torch.save(state, file))
        lines = "".join(f"{json.dumps(curve)}\n" for curve in self.curves)
        write_whole(self._folder / LOG, lambda file: file.write(lines.encode()))

    def resume(self) -> bool:
        """Goes on from the checkpoint, if there is one; it must be of the same recipe, pair and questions."""
        path = self._folder / CHECKPOINT
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.policy.load_state_dict(state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step_number, self._num_drawn = state["step"], state["num_drawn"]
        self.price = Price(*state["price"])
        self.looks = [Look(step, Figures(**figures), price, data) for step, figures, price, data in state["looks"]]
        self.curves = state["curves"]
        self._rollouts.forget(f"step-{self.step_number}")  # it was killed behind the checkpoint
        for look in self.looks:
            self._rollouts.forget(f"dev-{look.step}")
        return True

    def _groups(self, step: int, round_number: int, on_done: _OnDone) -> list[Group]:
        """Answers with drawn decisions to the next questions."""
        recipe, size = self.recipe, self.recipe.group_size
        jobs = []
        for place in range(recipe.num_questions):
            problem, at = self._next_question(), (recipe.seed, step, round_number, place)
            budget = self._budget(seed_of(*at, purpose=b"budget"))
            jobs += [Job(problem, seed_of(*at, sample), budget) for sample in range(size)]
        policy = Learned(self._rollouts.use(self.head()), recipe.tau)
        made = self._rollouts.run(jobs, policy, on_done)
        return [self._rewarded(made[first : first + size]) for first in range(0, len(made), size)]

    def _next_question(self) -> Problem:
        """All questions in an order of their own, then all in another."""
        questions = self._setting.questions
        lap, place = divmod(self._num_drawn, len(questions))
        self._num_drawn += 1
        return questions[int(np.random.default_rng((self.recipe.seed, lap)).permutation(len(questions))[place])]

    def _budget(self, seed: int) -> int | None:
        """A budget of the LLM's tokens, all orders of magnitude alike, for a head that is shown what is left of it."""
        if "left" not in self._setting.facts.features or uniform(seed, 0) >= self.recipe.budgets:
            return None
        return round(math.exp(uniform(seed, 1) * math.log(max(1.0, self._setting.answer_tokens))))

    def _rewarded(self, rollouts: list[Rollout]) -> Group:
        right = torch.tensor([float(each.right) for each in rollouts])
        latency_ms = torch.tensor([each.latency_ms for each in rollouts])
        return Group(rollouts, dapo.rewards(right, latency_ms, self.price.value))

    def _has_signal(self, group: Group) -> bool:
        if self.recipe.accuracy_only:
            return len({each.right for each in group.rollouts}) > 1
        return dapo.has_signal(group.rewards)

    def _learn(self, step: int, groups: list[Group]) -> list[float]:
        """One pass over the decisions of all answers; returns the losses."""
        recipe = self.recipe
        answers = [rollout for group in groups for rollout in group.rollouts]
        asked = [each for answer in answers for each in answer.consultations]
        if not asked:
            return []
        per_answer = dapo.advantages(torch.stack([group.rewards for group in groups]), recipe.std_floor)
        inputs = inputs_of(asked)
        actions = torch.tensor([int(each.to_llm) for each in asked])
        counts = torch.tensor([len(answer.consultations) for answer in answers])
        advantages = per_answer.flatten().repeat_interleave(counts)
        with torch.no_grad():
            old = self.policy(inputs).gather(1, actions[:, None])[:, 0]
        order = np.random.default_rng((recipe.seed, step)).permutation(len(asked))
        losses = []
        for chosen in np.array_split(order, recipe.num_minibatches):
            if not len(chosen):
                continue
            new = self.policy(inputs[chosen]).gather(1, actions[chosen][:, None])[:, 0]
            loss = dapo.loss(new, old[chosen], advantages[chosen], recipe.epsilon_low, recipe.epsilon_high)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            losses.append(loss.item())
        return losses

    def _to_spare(self) -> dict[str, float]:
        """The slack of a target after a step, for the curves; its interval unless all answers were alike."""
        if not self.price.weight:
            return {}
        low, slack, high = self._setting.dual.interval(self.price)
        return {"slack": slack} | ({"slack_low": low, "slack_high": high} if low < high else {})

    def _curve(self, step: int, seen: list[Group], num_groups: int, loss: float) -> dict[str, Any]:
        rollouts = [each for group in seen for each in group.rollouts]
        asked = sum(len(each.consultations) for each in rollouts)
        to_llm = sum(said.to_llm for each in rollouts for said in each.consultations)
        num_tokens = sum(each.num_tokens for each in rollouts)
        return {
            "step": step,
            "reward": float(torch.cat([group.rewards for group in seen]).mean()),
            "accuracy": float(np.mean([each.right for each in rollouts])),
            "latency_ms": float(np.mean([each.latency_ms for each in rollouts])),
            "llm_share": sum(each.num_llm_tokens for each in rollouts) / max(1, num_tokens),
            "price": self.price.value,
            "calls": to_llm / len(rollouts),
            "p_llm": to_llm / max(1, asked),
            "num_groups": num_groups,
            "num_groups_seen": len(seen),
            "loss": loss,
        }


def seed_of(*numbers: int, purpose: bytes = b"") -> int:
    """Makes a seed below 2^63 of numbers, alike everywhere; other purposes (at most 16 bytes) have others."""
    digest = blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "little") >> 1
