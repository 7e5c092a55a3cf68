"""What a run of `rstitch train-head` is told, once its flags are read and what they leave open is chosen."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from evals.asking.stack_options import StackOptions
from evals.tasks.task import chosen
from rstitch.errors import invalid
from rstitch.local.part import ROOT
from training.head.flags import Flags, GoalFlags, QuestionFlags, RecipeFlags, RunFlags
from training.head.recipe import FAST, PRICES, TAUS, Recipe
from training.head.warm_start.sources import NUM_ANSWERS, default_source


@dataclass(frozen=True, slots=True)
class Place:
    """The head's name, the folder of its files, and that of its stages."""

    name: str
    out: Path
    work: Path


@dataclass(frozen=True, slots=True)
class Looks:
    """How many questions the models answer alone, how many of dev are looked at (None: all), and with what beside."""

    num_alone: int
    num_dev: int | None
    taus: tuple[float, ...]
    prices: tuple[float, ...]


_USUAL = Looks(200, None, TAUS, PRICES)
_LITTLE = Looks(8, 8, (0.01,), (1.0,))  # with --fast


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told; `warm_from` is what its warm start learns from."""

    head: Place
    questions: QuestionFlags
    goal: GoalFlags
    looks: Looks
    run: RunFlags
    stack: StackOptions
    warm_from: str


def settled(flags: Flags) -> tuple[Options, Recipe]:
    """Reads what the flags say. Raises RstitchError that names the flag."""
    name = flags.head.name
    place = Place(name, flags.head.out or ROOT / "models/heads" / name, flags.head.work or Path(".cache/heads") / name)
    recipe, asked = _recipe(flags.recipe, is_fast=flags.run.fast), flags.questions
    # By what the task writes: a file of the user's may have any name.
    source = flags.recipe.warm_from or default_source(chosen(asked.task, asked.data, asked.check))
    if source != "chains" and flags.recipe.warm_answers is None and not flags.run.fast:
        recipe = replace(recipe, warm_answers=NUM_ANSWERS)
    if flags.recipe.pure:
        recipe = replace(recipe, warm_answers=0)
    _check(flags.goal)
    options = Options(place, asked, flags.goal, _looks(flags), flags.run, flags.stack, source)
    return options, recipe


def _recipe(flags: RecipeFlags, *, is_fast: bool) -> Recipe:
    given = {field.name: getattr(flags, field.name, None) for field in fields(Recipe)}
    if flags.hidden is not None:
        given["hidden"] = tuple(flags.hidden)
    if flags.features is not None:
        given["features"] = tuple(flags.features)
    said = {name: value for name, value in given.items() if value is not None}
    recipe = replace(FAST if is_fast else Recipe(), **said)
    if not 0 <= recipe.tau < 1:
        raise invalid("--tau", f"{recipe.tau:g} is no gate of a head.", "Give at least 0 and less than 1.")
    if recipe.group_size < 2:
        raise invalid("--group-size", "an answer alone has nothing to be better than.", "Give at least 2.")
    if not 0 < recipe.warm_error < 1:
        raise invalid("--warm-error", f"{recipe.warm_error:g} is no probability.", "Give more than 0, less than 1.")
    return recipe


def _check(goal: GoalFlags) -> None:
    if sum(getattr(goal, field.name) is not None for field in fields(goal)) > 1:
        what = "--price, --target-loss and --target-latency say each what a head is trained for."
        raise invalid("--price", what, "Give one of them.")


def _looks(flags: Flags) -> Looks:
    otherwise = _LITTLE if flags.run.fast else _USUAL
    asked, dev = flags.questions, flags.dev
    return Looks(
        asked.num_alone or otherwise.num_alone,
        asked.num_dev or otherwise.num_dev,
        otherwise.taus if dev.taus is None else tuple(dev.taus),
        otherwise.prices if dev.prices is None else tuple(dev.prices),
    )
