"""What `rstitch train-head` does with its flags: it refuses, starts a stack if it needs one, and runs the stages."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace

import torch
import typer
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from evals.asking.stacks import Flags as PartFlags
from evals.asking.stacks import local_stack
from model_worker.engine.errors import UnsupportedModel
from rstitch.cli.common import FAILED, print_error
from rstitch.cli.progress import start, stopped_by_signals
from training.head.asking import reached_by
from training.head.baselines import check_checker
from training.head.flags import Flags
from training.head.latency import load_latency
from training.head.options import Options, settled
from training.head.progress import Screen
from training.head.questions import Questions, load_questions
from training.head.recipe import Recipe
from training.head.refusals import refuse
from training.head.run import Run, made_of
from training.head.work import refuse_another


def train(flags: Flags) -> None:
    """Trains, chooses, writes. Raises RstitchError, StackError, KeyboardInterrupt; typer.Exit for models not served."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120, stderr=flags.run.json)
    torch.set_num_threads(1)
    disable_progress_bar()  # of loading weights
    try:
        options, recipe = settled(flags)
        questions = questions_of(options, recipe)  # before a stack is started, which takes a while
        with stopped_by_signals(), ExitStack() as held:
            reached = reached_by(options)  # before a stack of its own, which ends with the run
            if not (options.run.router or options.run.in_process):
                stack = local_stack(options.stack, defaults=PartFlags(worker=["--batch-invariant"]))
                start(stack, console)
                held.callback(stack.stop)
                options = replace(options, run=replace(options.run, router=stack.router_address))
            screen = held.enter_context(Screen(console, as_json=flags.run.json))
            Run(options, recipe, questions, reached, screen, held).all()
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on where it was")
        raise
    except UnsupportedModel as error:
        print_error(str(error))
        raise typer.Exit(FAILED) from None


def questions_of(options: Options, recipe: Recipe) -> Questions:
    """The questions, once all is refused that flags and files show without the pair. Raises RstitchError."""
    asked = options.questions
    questions = load_questions(
        asked.task,
        asked.data,
        asked.check,
        split=asked.split,
        seed=recipe.seed,
        prompt=asked.prompt,
        max_new_tokens=asked.max_new_tokens,
    )
    refuse(options, recipe, questions)
    if options.run.latency is not None:
        load_latency(options.run.latency)
    refuse_another(options.head.work, made_of(options, recipe, questions))
    check_checker(questions.task, questions.train[: options.looks.num_alone])
    return questions
