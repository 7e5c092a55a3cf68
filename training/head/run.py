"""A training run, stage by stage. Each stage's outcome is kept, so that a run that was killed goes on."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import Any

from evals.asking.systems import Terms
from evals.tasks.data import Problem
from rstitch.client.policies import Learned, LlmOnly, SlmOnly
from rstitch.service.head import Head, HeadFacts
from training.head.beginning import begin
from training.head.card import write_head
from training.head.choice import best_look
from training.head.dual import Dual, dual_of
from training.head.evaluate import Figures, figures_of
from training.head.latency import latency_of
from training.head.pair import pair_of, rollouts_of
from training.head.progress import Screen, left_in_words, look_in_words
from training.head.questions import Questions, load_questions
from training.head.recipe import Recipe
from training.head.rollouts.judging import Judge
from training.head.rollouts.kept import KeptRollouts
from training.head.rollouts.types import Asked, Job
from training.head.train import Setting, Trainer
from training.head.work import Work

_ENOUGH = 100  # rollouts to tell their rate by
_LOOKS_AFTER = 8  # looks at dev, about, that follow DAPO


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
        self.dev = self.questions.dev[: options.num_dev]
        self.pair = pair_of(options)
        self.latency = latency_of(options, self.pair, screen)
        self.terms = Terms.of(self.questions.task, options.max_new_tokens)
        self.work = Work(options.work, self._made_of())
        judge = Judge(self.terms, self.questions.checker, self.latency)
        self.writer = rollouts_of(options, self.pair, judge, held)
        self.rollouts = KeptRollouts(self.writer, self.work.folder)
        self._seconds_asking = 0.0
        self._has_told = False

    def all(self) -> Head:
        """Goes through all stages; gives the head. Raises RstitchError."""
        options = self.options
        llm, slm = self._alone("alone", self.questions.train[: options.num_alone])
        dual = dual_of(options.price, options.target_loss, options.target_latency, llm.accuracy, llm.latency_ms, llm.n)
        trainer = self._trainer(dual, llm)
        self._dapo(trainer)
        return self._finish(trainer, dual)

    def _alone(self, stage: str, problems: Sequence[Problem]) -> list[Figures]:
        """The LLM and the SLM, without one another."""
        policies: dict[str, Asked] = {"llm_only": LlmOnly(), "slm_only": SlmOnly()}

        def measured() -> list[dict[str, Any]]:
            with self.rollouts.stage(stage):
                return [asdict(self._figures(name, problems, policy)) for name, policy in policies.items()]

        alone = [Figures(**plain) for plain in self.work.stage(stage, measured)]
        for figures in alone:
            self.screen.say("alone", f"{figures.name}: {look_in_words(asdict(figures))}", **asdict(figures))
        return alone

    def _trainer(self, dual: Dual, llm: Figures) -> Trainer:
        """The trainer where the run stands: at its last checkpoint, or behind the warm start."""
        policy = begin(self.work.folder, self.recipe, self.pair, self.questions.task.name, self.screen)
        self.work.tick()
        names = self.pair.names
        facts = HeadFacts(
            policy.hidden_size, self.pair.fingerprint(), self.recipe.tau, names["slm"], names["llm"], policy.features
        )
        setting = Setting(self.questions.train, facts, dual, llm.num_tokens)
        trainer = Trainer(self.recipe, setting, self.rollouts, policy, self.work.folder)
        if trainer.resume():
            self.screen.say("resumed", f"goes on after step {trainer.step_number}", step=trainer.step_number)
            for look in trainer.looks:
                self.screen.look(look.step, asdict(look.figures))
        return trainer

    def _dapo(self, trainer: Trainer) -> None:
        recipe = self.recipe
        self._look(trainer)
        while trainer.step_number < recipe.num_steps and self._has_time():
            self._tell_left(trainer)
            words = f"step {trainer.step_number + 1}/{recipe.num_steps}"
            with self.screen.bar(words, recipe.num_questions * recipe.group_size) as advance, self._timed():
                trainer.step(advance)
            self.work.tick()
            self.screen.step(trainer.curves, recipe.num_steps)
            if trainer.step_number % recipe.eval_every == 0:
                self._look(trainer)
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        """Looks at the head as it is on dev, unless that was done."""
        number = trainer.step_number
        if any(look.step == number for look in trainer.looks):
            return
        with self.rollouts.stage(f"dev-{number}", forget=True):
            name = self.rollouts.use(trainer.head())
            trainer.look(self._figures(f"step {number}", self.dev, Learned(name, self.recipe.tau)))
        self.work.tick()
        self.screen.look(number, asdict(trainer.looks[-1].figures))

    def _finish(self, trainer: Trainer, dual: Dual) -> Head:
        """Chooses, writes, and puts into service if that is wanted."""
        llm, slm = self._alone("alone-dev", self.dev)
        look = best_look(trainer.looks, dual, llm.accuracy, dual.start)
        head = Head.from_bytes(look.data)
        before = replace(trainer.looks[0].figures, name="before DAPO")
        rows = [llm, slm, before, replace(look.figures, name=f"learned (R-Stitch+), step {look.step}")]
        steps = [each.step for each in trainer.looks]
        write_head(self.options.out, head, self.recipe, rows, trainer.curves, steps, self.work.seconds / 60)
        full_name = f"{self.options.name}@{head.version}"
        words = f"{full_name} (step {look.step}) is in {self.options.out}, after {self.work.seconds / 60:.0f} minutes"
        self.screen.say("head", words, name=full_name, step=look.step, folder=str(self.options.out))
        return head

    def _figures(self, name: str, problems: Sequence[Problem], policy: Asked) -> Figures:
        with self.screen.bar(name, len(problems)) as advance, self._timed():
            return figures_of(name, self.rollouts.run([Job(problem) for problem in problems], policy, advance))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._seconds_asking += time.monotonic() - began

    @property
    def _rate(self) -> float:
        """Rollouts a second, as far as they were asked for in this process; 0 while they are too few."""
        enough = self.rollouts.num_asked >= _ENOUGH and self._seconds_asking
        return self.rollouts.num_asked / self._seconds_asking if enough else 0.0

    def _tell_left(self, trainer: Trainer) -> None:
        """Says once, as soon as it can be known, how long the rest takes and what it costs."""
        if self._has_told or not self._rate:
            return
        self._has_told = True
        recipe = self.recipe
        num_steps = recipe.num_steps - trainer.step_number
        looks = (num_steps // recipe.eval_every + _LOOKS_AFTER) * len(self.dev)
        num_left = num_steps * recipe.num_questions * recipe.group_size
        most = num_left * recipe.max_rounds + looks
        words = left_in_words(num_left + looks, most, self._rate, self.options.price_per_hour)
        self.screen.say("left", words, per_second=self._rate, rollouts=num_left + looks, most_rollouts=most)

    def _has_time(self) -> bool:
        """Whether another step, and what follows DAPO, fit the hours that are allowed."""
        if self.options.max_hours is None:
            return True
        recipe = self.recipe
        num_next = recipe.num_questions * recipe.group_size + _LOOKS_AFTER * len(self.dev)
        needed = self.work.seconds + (num_next / self._rate if self._rate else 0.0)
        if needed <= 3600 * self.options.max_hours:
            return True
        self.screen.say("hours", f"{self.options.max_hours:g} hours allow no more steps")
        return False

    def _made_of(self) -> dict[str, Any]:
        """All that the head depends on, by words for people."""
        options, latency = self.options, self.latency
        # A run of more steps goes on with one of fewer.
        recipe = {name: value for name, value in asdict(self.recipe).items() if name != "num_steps"}
        return {
            "recipe": recipe,
            "goal": {name: getattr(options, name) for name in ("price", "target_loss", "target_latency")},
            "questions": self.questions.digest,
            "terms": asdict(self.terms),
            "numbers": {"alone": options.num_alone, "dev": len(self.dev)},
            "pair": [self.pair.names, self.pair.places],
            "latency model": [
                latency.slm.as_dict(), latency.llm.as_dict(), asdict(latency.serving) if latency.serving else None
            ],
        }  # fmt: skip


def _questions(options: argparse.Namespace, recipe: Recipe) -> Questions:
    return load_questions(
        options.task,
        options.data,
        options.check,
        split=options.split,
        seed=recipe.seed,
        prompt=options.prompt,
        max_new_tokens=options.max_new_tokens,
    )
