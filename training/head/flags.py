"""The flags of `rstitch train-head`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evals.asking.flags import numbers, positive, positives, rates, some_of
from evals.asking.stacks import add_stack_arguments
from rstitch.service.head_features import NAMES
from training.head.frontier import PRICES, TAUS
from training.head.recipe import Recipe
from training.head.warm_start.chain_states import LINES
from training.head.warm_start.sources import SOURCES

DESCRIPTION = """Trains the head of R-Stitch+ for a pair, on questions with answers.

Stages, each of which goes on where it was after any kill: questions (split by their hash), the latency model, the LLM
and the SLM alone, a warm start, DAPO with the price of a millisecond, a look at dev, the files: weights, card, curves.
The test split is never looked at.
"""


def parser() -> argparse.ArgumentParser:
    """Makes the parser; what of the recipe is not given is the recipe's."""
    share = partial(_number, unit="%", example="0.01 or 1%")
    times = partial(_number, unit="x", example="2x")
    # fmt: off
    made = argparse.ArgumentParser(prog="rstitch train-head", description=DESCRIPTION,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--name", required=True, help="of the head, under which it is asked for: --policy learned:NAME")
    asked = made.add_argument_group("questions")
    asked.add_argument("--task", metavar="NAME|FILE.toml", help="see rstitch eval list")
    asked.add_argument("--data", type=Path, metavar="FILE", help="questions with answers, .jsonl or .json")
    asked.add_argument("--check", metavar="KIND",
                       help="of a file without a task: boxed | math | exact | code | python:module.function")
    asked.add_argument("--split", default="70/10/20", help="train, dev and test: shares, or numbers (default 70/10/20)")
    asked.add_argument("--prompt", default="{question}", help="of a file; {column} stands for a column")
    asked.add_argument("--max-new-tokens", type=positive, help="of an answer (default: the task's)")
    asked.add_argument("--num-dev", type=positive, help="at most so many of dev (default: all)")
    asked.add_argument("--num-alone", type=positive,
                       help="training questions that the LLM and the SLM answer alone, first (default 200)")
    goal = made.add_argument_group("what it is trained for").add_mutually_exclusive_group()
    goal.add_argument("--price", type=float, metavar="LAMBDA",
                      help="reward of a millisecond (the paper: 5e-6; default: what takes a tenth of the LLM's reward)")
    goal.add_argument("--target-loss", type=share, metavar="LOSS",
                      help="as fast as can be, at most so much less accurate than the LLM alone: 0.01 or 1%%")
    goal.add_argument("--target-latency", type=times, metavar="TIMES",
                      help="as accurate as can be, so many times as fast as the LLM alone: 2x")
    dev = made.add_argument_group("what is looked at on dev")
    dev.add_argument("--taus", type=numbers, help=f"thresholds (default {_listed(TAUS)})")
    dev.add_argument("--prices", type=rates,
                     help=f"of an LLM token, in multiples of that of the training (default {_listed(PRICES)})")
    run = made.add_argument_group("the run")
    run.add_argument("--out", type=Path, help="folder of the files (default models/heads/NAME)")
    run.add_argument("--work", type=Path, help="folder of the stages (default .cache/heads/NAME)")
    run.add_argument("--latency-model", "--latency", dest="latency", type=Path, metavar="FILE",
                     help="latency model of `rstitch latency` (default: the bundled one, or one that is fitted first)")
    run.add_argument("--sessions", type=positive, default=64, help="answers at once (default 64)")
    run.add_argument("--patience-s", type=float, default=600.0, help="wait for a lost service so long (default 600)")
    run.add_argument("--in-process", action="store_true", help="both models in this process, on the CPU: no service")
    run.add_argument("--max-hours", type=float, help="of the whole run: DAPO ends in time for what follows it")
    run.add_argument("--price-per-hour", type=float, metavar="MONEY", help="of the machines, to say what the run costs")
    run.add_argument("--activate", action="store_true",
                     help="put the head into service in the end, where all routers of the store find it")
    run.add_argument("--json", action="store_true", help="tell each thing as a line of JSON on stdout")
    run.add_argument("--fast", action="store_true", help="seconds instead of minutes: to see that it runs")
    _add_recipe(made.add_argument_group("the recipe"))
    # fmt: on
    add_stack_arguments(made, router=True)
    return made


def fill(options: argparse.Namespace) -> None:
    """Sets how much is looked at where it was not given: little with `--fast`."""
    little = {"num_alone": 8, "num_dev": 8, "taus": [0.01], "prices": [1.0]}
    usual = {"num_alone": 200, "num_dev": None, "taus": list(TAUS), "prices": list(PRICES)}
    for name, value in (little if options.fast else usual).items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def _add_recipe(group: argparse._ArgumentGroup) -> None:
    """Each is a field of the recipe; None: as the recipe has it."""
    default = Recipe()
    # fmt: off
    group.add_argument("--seed", type=int, help="of everything")
    group.add_argument("--tau", type=float, help=f"gate: the head is asked above (default {default.tau:g})")
    group.add_argument("--pure", action="store_true",
                       help="DAPO alone, from near the threshold rule: no supervised warm start")
    group.add_argument("--features", type=some_of(NAMES), metavar="NAME,...",
                       help=f"what else the head sees: {', '.join(NAMES)} (default: none)")
    group.add_argument("--num-readout", type=int,
                       help="tokens whose logits the head sees, by the SLM's LM head; 0: the paper's inputs alone "
                            f"(default {default.num_readout})")
    group.add_argument("--hidden", type=positives, metavar="N,...", help="of the MLP's layers")
    group.add_argument("--num-steps", type=int, help=f"of DAPO (default {default.num_steps}); more go on with a run")
    group.add_argument("--num-questions", type=positive, help=f"of a step (default {default.num_questions})")
    group.add_argument("--group-size", type=positive, help=f"answers to each (default {default.group_size})")
    group.add_argument("--lr", type=float, help=f"of DAPO (default {default.lr:g})")
    group.add_argument("--eval-every", type=positive, help=f"steps between looks at dev (default {default.eval_every})")
    group.add_argument("--warm-from", choices=SOURCES,
                       help="what the warm start learns from: reference chains (tiny tasks), right answers of the LLM, "
                            "the data's solutions, labelled sessions of the router (default: the first that there is)")
    group.add_argument("--warm-answers", type=int, help="how many of them")
    group.add_argument("--warm-lines", choices=LINES,
                       help="whose lines reference chains have: the SLM's, those with the LLM's among them, or the "
                            "LLM's, of which a head learns to let it begin each (default: as the task needs)")
    group.add_argument("--warm-epochs", type=positive, help=f"passes over them (default {default.warm_epochs})")
    group.add_argument("--warm-error", type=float, help="the warm start calls the LLM above this P(SLM's token wrong)")
    # fmt: on


def _number(text: str, unit: str, example: str) -> float:
    try:
        return float(text.removesuffix(unit)) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as {example}") from None


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
