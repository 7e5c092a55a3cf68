"""A training run, stage by stage. Each stage's outcome is kept, so that a run that was killed goes on."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from evals.asking.systems import Terms
from evals.latency import LatencyModel
from rstitch.client.policies import Learned, LlmOnly, SlmOnly
from rstitch.service.head import Head, HeadFacts
from training.head import latency as latencies
from training.head.dual import dual_of
from training.head.evaluate import Figures, figures_of
from training.head.mlp import Policy
from training.head.pair import Pair, pair_of
from training.head.progress import Screen, left_in_words
from training.head.questions import Questions, load_questions
from training.head.recipe import Recipe
from training.head.rollouts.judging import Judge
from training.head.rollouts.kept import KeptRollouts
from training.head.rollouts.types import Job, Rollout
from training.head.states import States
from training.head.train import Setting, Trainer
from training.head.work import Work

_ENOUGH = 100  # rollouts to tell the rate by


class Run:
    """The stages of a run, in the order in which `all` goes through them.

    Args:
        options: of `flags.parser`; `router` is set unless it is `in_process`.
        held: what ends with the run.
    """

    def __init__(self, options: argparse.Namespace, recipe: Recipe, screen: Screen, held: ExitStack) -> None:
        self.options = options
        self.recipe = recipe
        self.screen = screen
        self.questions = _questions(options, recipe)
        self.pair: Pair = pair_of(options)
        self.latency: LatencyModel = latencies.of_pair(options, self.pair, screen)
        self.work = Work(options.work, self._made_of())
        terms = Terms.of(self.questions.task, options.max_new_tokens)
        judge = Judge(terms, self.questions.checker, self.latency)
        self.rollouts = KeptRollouts(self.pair.rollouts(options, judge, held), self.work.folder)
        torch.manual_seed(recipe.seed)

    def all(self) -> None:
        """Goes through all stages. Raises RstitchError."""
        llm, slm = self._alone()
        trainer = self._trainer(llm)
        self._dapo(trainer)
        self._files(trainer, [llm, slm])
