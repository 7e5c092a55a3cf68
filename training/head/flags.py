"""The flags of `rstitch train-head`, as they are given. It reads no file, and loads neither models nor torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from evals.asking.stack_options import StackOptions
from evals.asking.values import numbers, one_of, positives, rates, some_of, with_unit
from rstitch.service.head_features import NAMES
from training.head.recipe import LINES, PRICES, SOURCES, TAUS, Recipe

_questions = partial(typer.Option, rich_help_panel="Questions")
_goal = partial(typer.Option, rich_help_panel="What it is trained for, one of these")
_dev = partial(typer.Option, rich_help_panel="What is looked at on dev")
_run = partial(typer.Option, rich_help_panel="The run")
_recipe = partial(typer.Option, rich_help_panel="The recipe")
_DEFAULT = Recipe()


def _listed(values: tuple[float, ...] | tuple[int, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


@dataclass(frozen=True, slots=True)
class HeadFlags:
    """Says what the head is called, and where it and its stages are kept."""

    name: Annotated[str, typer.Option(help="Of the head, under which it is asked for: --policy learned:NAME.")]
    out: Annotated[Path | None, _run(help="Folder of the files.", show_default="models/heads/NAME")] = None
    work: Annotated[Path | None, _run(help="Folder of the stages.", show_default=".cache/heads/NAME")] = None


@dataclass(frozen=True, slots=True)
class QuestionFlags:
    """Says what is asked, and of which questions how many."""

    task: Annotated[str | None, _questions(metavar="NAME|FILE.toml", help="See rstitch eval list.")] = None
    data: Annotated[Path | None, _questions(metavar="FILE", help="Questions with answers, .jsonl or .json.")] = None
    check: Annotated[
        str | None,
        _questions(metavar="KIND", help="Of a file without a task: boxed | math | exact | python:module.function"),
    ] = None
    split: Annotated[str, _questions(help="train, dev and test: shares, or numbers.")] = "70/10/20"
    prompt: Annotated[str, _questions(help="Of a file; {column} stands for a column.")] = "{question}"
    max_new_tokens: Annotated[int | None, _questions(min=1, help="Of an answer.", show_default="the task's")] = None
    num_dev: Annotated[int | None, _questions(min=1, help="At most so many of dev.", show_default="all")] = None
    num_alone: Annotated[
        int | None,
        _questions(min=1, help="Training questions that the LLM and the SLM answer alone, first.", show_default="200"),
    ] = None


@dataclass(frozen=True, slots=True)
class GoalFlags:
    """Says what the head is trained for: at most one of these is not None.

    `target_loss` is of accuracy against the LLM alone, a share; `target_latency` how many times as fast.
    """

    price: Annotated[
        float | None,
        _goal(
            metavar="LAMBDA",
            help="Reward of a millisecond; the paper's: 5e-6.",
            show_default="what takes a tenth of the LLM's reward",
        ),
    ] = None
    target_loss: Annotated[
        float | None,
        _goal(
            parser=with_unit("%", "0.01 or 1%"),
            metavar="LOSS",
            help="As fast as can be, so much less accurate than the LLM alone at most: 0.01 or 1%.",
        ),
    ] = None
    target_latency: Annotated[
        float | None,
        _goal(
            parser=with_unit("x", "2x"),
            metavar="TIMES",
            help="As accurate as can be, so many times as fast as the LLM alone: 2x.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class DevFlags:
    """Says beside what the head is looked at: numbers with commas between them."""

    taus: Annotated[
        Sequence[float] | None,
        _dev(parser=numbers, metavar="TAU,...", help="Thresholds; none if empty.", show_default=_listed(TAUS)),
    ] = None
    prices: Annotated[
        Sequence[float] | None,
        _dev(
            parser=rates,
            metavar="TIMES,...",
            help="Of an LLM token, in multiples of that of the training.",
            show_default=_listed(PRICES),
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class RunFlags:
    """Says who answers, and what the run may take."""

    router: Annotated[str, _run(metavar="HOST:PORT", help="A running router.", show_default="a stack is started")] = ""
    latency: Annotated[
        Path | None,
        _run(
            "--latency-model",
            "--latency",
            metavar="FILE",
            help="Latency model of `rstitch latency`.",
            show_default="the bundled one, or one that is fitted first",
        ),
    ] = None
    sessions: Annotated[int, _run(min=1, help="Answers at once.")] = 64
    patience_s: Annotated[float, _run(help="Wait for a lost service so long.")] = 600.0
    in_process: Annotated[bool, _run("--in-process", help="Both models in this process, on the CPU: no service.")] = (
        False
    )
    max_hours: Annotated[
        float | None, _run(help="Of the whole run: DAPO ends in time for what follows it.", show_default="no end")
    ] = None
    price_per_hour: Annotated[
        float | None, _run(metavar="MONEY", help="Of the machines, to say what the run costs.")
    ] = None
    activate: Annotated[
        bool,
        _run("--activate", help="Put the head into service in the end, where all routers of the store find it."),
    ] = False
    json: Annotated[bool, _run("--json", help="Tell each thing as a line of JSON on stdout.")] = False
    fast: Annotated[bool, _run("--fast", help="Seconds instead of minutes: to see that it runs.")] = False


@dataclass(frozen=True, slots=True)
class RecipeFlags:
    """Says what of the recipe is to be otherwise; what is None is as the recipe has it."""

    seed: Annotated[int | None, _recipe(help="Of everything.", show_default=f"{_DEFAULT.seed}")] = None
    tau: Annotated[float | None, _recipe(help="Gate: the head is asked above.", show_default=f"{_DEFAULT.tau:g}")] = (
        None
    )
    pure: Annotated[
        bool, _recipe("--pure", help="DAPO alone, from near the threshold rule: no supervised warm start.")
    ] = False
    features: Annotated[
        Sequence[str] | None,
        _recipe(
            parser=some_of(NAMES),
            metavar="NAME,...",
            help=f"What else the head sees: {', '.join(NAMES)}.",
            show_default="none",
        ),
    ] = None
    num_readout: Annotated[
        int | None,
        _recipe(
            help="Tokens whose logits the head sees, by the SLM's LM head; 0: the paper's inputs alone.",
            show_default=f"{_DEFAULT.num_readout}",
        ),
    ] = None
    hidden: Annotated[
        Sequence[int] | None,
        _recipe(parser=positives, metavar="N,...", help="Of the MLP's layers.", show_default=_listed(_DEFAULT.hidden)),
    ] = None
    num_steps: Annotated[
        int | None, _recipe(help="Of DAPO; more go on with a run.", show_default=f"{_DEFAULT.num_steps}")
    ] = None
    num_questions: Annotated[
        int | None, _recipe(min=1, help="Of a step.", show_default=f"{_DEFAULT.num_questions}")
    ] = None
    group_size: Annotated[
        int | None, _recipe(min=1, help="Answers to each.", show_default=f"{_DEFAULT.group_size}")
    ] = None
    lr: Annotated[float | None, _recipe(help="Of DAPO.", show_default=f"{_DEFAULT.lr:g}")] = None
    eval_every: Annotated[
        int | None, _recipe(min=1, help="Steps between looks at dev.", show_default=f"{_DEFAULT.eval_every}")
    ] = None
    warm_from: Annotated[
        str | None,
        _recipe(
            parser=one_of(SOURCES),
            metavar="|".join(SOURCES),
            help="What the warm start learns from: reference chains (tiny tasks), right answers of the LLM, the data's "
            "solutions, labelled sessions of the router.",
            show_default="the first that there is",
        ),
    ] = None
    warm_answers: Annotated[int | None, _recipe(help="How many of them.", show_default="by what it learns from")] = None
    warm_lines: Annotated[
        str | None,
        _recipe(
            parser=one_of(LINES),
            metavar="|".join(LINES),
            help="Whose lines reference chains have: the SLM's, those with the LLM's among them, or the LLM's, of "
            "which a head learns to let it begin each.",
            show_default="as the task needs",
        ),
    ] = None
    warm_epochs: Annotated[
        int | None, _recipe(min=1, help="Passes over them.", show_default=f"{_DEFAULT.warm_epochs}")
    ] = None
    warm_error: Annotated[
        float | None,
        _recipe(
            help="The warm start calls the LLM above this P(SLM's token wrong).",
            show_default=f"{_DEFAULT.warm_error:g}",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Flags:
    """All flags of the command."""

    head: HeadFlags
    questions: QuestionFlags
    goal: GoalFlags
    dev: DevFlags
    run: RunFlags
    recipe: RecipeFlags
    stack: StackOptions
