"""`rstitch train-head`, or `python -m training.head`: a head of R-Stitch+ for a pair and a task."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from evals.asking.stacks import Flags, local_stack
from evals.tasks.task import chosen
from model_worker.engine.errors import UnsupportedModel
from rstitch.cli.common import FAILED, INTERRUPTED, exit_code, print_error
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.errors import RstitchError, invalid
from rstitch.local.part import ROOT, StackError
from training.head.asking import reached_by
from training.head.baselines import check_checker
from training.head.flags import fill, parser
from training.head.latency import load_latency
from training.head.progress import Screen
from training.head.questions import Questions, load_questions
from training.head.recipe import FAST, Recipe
from training.head.refusals import refuse
from training.head.run import Run, made_of
from training.head.warm_start.sources import NUM_ANSWERS, default_source
from training.head.work import refuse_another


def main(arguments: list[str] | None = None) -> int:
    """Trains, chooses, writes; returns the exit code: 2 for bad input, 1 for other failures."""
    options = parser().parse_args(arguments)
    fill(options)
    options.out = options.out or ROOT / "models/heads" / options.name
    options.work = options.work or Path(".cache/heads") / options.name
    width = None if sys.stdout.isatty() else 120
    console = Console(highlight=False, width=width, stderr=options.json)
    torch.set_num_threads(1)
    disable_progress_bar()  # of loading weights
    try:
        recipe = recipe_of(options)
        questions = questions_of(options, recipe)  # before a stack is started, which takes a while
        with stopped_by_signals(), ExitStack() as held:
            options.reached = reached_by(options)  # before a stack of its own, which ends with the run
            if not (options.router or options.in_process):
                stack = local_stack(options, defaults=Flags(worker=["--batch-invariant"]))
                start(stack, console)
                held.callback(stack.stop)
                options.router = stack.router_address
            screen = held.enter_context(Screen(console, as_json=options.json))
            Run(options, recipe, questions, screen, held).all()
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on where it was")
        return INTERRUPTED
    except RstitchError as error:
        print_error(str(error))
        return exit_code(error)
    except (StackError, UnsupportedModel) as error:
        print_error(str(error))
        return FAILED
    return 0


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe with what the flags say of it, which also get the source of the warm start. Raises RstitchError."""
    given = {field.name: getattr(options, field.name, None) for field in fields(Recipe)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    recipe = replace(
        FAST if options.fast else Recipe(), **{name: value for name, value in given.items() if value is not None}
    )
    # Known from here on, by what the task writes: a file of the user's may have any name.
    options.warm_from = options.warm_from or default_source(chosen(options.task, options.data, options.check))
    if options.warm_from != "chains" and options.warm_answers is None and not options.fast:
        recipe = replace(recipe, warm_answers=NUM_ANSWERS)
    if options.pure:
        recipe = replace(recipe, warm_answers=0)
    if not 0 <= recipe.tau < 1:
        raise invalid("--tau", f"{recipe.tau:g} is no gate of a head.", "Give at least 0 and less than 1.")
    if recipe.group_size < 2:
        raise invalid("--group-size", "an answer alone has nothing to be better than.", "Give at least 2.")
    if not 0 < recipe.warm_error < 1:
        raise invalid("--warm-error", f"{recipe.warm_error:g} is no probability.", "Give more than 0, less than 1.")
    return recipe


def questions_of(options: argparse.Namespace, recipe: Recipe) -> Questions:
    """The questions, once all is refused that flags and files show without the pair. Raises RstitchError."""
    questions = load_questions(
        options.task,
        options.data,
        options.check,
        split=options.split,
        seed=recipe.seed,
        prompt=options.prompt,
        max_new_tokens=options.max_new_tokens,
    )
    refuse(options, recipe, questions)
    if options.latency is not None:
        load_latency(options.latency)
    refuse_another(options.work, made_of(options, recipe, questions))
    check_checker(questions.task, questions.train[: options.num_alone])
    return questions


if __name__ == "__main__":
    sys.exit(main())
