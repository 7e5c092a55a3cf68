"""What is refused before anything is timed, asked or trained: each by its flag, with the remedy. It asks nobody."""

from __future__ import annotations

import math
import re

from rstitch.errors import invalid
from rstitch.service.head import NUM_TOP
from training.head.options import Options
from training.head.promise import check_promise
from training.head.questions import Questions, solution_of
from training.head.recipe import SOURCES, Recipe
from training.head.warm_start import sources

_MAX_NAME = 64  # of a head in the store
TRAINING = ".training"  # follows the name, of heads of training steps
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def refuse(options: Options, recipe: Recipe, questions: Questions) -> None:
    """Raises RstitchError (INVALID_ARGUMENT) for what no run could end well with."""
    _refuse_name(options.head.name)
    _refuse_goal(options, recipe, len(questions.dev[: options.looks.num_dev]))
    _refuse_numbers(options, recipe)
    _refuse_source(options, recipe, questions)
    if options.run.activate and (options.run.in_process or not options.run.router):
        what = "this run has no store that stays."
        remedy = "Give --router without --in-process, or leave it out and put the head later: rstitch heads put."
        raise invalid("--activate", what, remedy)


def _refuse_name(name: str) -> None:
    longest = _MAX_NAME - len(TRAINING)
    if not _NAME.fullmatch(name) or len(name) > longest:
        remedy = f"Use 1 to {longest} of the characters A-Z a-z 0-9 . _ -, not . or - first."
        raise invalid("--name", f"{name[:80]!r} is no name of a head.", remedy)


def _refuse_goal(options: Options, recipe: Recipe, num_dev: int) -> None:
    price, speed_up = options.goal.price, options.goal.target_latency
    if price is not None and not 0 < price < math.inf:
        raise invalid("--price", f"{price:g} is no price of a millisecond.", "Give more than 0, such as 5e-6.")
    if speed_up is not None and not 1 < speed_up < math.inf:
        raise invalid("--target-latency", f"{speed_up:g}x is no speed-up.", "Give more than 1x, such as 2x.")
    if options.goal.target_loss is not None:
        check_promise(options.goal.target_loss, num_dev, 0.0, recipe.num_looks, is_trial=options.run.fast)


def _refuse_numbers(options: Options, recipe: Recipe) -> None:
    if recipe.num_readout and recipe.num_readout < NUM_TOP:
        remedy = f"Give 0 (the paper's inputs alone), or at least {NUM_TOP}."
        raise invalid("--num-readout", f"a head cannot read {recipe.num_readout} tokens.", remedy)
    if recipe.warm_answers < 0:
        remedy = "Give more than 0, or leave the warm start out: --pure."
        raise invalid("--warm-answers", f"{recipe.warm_answers} are no answers.", remedy)
    if not 0 < recipe.lr < math.inf:
        raise invalid("--lr", f"{recipe.lr:g} is no learning rate.", "Give more than 0, such as 1e-4.")
    if recipe.num_steps < 0:
        raise invalid("--num-steps", f"{recipe.num_steps} are no steps.", "Give at least 0.")
    if options.run.max_hours is not None and not options.run.max_hours > 0:
        raise invalid("--max-hours", f"{options.run.max_hours:g} hours are none.", "Give more than 0.")


def _refuse_source(options: Options, recipe: Recipe, questions: Questions) -> None:
    source, task = options.warm_from, questions.task
    others = f"Choose of {', '.join(SOURCES[1:])}."
    if source == "chains":
        if sources.domain_of(task) is None:
            raise invalid("--warm-from", f"{task.name} has no reference chains.", others)
        return
    if recipe.warm_lines:
        what = f"the warm start of {source} has the lines that it has."
        raise invalid("--warm-lines", what, "Leave it out: it is for --warm-from chains.")
    if options.run.in_process:
        what = f"the warm start of {source} is observed by the service."
        raise invalid("--in-process", what, "Leave it out, or train for a tiny task: --warm-from chains.")
    if source == "logs" and not options.run.router:
        what = "a stack that is started for this run has no sessions of anybody's."
        raise invalid("--warm-from", what, "Name the router that keeps the labelled ones: --router HOST:PORT.")
    if source in ("answers", "solutions") and task.input != "chat":
        raise invalid("--warm-from", f"{task.name} asks without a chat, and only chats are observed.", "Choose logs.")
    if source == "solutions" and not any(map(solution_of, sources.first(questions.train, recipe))):
        raise invalid("--warm-from", "the questions have no column `solution`.", "Choose answers.")
