"""The options of `rstitch calibrate`, which serve both of its commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from evals.asking.stack_options import StackOptions
from evals.asking.values import one_of, with_unit
from evals.calibrate.knobs import POLICIES, SIGNALS
from rstitch.limits import ROUTER_ADDRESS

_share = with_unit("%", "0.15 or 15%")


@dataclass(frozen=True, kw_only=True)
class Options(StackOptions):
    """What is wanted, of which policy, on which questions."""

    command: Annotated[Literal["run", "repeat"], typer.Argument(help="What to do.")] = "run"
    data: Annotated[str | None, typer.Option(help="A .jsonl file of questions (and answers), or tiny:calibration.")] = (
        None
    )
    llm_share: Annotated[
        float | None,
        typer.Option(parser=_share, metavar="SHARE", help="So much of the tokens by the LLM: 0.15 or 15%."),
    ] = None
    max_loss: Annotated[
        float | None,
        typer.Option(
            parser=_share, metavar="LOSS", help="At most so much less accurate than the LLM alone: 0.01 or 1%."
        ),
    ] = None
    latency: Annotated[
        float | None,
        typer.Option(parser=with_unit("x", "2x"), metavar="TIMES", help="So many times as fast as the LLM alone: 2x."),
    ] = None
    policy: Annotated[str, typer.Option(help=f"{' | '.join(POLICIES)}.")] = "threshold"
    signal: Annotated[
        str, typer.Option(parser=one_of(SIGNALS), metavar="NAME", help=f"Of threshold: {', '.join(SIGNALS)}.")
    ] = "entropy"
    window: Annotated[int, typer.Option(min=0, help="Of entropy_window.", show_default="the router's")] = 0
    name: Annotated[str, typer.Option(help="Keep the policy as the profile of this name, if its check lands.")] = ""
    force: Annotated[
        bool, typer.Option("--force", help="Keep it even if its check lies outside of what was stated.")
    ] = False
    n: Annotated[
        int,
        typer.Option(
            "-n",
            "--n",
            help="Questions: of a file at most so many (0: all), of a task 0 is 200; of repeat's pool 240.",
        ),
    ] = 0
    seed: Annotated[int, typer.Option(help="Of questions and of what is drawn of them.")] = 0
    concurrency: Annotated[
        int, typer.Option(min=1, help="Questions open at a time; latencies are measured under this load.")
    ] = 16
    max_new_tokens: Annotated[int, typer.Option(help="Of an answer.", show_default="the router's")] = 0
    latency_model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A latency.json: latencies are modelled, not measured.")
    ] = None
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep outcomes in this file: what was asked is not asked again."),
    ] = None
    router: Annotated[
        str,
        typer.Option(
            envvar="RSTITCH_ROUTER",
            metavar="HOST:PORT",
            help="A running router.",
            show_default=f"{ROUTER_ADDRESS}; of repeat: start a stack",
        ),
    ] = ""
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    repeats: Annotated[int, typer.Option(min=1, help="repeat: calibrations for each goal.")] = 20
    write: Annotated[bool, typer.Option("--write", help="repeat: the table of docs/calibration.md.")] = False
