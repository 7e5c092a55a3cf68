"""Trains the head of R-Stitch+ for a pair: `python -m training.head`, which is `make train-router`.

Warm start (or none: --pure), DAPO, the best head on the dev split, its files: weights, card, curves. A run that was
stopped goes on where it was. The test split is never looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from evals.figures.progress import progress_bar
from evals.figures.report import terminal_table
from evals.latency import LatencyModel
from evals.tasks.tiny.arithmetic import problems
from rstitch.local.part import ROOT
from rstitch.service.head import Head
from training.head.card import COLUMNS, write_head
from training.head.evaluate import Figures, always_llm, evaluate, greedy
from training.head.mlp import Policy
from training.head.pair import TrainingPair, open_pair
from training.head.recipe import FAST, Recipe
from training.head.rollout import Decide
from training.head.train import LOG, Trainer
from training.head.warm_start import fit, lean, readout_of, unsure_states

TAUS = (0.005, 0.01, 0.02, 0.05, 0.1)
_MIN_CHAINS = 500  # for the normalisation of the inputs, if there is no warm start


def parser() -> argparse.ArgumentParser:
    """Flags; what is not given is the recipe's."""
    # fmt: off
    made = argparse.ArgumentParser(prog="python -m training.head", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--slm", default=str(ROOT / "models/tiny-slm"), help="folder or hub id (default models/tiny-slm)")
    made.add_argument("--llm", default=str(ROOT / "models/tiny-llm"), help="folder or hub id (default models/tiny-llm)")
    made.add_argument("--latency", type=Path, default=ROOT / "docs/results/latency.json",
                      help="latency model of `rstitch latency` (default docs/results/latency.json)")
    made.add_argument("--out", type=Path, default=ROOT / "models/heads/tiny",
                      help="folder of the head, whose name is the head's (default models/heads/tiny)")
    made.add_argument("--work", type=Path, default=Path(".cache/router"), help="checkpoints (default .cache/router)")
    made.add_argument("--pure", action="store_true",
                      help="DAPO alone, from near the threshold rule: no supervised warm start")
    made.add_argument("--fast", action="store_true", help="seconds instead of minutes: to see that it runs")
    made.add_argument("--seed", type=int, help="of everything")
    made.add_argument("--tau", type=float, help="gate: the head is asked where the SLM's entropy is above")
    made.add_argument("--price", type=float, help="lambda, the price of a millisecond")
    made.add_argument("--num-readout", type=int, help="tokens whose logits the head sees; 0: the paper's inputs alone")
    made.add_argument("--num-steps", type=int, help="of DAPO")
    made.add_argument("--warm-chains", type=int, help="reference chains of the warm start")
    made.add_argument("--warm-error", type=float, help="the warm start calls the LLM above this P(SLM's token wrong)")
    made.add_argument("--num-dev", type=int, help="problems of the dev split")
    # fmt: on
    return made


def main(arguments: list[str] | None = None) -> int:
    """Trains, chooses, writes; returns the exit code."""
    options = parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    given = {name: getattr(options, name) for name in Recipe.__slots__ if getattr(options, name, None) is not None}
    recipe = replace(FAST if options.fast else Recipe(), **given)
    if options.pure:
        recipe = replace(recipe, warm_chains=0)
    torch.set_num_threads(1)
    began = time.monotonic()
    try:
        latency = LatencyModel.load(options.latency)
        pair = open_pair(options.slm, options.llm)
        with progress_bar(console) as progress:
            run = _Run(recipe, pair, latency, progress, options.work)
            run.train()
            rows = run.dev_rows()
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from the last checkpoint")
        return 130
    except (ValueError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="bold red", markup=False)
        return 2
    console.print(terminal_table(f"dev, n = {recipe.num_dev}", COLUMNS, [figures.as_dict() for figures in rows]))
    minutes = (time.monotonic() - began) / 60
    log = [json.loads(line) for line in (options.work / LOG).read_text().splitlines()]
    head = write_head(options.out, run.best_head(), recipe, rows, log, run.steps_looked_at(), minutes)
    console.print(f"{options.out.name}@{head.version} is in {options.out} ({minutes:.0f} minutes)")
    return 0


class _Run:
    """The stages of a run, each with its own progress bar."""

    def __init__(
        self, recipe: Recipe, pair: TrainingPair, latency: LatencyModel, progress: Progress, work: Path
    ) -> None:
        self._recipe = recipe
        self._pair = pair
        self._latency = latency
        self._progress = progress
        self._work = work
        self._dev = problems("dev", recipe.num_dev)
        self._trainer: Trainer

    def train(self) -> None:
        """Warm start and DAPO, from the checkpoint if there is one."""
        recipe = self._recipe
        torch.manual_seed(recipe.seed)
        policy = Policy(self._pair.hidden_size, recipe.num_readout, recipe.hidden, recipe.start_llm)
        self._trainer = Trainer(recipe, self._pair, self._latency, policy, self._work)
        if not self._trainer.resume():
            self._start(policy)
            self._look()
        total = recipe.num_questions * recipe.group_size
        task = self._progress.add_task("DAPO", total=recipe.num_steps, completed=self._trainer.step_number)
        while self._trainer.step_number < recipe.num_steps:
            answers = self._progress.add_task("  rollouts", total=total)
            curves = self._trainer.step(lambda task=answers: self._progress.advance(task))  # type: ignore[misc]
            self._progress.remove_task(answers)
            words = "DAPO: reward {reward:.3f}, accuracy {accuracy:.3f}, {latency_ms:.1f} ms, {calls:.2f} calls"
            self._progress.update(task, advance=1, description=words.format(**curves))
            if self._trainer.step_number % recipe.eval_every == 0 or self._trainer.step_number == recipe.num_steps:
                self._look()

    def best_head(self) -> Head:
        """Picks the head with the highest reward on dev."""
        assert self._trainer.best is not None
        return Head.from_bytes(self._trainer.best["data"])

    def dev_rows(self) -> list[Figures]:
        """Evaluates the thresholds and the best head on dev."""
        rows = [self._measured(f"threshold tau={tau:g}", always_llm(), tau) for tau in TAUS]
        best, start = self._trainer.best, self._trainer.looks[0]["figures"]
        assert best is not None
        name = f"learned (R-Stitch+), step {best['step']}"
        return [*rows, Figures(**start | {"name": "before DAPO"}), Figures(**best["figures"] | {"name": name})]

    def steps_looked_at(self) -> list[int]:
        """Those that the best was chosen of."""
        return [look["step"] for look in self._trainer.looks]

    def _start(self, policy: Policy) -> None:
        """Normalisation, and the warm start if there is one."""
        recipe = self._recipe
        num_chains = max(recipe.warm_chains, _MIN_CHAINS)
        task = self._progress.add_task("reference chains", total=num_chains)
        states = unsure_states(
            self._pair.names[0],
            recipe.tau,
            num_chains,
            recipe.seed,
            self._work / "states.pt",
            lambda n: self._progress.advance(task, n),
        )
        if recipe.num_readout:
            policy.readout.copy_(readout_of(self._pair.names[0], states, recipe.num_readout))
        policy.normalise(states.inputs)
        if recipe.warm_chains:
            task = self._progress.add_task("warm start", total=recipe.warm_epochs)
            told: Callable[[float], None] = lambda loss: self._progress.update(  # noqa: E731
                task, advance=1, description=f"warm start: loss {loss:.4f}"
            )
            fit(policy, states, recipe.warm_epochs, recipe.warm_lr, recipe.seed, told)
            lean(policy, recipe.warm_error)

    def _look(self) -> None:
        """The head as it is now on dev; a checkpoint."""
        figures = self._measured(f"step {self._trainer.step_number}", greedy(self._trainer.head()), self._recipe.tau)
        self._trainer.keep_if_best(figures.reward(self._recipe.price), figures.as_dict())
        self._trainer.save()

    def _measured(self, name: str, decide: Decide, tau: float) -> Figures:
        task = self._progress.add_task(f"dev, {name}", total=len(self._dev))
        recipe = self._recipe
        figures = evaluate(
            name,
            self._pair,
            self._latency,
            self._dev,
            decide,
            tau=tau,
            max_new_tokens=recipe.max_new_tokens,
            num_sessions=recipe.num_sessions,
            on_done=lambda: self._progress.advance(task),
        )
        self._progress.update(task, description=f"dev, {name}: {figures.accuracy:.1%}, {figures.latency_ms:.1f} ms")
        return figures


if __name__ == "__main__":
    sys.exit(main())
