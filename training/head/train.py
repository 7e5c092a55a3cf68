"""Trains a head by DAPO: rollouts, rewards, advantages, one pass; the language models are frozen.

A run is a function of recipe and pair: each step draws its questions and its decisions from (seed, step), so that one
that was stopped goes on as it would have gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evals.latency import LatencyModel
from evals.tasks.tiny.arithmetic import Problem, stream
from rstitch.service.head import Head, HeadFacts
from training.head import dapo
from training.head.evaluate import Outcome, outcome, rollouts_of
from training.head.mlp import Policy
from training.head.pair import TrainingPair
from training.head.recipe import Recipe
from training.head.rollout import Answer, Consultation

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Group:
    """G answers to one question, and what they earned."""

    answers: list[Answer]
    outcomes: list[Outcome]
    rewards: Tensor


class Trainer:
    """A head being trained.

    Args:
        policy: where it starts.
        folder: of checkpoint and log; a checkpoint of this recipe there is gone on from.
    """

    def __init__(self, recipe: Recipe, pair: TrainingPair, latency: LatencyModel, policy: Policy, folder: Path) -> None:
        self.recipe = recipe
        self.policy = policy
        self.step_number = 0
        self.best: dict[str, Any] | None = None  # figures of the best head so far, and its weights
        self.looks: list[dict[str, Any]] = []  # figures of all heads that it was chosen of, by step
        self._pair = pair
        self._latency = latency
        self._folder = folder
        self._optimizer = torch.optim.Adam(policy.parameters(), lr=recipe.lr)
        self._problems = stream("train", recipe.seed)
        self._num_problems = 0
        folder.mkdir(parents=True, exist_ok=True)

    def head(self) -> Head:
        slm, llm = (Path(name).name for name in self._pair.names)
        facts = HeadFacts(self._pair.hidden_size, self._pair.fingerprint, self.recipe.tau, slm, llm)
        return self.policy.to_head(facts)

    def step(self, on_done: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """One step of DAPO. Returns its curves: reward, accuracy, latency, LLM share."""
        recipe = self.recipe
        self.step_number += 1
        groups: list[Group] = []
        seen: list[Group] = []
        for round_number in range(recipe.max_rounds):
            self._num_problems += recipe.num_questions
            fresh = self._groups(list(islice(self._problems, recipe.num_questions)), round_number, on_done)
            seen += fresh
            groups += [group for group in fresh if self._has_signal(group)]
            if len(groups) >= recipe.num_questions:
                break
        groups = groups[: recipe.num_questions]
        losses = self._learn(groups) if groups else [0.0]
        curves = self._curves(seen, len(groups), float(np.mean(losses)))
        with (self._folder / LOG).open("a") as log:
            log.write(json.dumps(curves) + "\n")
        return curves

    def keep_if_best(self, score: float, figures: dict[str, Any]) -> bool:
        """Remembers the figures, and the head as it is now if no other has scored as high."""
        self.looks.append({"step": self.step_number, "figures": figures})
        if self.best is not None and self.best["score"] >= score:
            return False
        self.best = {"score": score, "step": self.step_number, "figures": figures, "data": self.head().data}
        return True

    def save(self) -> None:
        """Writes the checkpoint: all that the next step depends on."""
        state = {
            **self._made_of(),
            "step": self.step_number,
            "num_problems": self._num_problems,
            "policy": self.policy.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self.best,
            "looks": self.looks,
        }
        path = self._folder / CHECKPOINT
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def resume(self) -> bool:
        """Goes on from the checkpoint, if there is one. Raises ValueError if it is of another recipe, pair or L."""
        path = self._folder / CHECKPOINT
        if not path.exists():
            self._forget_log_after(0)
            return False
        state = torch.load(path, weights_only=True)
        for what, ours in self._made_of().items():
            if state.get(what) != ours:
                raise ValueError(f"{path} is of another {what}; remove it, or name another folder with --work")
        self.policy.load_state_dict(state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step_number, self.best, self.looks = state["step"], state["best"], state["looks"]
        self._num_problems = state["num_problems"]
        self._problems = islice(stream("train", self.recipe.seed), self._num_problems, None)
        self._forget_log_after(self.step_number)
        return True

    def _made_of(self) -> dict[str, Any]:
        """What a checkpoint is good for, by words for people."""
        latency = self._latency
        serving = asdict(latency.serving) if latency.serving else None
        return {
            "recipe": asdict(self.recipe),
            "pair": [*(Path(name).name for name in self._pair.names), self._pair.fingerprint],
            "latency model": json.dumps([latency.slm.as_dict(), latency.llm.as_dict(), serving]),
        }

    def _groups(self, problems: list[Problem], round_number: int, on_done: Callable[[], None]) -> list[Group]:
        """Answers with sampled decisions, each of a generator of its own: the order of events is of no account."""
        recipe, size = self.recipe, self.recipe.group_size
        head = self.head()
        count = len(problems) * size
        coins = [np.random.default_rng((recipe.seed, self.step_number, round_number, i)) for i in range(count)]

        def decide(index: int, asked: Consultation) -> bool:
            slm, llm = head.logits(asked.hidden_state, asked.context_length)
            return bool(coins[index].random() < 1 / (1 + np.exp(slm - llm)))

        prompts = [self._pair.prompt(problem) for problem in problems for _ in range(size)]
        answers = rollouts_of(self._pair, recipe).run(prompts, decide, on_done)
        return [
            self._rewarded(problem, answers[size * index : size * (index + 1)])
            for index, problem in enumerate(problems)
        ]

    def _rewarded(self, problem: Problem, answers: list[Answer]) -> Group:
        recipe = self.recipe
        outcomes = [outcome(self._pair, self._latency, answer, problem) for answer in answers]
        right = torch.tensor([float(each.right) for each in outcomes])
        rewards = dapo.rewards(right, torch.tensor([each.latency_ms for each in outcomes]), recipe.price)
        if recipe.overlong_margin:
            lengths = torch.tensor([float(each.num_tokens) for each in outcomes])
            rewards = rewards + dapo.overlong(lengths, recipe.max_new_tokens, recipe.overlong_margin)
        return Group(answers, outcomes, rewards)

    def _has_signal(self, group: Group) -> bool:
        if self.recipe.accuracy_only:
            return len({each.right for each in group.outcomes}) > 1
        return dapo.has_signal(group.rewards)

    def _learn(self, groups: list[Group]) -> list[float]:
        """One pass over the decisions of all answers."""
        recipe = self.recipe
        per_answer = dapo.advantages(torch.stack([group.rewards for group in groups]), recipe.std_floor)
        asked = [each for group in groups for answer in group.answers for each in answer.consultations]
        lengths = torch.tensor([[float(each.context_length)] for each in asked])
        hidden = torch.from_numpy(np.stack([np.frombuffer(each.hidden_state, "<f4") for each in asked]))
        inputs = torch.cat([hidden, lengths], dim=1)
        actions = torch.tensor([int(each.to_llm) for each in asked])
        counts = torch.tensor([len(answer.consultations) for group in groups for answer in group.answers])
        advantages = per_answer.flatten().repeat_interleave(counts)
        with torch.no_grad():
            old = self.policy(inputs).gather(1, actions[:, None])[:, 0]
        order = np.random.default_rng((recipe.seed, self.step_number)).permutation(len(asked))
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

    def _curves(self, seen: list[Group], num_groups: int, loss: float) -> dict[str, Any]:
        outcomes = [each for group in seen for each in group.outcomes]
        asked = sum(each.num_consultations for each in outcomes)
        to_llm = sum(each.to_llm for group in seen for answer in group.answers for each in answer.consultations)
        return {
            "step": self.step_number,
            "reward": float(torch.cat([group.rewards for group in seen]).mean()),
            "accuracy": float(np.mean([each.right for each in outcomes])),
            "latency_ms": float(np.mean([each.latency_ms for each in outcomes])),
            "llm_share": sum(each.num_llm_tokens for each in outcomes) / sum(each.num_tokens for each in outcomes),
            "calls": to_llm / len(outcomes),
            "p_llm": to_llm / max(1, asked),
            "num_groups": num_groups,
            "num_groups_seen": len(seen),
            "loss": loss,
        }

    def _forget_log_after(self, step: int) -> None:
        path = self._folder / LOG
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step))
