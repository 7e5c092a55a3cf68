"""Trains the head of R-Stitch+ for a pair: `python -m training.head`, which is `make train-router`.

Warm start (or none: --pure), DAPO, the best head on the dev split, its files: weights, card, curves. A run that was
stopped goes on where it was. The test split is never looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
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
from training.head.chain_states import Chains, chain_states
from training.head.evaluate import Figures, evaluate, greedy
from training.head.mlp import Policy
from training.head.pair import TrainingPair, open_pair
from training.head.recipe import FAST, Recipe
from training.head.rollout import Decide
from training.head.train import LOG, Trainer
from training.head.warm_start import fit, lean, readout_of

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
    console.print(terminal_table(f"dev, n = {recipe.num_dev}", COLUMNS, [asdict(figures) for figures in rows]))
    minutes = (time.monotonic() - began) / 60
    log = [json.loads(line) for line in (options.work / LOG).read_text().splitlines()]
    assert run.trainer.best is not None, "a run looks at its head at least once"
    head = Head.from_bytes(run.trainer.best["data"])
    looked_at = [look["step"] for look in run.trainer.looks]
    write_head(options.out, head, recipe, rows, log, looked_at, minutes)
    console.print(f"{options.out.name}@{head.version} is in {options.out} ({minutes:.0f} minutes)")
    return 0


@dataclass
class _Run:
    """The stages of a run, each with its own progress bar."""

    recipe: Recipe
    pair: TrainingPair
    latency: LatencyModel
    progress: Progress
    work: Path

    def __post_init__(self) -> None:
        torch.manual_seed(self.recipe.seed)
        self.dev = problems("dev", self.recipe.num_dev)
        self.policy = Policy(self.pair.hidden_size, self.recipe.num_readout, self.recipe.hidden, self.recipe.start_llm)
        self.trainer = Trainer(self.recipe, self.pair, self.latency, self.policy, self.work)

    def train(self) -> None:
        """Warm start and DAPO, from the checkpoint if there is one."""
        recipe = self.recipe
        if not self.trainer.resume():
            self._start()
            self._look()
        total = recipe.num_questions * recipe.group_size
        task = self.progress.add_task("DAPO", total=recipe.num_steps, completed=self.trainer.step_number)
        while self.trainer.step_number < recipe.num_steps:
            answers = self.progress.add_task("  rollouts", total=total)
            curves = self.trainer.step(partial(self.progress.advance, answers))
            self.progress.remove_task(answers)
            words = "DAPO: reward {reward:.3f}, accuracy {accuracy:.3f}, {latency_ms:.1f} ms, {calls:.2f} calls"
            self.progress.update(task, advance=1, description=words.format(**curves))
            if self.trainer.step_number % recipe.eval_every == 0 or self.trainer.step_number == recipe.num_steps:
                self._look()

    def dev_rows(self) -> list[Figures]:
        rows = [self._measured(f"threshold tau={tau:g}", lambda index, asked: True, tau) for tau in TAUS]
        best, start = self.trainer.best, self.trainer.looks[0]["figures"]
        assert best is not None
        name = f"learned (R-Stitch+), step {best['step']}"
        return [*rows, Figures(**start | {"name": "before DAPO"}), Figures(**best["figures"] | {"name": name})]

    def _start(self) -> None:
        """Normalisation, and the warm start if there is one."""
        recipe = self.recipe
        policy, slm = self.policy, self.pair.names[0]
        num_chains = max(recipe.warm_chains, _MIN_CHAINS)
        task = self.progress.add_task("reference chains", total=num_chains)
        chains = Chains(slm, "words", recipe.tau, num_chains, recipe.seed)
        states = chain_states(chains, self.work / "states", partial(self.progress.advance, task))
        if recipe.num_readout:
            policy.readout.copy_(readout_of(slm, states, recipe.num_readout))
        policy.normalise(states.inputs)
        if recipe.warm_chains:
            task = self.progress.add_task("warm start", total=recipe.warm_epochs)

            def told(loss: float) -> None:
                self.progress.update(task, advance=1, description=f"warm start: loss {loss:.4f}")

            fit(policy, states, recipe.warm_epochs, recipe.warm_lr, recipe.seed, told)
            lean(policy, recipe.warm_error)

    def _look(self) -> None:
        figures = self._measured(f"step {self.trainer.step_number}", greedy(self.trainer.head()), self.recipe.tau)
        self.trainer.keep_if_best(figures.reward(self.recipe.price), asdict(figures))
        self.trainer.save()

    def _measured(self, name: str, decide: Decide, tau: float) -> Figures:
        task = self.progress.add_task(f"dev, {name}", total=len(self.dev))
        on_done, recipe = partial(self.progress.advance, task), replace(self.recipe, tau=tau)
        figures = evaluate(name, self.pair, self.latency, self.dev, decide, recipe, on_done)
        self.progress.update(task, description=f"dev, {name}: {figures.accuracy:.1%}, {figures.latency_ms:.1f} ms")
        return figures


if __name__ == "__main__":
    sys.exit(main())
