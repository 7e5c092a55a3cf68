"""A training run, stage by stage. Each stage's outcome is kept, so that a run that was killed goes on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from evals.asking.systems import Terms
from evals.tasks.data import Problem
from rstitch.client.policies import Learned, LlmOnly
from rstitch.errors import InvalidArgument
from rstitch.service.head import Head, HeadFacts
from training.head import baselines, frontier
from training.head.asking import test_command
from training.head.baselines import Baselines
from training.head.card import Training, write_head
from training.head.choice import best_look
from training.head.dual import Dual, dual_of
from training.head.effort import minutes
from training.head.evaluate import Figures, figures_of
from training.head.latency import another_pair, latency_of
from training.head.options import Options
from training.head.pair import check_labels, pair_of, rollouts_of
from training.head.progress import Screen, left_in_words, look_in_words
from training.head.promise import Choice, check_promise, choose
from training.head.questions import Questions
from training.head.recipe import Recipe
from training.head.rollouts.judging import Judge
from training.head.rollouts.kept import KeptRollouts
from training.head.rollouts.served import ServedRollouts
from training.head.rollouts.types import Asked, Job
from training.head.train import Setting, Trainer
from training.head.warm_start import sources
from training.head.warm_start.beginning import begin, calibration_of, check_files
from training.head.warm_start.states import States
from training.head.work import Work

_LAST_STEPS = 5  # by which the length of the next one is judged
_ENOUGH = 100  # rollouts to tell their rate by


class Run:
    """The stages of a run, in the order in which `all` goes through them.

    Args:
        options: with a router unless all is `in_process`.
        questions: that were not refused with these options.
        reached: the flags by which another command asks the same pair (`asking.reached_by`).
        held: what ends with the run.
    """

    def __init__(
        self, options: Options, recipe: Recipe, questions: Questions, reached: Sequence[str], screen: Screen,
        held: ExitStack,
    ) -> None:  # fmt: skip
        self.options = options
        self.reached = reached
        self.recipe = recipe
        self.screen = screen
        self.questions = questions
        self.dev = questions.dev[: options.looks.num_dev]
        self.pair = pair_of(options)
        if options.warm_from == "logs":
            check_labels(options.run.router)
        check_files(options.head.work, recipe, self.pair, options.warm_from)
        self.latency = latency_of(options, self.pair, self.questions, screen)
        self.terms = Terms.of(self.questions.task, options.questions.max_new_tokens)
        self.work = Work(options.head.work, self._made_of())
        judge = Judge(self.terms, self.questions.checker, self.latency)
        self.writer = rollouts_of(options, self.pair, judge, held)
        self.rollouts = KeptRollouts(self.writer, self.work.folder, self.work.clock)
        self._has_told = False
        self._learning_s = 0.0  # of the step with the most of it so far

    def all(self) -> Head:
        """Goes through all stages; gives the head. Raises RstitchError."""
        options = self.options
        try:
            llm = self._alone().llm_only
        except InvalidArgument:  # the remedy may be another split, check or limit: nothing is to stand in its way
            self.work.begin_anew("alone")
            self.rollouts.forget("alone")
            raise
        goal = options.goal
        dual = dual_of(goal.price, goal.target_loss, goal.target_latency, llm.accuracy, llm.latency_ms, llm.n)
        trainer = self._trainer(dual, llm)
        self.work.settle("goal", asdict(goal))
        self._dapo(trainer)
        return self._finish(trainer, dual)

    def _alone(self) -> Baselines:
        """The LLM and the SLM without one another, and whether what is asked for can be had."""
        task, problems = self.questions.task, self.questions.train[: self.options.looks.num_alone]
        sides = {"train": len(self.questions.train), "dev": len(self.dev), "test": len(self.questions.test)}
        told = ", ".join(f"{number:,} for {side}" for side, number in sides.items() if number)
        self.screen.say("questions", f"{self.questions.origin.source}: {told}", **sides)
        loss, looks, is_trial = self.options.goal.target_loss, self.recipe.num_looks, self.options.run.fast

        def measured() -> dict[str, Any]:
            with self.rollouts.stage("alone"), self.screen.bar("LLM and SLM alone", 2 * len(problems)) as advance:
                return asdict(baselines.measure(self.rollouts, task, problems, advance))

        alone = Baselines.of(self.work.stage("alone", measured))
        for figures in (alone.llm_only, alone.slm_only):
            self.screen.say("alone", f"{figures.name}: {look_in_words(asdict(figures))}", **asdict(figures))
        said = "" if loss is None else check_promise(loss, len(self.dev), alone.helped, looks, is_trial=is_trial)
        for note in filter(None, (*alone.notes, said)):
            self.screen.say("note", note)
        return alone

    def _trainer(self, dual: Dual, llm: Figures) -> Trainer:
        """The trainer where the run stands: at its last checkpoint, or behind the warm start."""
        policy = begin(self.work.folder, self.recipe, self.pair, self._states, self.screen)
        self.work.clock.tick()
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

    def _states(self) -> States:
        """The SLM's unsure states that the warm start learns from. Raises RstitchError if they cannot be had."""
        source, recipe, served = self.options.warm_from, self.recipe, self.writer
        if domain := sources.domain_of(self.questions.task) if source == "chains" else None:
            slm = self.pair.slm_files(for_chains=True)
            return sources.of_chains(slm, domain, recipe, self.work.folder, self.screen)
        assert isinstance(served, ServedRollouts), "anything else was refused"
        if source == "logs":
            return sources.of_logs(served, [*self.questions.dev, *self.questions.test], recipe, self.screen)
        train = self.questions.train
        if source == "solutions":
            return sources.of_solutions(served, train, self.terms, recipe, self.screen)
        return sources.of_answers(served, self.rollouts, train, self.terms, recipe, self.screen)

    def _dapo(self, trainer: Trainer) -> None:
        recipe = self.recipe
        while True:
            # At the same steps whether the run was killed or not: a look more would be a head more to choose of.
            if trainer.step_number % recipe.eval_every == 0:
                self._look(trainer)
            if trainer.step_number >= recipe.num_steps or not self._has_time(trainer):
                break
            self._tell_left(trainer)
            words = f"step {trainer.step_number + 1}/{recipe.num_steps}"
            before_s = self.work.clock.effort.beside_s
            with self.screen.bar(words, recipe.num_questions * recipe.group_size) as advance:
                trainer.step(advance)
            self._learning_s = max(self._learning_s, self.work.clock.effort.beside_s - before_s)
            self.work.clock.tick()
            self.screen.step(trainer.curves, recipe.num_steps)
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        """Looks at the head as it is on dev, unless that was done."""
        number = trainer.step_number
        if any(look.step == number for look in trainer.looks):
            return
        with self.rollouts.stage(f"dev-{number}", forget=True):
            name = self.rollouts.use(trainer.head())
            trainer.look(self._figures(f"step {number}", self.dev, Learned(name, self.recipe.tau)))
        self.work.clock.tick()
        self.screen.look(number, asdict(trainer.looks[-1].figures))

    def _finish(self, trainer: Trainer, dual: Dual) -> Head:
        """Chooses a head, then its price on the dev frontier, and writes the files."""
        options, recipe = self.options, self.recipe
        with self.rollouts.stage("frontier"):
            llm = self._figures("llm_only", self.dev, LlmOnly())
            look = best_look(trainer.looks, dual, llm.accuracy, dual.start)
            head = Head.from_bytes(look.data)
            asked = frontier.systems(self.rollouts.use(head), recipe.tau, options.looks.taus, options.looks.prices)
            with self.screen.bar("dev frontier", len(self.dev) * len(asked)) as advance:
                points = frontier.measure(self.rollouts, asked, self.dev, advance, options.head.name)
        choice = choose(
            points, loss=options.goal.target_loss, speed_up=options.goal.target_latency, price_ms=look.price,
            num_heads=len({each.data for each in trainer.looks}),
        )  # fmt: skip
        training = Training(
            recipe,
            {role: f"{self.pair.names[role]} ({self.pair.places[role]})" for role in self.pair.names},
            self.questions,
            _goal(options, dual),
            trainer.curves,
            {each.step: each.figures for each in trainer.looks},
            look.step,
            self.work.clock.effort,
            calibration_of(self.work.folder),
            options.head.name,
            self._test_command(choice),
            another_pair(self.latency, self.pair),
        )
        write_head(options.head.out, head, training, points, choice)
        if self.questions.save_test(self.work.folder / "test.jsonl"):
            self.screen.say("test", f"the test side, not looked at, is in {self.work.folder / 'test.jsonl'}")
        self.screen.say("promise", choice.statement, keeps=choice.keeps, price=choice.point.value)
        full_name = f"{options.head.name}@{head.version}"
        took = f"{minutes(self.work.clock.effort.seconds)} minutes"
        words = f"{full_name} (step {look.step}) is in {options.head.out}, after {took}"
        policy = f"learned:{options.head.name},price={choice.point.value:g}"
        if not choice.keeps:
            words = f"{words}; it is not in service, for no price keeps the target" if options.run.activate else words
        elif options.run.activate and isinstance(self.writer, ServedRollouts):
            self.writer.put_into_service(options.head.name, head, choice.statement)
            words = f"{words}; it is in service: rstitch heads rollback takes that back; ask with --policy {policy}"
        self.screen.say("head", words, name=full_name, step=look.step, folder=str(options.head.out))
        if isinstance(self.writer, ServedRollouts):
            self.writer.forget_heads()
        return head

    def _test_command(self, choice: Choice) -> str:
        price = "" if choice.point.value == 1 else f",price={choice.point.value:g}"
        data = None if self.questions.task.generator else self.work.folder / "test.jsonl"
        flags, head = self.questions.origin.flags, f"learned:{self.options.head.name}{price}"
        return test_command(self.options, self.reached, flags, data, head)

    def _figures(self, name: str, problems: Sequence[Problem], policy: Asked) -> Figures:
        with self.screen.bar(name, len(problems)) as advance:
            return figures_of(name, self.rollouts.run([Job(problem) for problem in problems], policy, advance))

    @property
    def _rate(self) -> float:
        """Rollouts a second, of all that were waited for; 0 while they are too few."""
        effort = self.work.clock.effort
        return effort.rate if effort.num_rollouts >= _ENOUGH else 0.0

    @property
    def _looks_after(self) -> int:
        """Counts the systems that answer dev after DAPO."""
        return len(frontier.systems("", self.recipe.tau, self.options.looks.taus, self.options.looks.prices))

    def _tell_left(self, trainer: Trainer) -> None:
        """Says once, as soon as it can be known, how long the rest takes and what it costs."""
        if self._has_told or not self._rate:
            return
        self._has_told = True
        recipe = self.recipe
        num_steps = recipe.num_steps - trainer.step_number
        looks = (num_steps // recipe.eval_every + self._looks_after) * len(self.dev)
        num_left = num_steps * recipe.num_questions * recipe.group_size
        most = num_left * recipe.max_rounds + looks
        words = left_in_words(num_left + looks, most, self._rate, self.options.run.price_per_hour)
        self.screen.say("left", words, per_second=self._rate, rollouts=num_left + looks, most_rollouts=most)

    def _has_time(self, trainer: Trainer) -> bool:
        """Whether another step, and what follows DAPO, fit the hours that are allowed."""
        if self.options.run.max_hours is None:
            return True
        recipe = self.recipe
        # As many groups as the last steps took, for a step may draw several rounds; and a look before the frontier.
        num_groups = max([recipe.num_questions, *(curve["num_groups_seen"] for curve in trainer.curves[-_LAST_STEPS:])])
        num_next = num_groups * recipe.group_size + (1 + self._looks_after) * len(self.dev)
        needed = self.work.clock.effort.seconds + self._learning_s + (num_next / self._rate if self._rate else 0.0)
        if needed <= 3600 * self.options.run.max_hours:
            return True
        self.screen.say("hours", f"{self.options.run.max_hours:g} hours allow no more steps")
        return False

    def _made_of(self) -> dict[str, Any]:
        """All that the head depends on, by words for people; but for the goal, on which the first stages do not."""
        latency = self.latency
        return made_of(self.options, self.recipe, self.questions) | {
            "pair": [self.pair.names, self.pair.places],
            "latency model": [
                latency.slm.as_dict(), latency.llm.as_dict(), asdict(latency.serving) if latency.serving else None
            ],
        }  # fmt: skip


def made_of(options: Options, recipe: Recipe, questions: Questions) -> dict[str, Any]:
    """Tells what a head depends on as far as it is known without the pair, by words for people."""
    # A run of more steps goes on with one of fewer.
    numbers = {name: value for name, value in asdict(recipe).items() if name != "num_steps"}
    return {
        "recipe": numbers,
        "questions": questions.digest,
        "terms": asdict(Terms.of(questions.task, options.questions.max_new_tokens)),
        "warm start": options.warm_from,
        "numbers": {"alone": options.looks.num_alone, "dev": len(questions.dev[: options.looks.num_dev])},
    }


def _goal(options: Options, dual: Dual) -> str:
    """What the head is trained for, in words."""
    if options.goal.target_loss is not None:
        return f"a loss of accuracy against the LLM alone of at most {options.goal.target_loss:.1%}, at least latency"
    if options.goal.target_latency is not None:
        return f"answers {options.goal.target_latency:g}x as fast as the LLM alone's, at most accuracy"
    return f"the highest reward with lambda = {dual.start:.3g} per ms"
