"""`rstitch fits SLM LLM --gpu 24,24`, or `python -m evals.fits`: whether a pair fits on one card or two, and what then.

Computed from configs alone: no weight is read, and no hub asked for the pairs of .env.example and a few more. For each
precision of the LLM's weights: the weights, what is left for KV, how many tokens that is, and how many sessions of
8,192. Without a pair: all that are known here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console

from evals.commands import run_program
from evals.figures.report import Columns, Row, terminal_table
from evals.fits import document
from evals.fits.placing import Placed, placed
from evals.fits.presets import CONFIGS, PAIRS
from evals.fits.sizing import SESSION_TOKENS, sized
from model_worker.engine.errors import UnsupportedModel
from rstitch.errors import invalid

_COLUMNS: Columns = {
    "LLM's weights": "{precision}",
    "SLM GB": "{slm_gb:.1f}",
    "LLM GB": "{llm_gb:.1f}",
    "left GB": "{left_gb:.1f}",
    "KV tokens": "{tokens:,}",
    f"sessions of {SESSION_TOKENS:,}": "{sessions}",
}


def gpus(text: str) -> tuple[float, ...]:
    """Reads `80` or `24,24`: the GB of one card for both models, or of the SLM's and the LLM's."""
    try:
        sizes = tuple(float(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not 1 <= len(sizes) <= 2 or not all(0 < size < float("inf") for size in sizes):
        raise typer.BadParameter(f"{text!r} should be the GB of one card, or of two such as 24,24")
    return sizes


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `rstitch fits`."""

    slm: Annotated[str | None, typer.Argument(metavar="[SLM]", help="One known here, a folder, or a hub id.")] = None
    llm: Annotated[str | None, typer.Argument(metavar="[LLM]", help="Likewise.")] = None
    gpu: Annotated[
        Sequence[float],
        typer.Option(
            parser=gpus,
            metavar="GB[,GB]",
            help="One card for both models, or the SLM's and the LLM's.",
        ),
    ] = (24,)
    tp: Annotated[
        int, typer.Option(min=1, help="Divides the LLM among so many cards of its size: that needs --gpu GB,GB.")
    ] = 1
    slm_precision: Annotated[
        str, typer.Option(metavar="NAME", help="bf16, int8 or int4; without it bf16, or as its folder comes.")
    ] = ""
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False
    write: Annotated[bool, typer.Option("--write", help="Write the table of docs/pairs.md, and nothing else.")] = False


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    known = f"{__doc__}\n\nKnown without a hub: {', '.join(CONFIGS)}."
    return run_program("rstitch fits", known, run, Options, arguments, bad_input=(UnsupportedModel,))


def run(options: Options) -> int:
    """Computes and prints. Returns the exit code."""
    if options.write:
        document.write()
        return 0
    found = [list(_rows(slm, llm, options)) for slm, llm in _pairs(options)]
    if options.json:
        json.dump([row for rows in found for row in rows], sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    console = Console()
    for rows in found:
        first = rows[0]
        cards = f" + {options.tp} x ".replace(" 1 x ", " ").join(f"{gpu:g}" for gpu in options.gpu)
        title = f"{first['slm']} ({first['slm_precision']}) and {first['llm']} on {cards} GB"
        console.print(terminal_table(title, _COLUMNS, rows))
    return 0


def _pairs(options: Options) -> tuple[tuple[str, str], ...]:
    if options.slm is None:
        return PAIRS
    if options.llm is None:
        raise invalid("LLM", "only an SLM is named.", "Name both models, or none for all pairs that are known here.")
    return ((options.slm, options.llm),)


def _rows(slm: str, llm: str, options: Options) -> list[Row]:
    if options.tp > 1 and len(options.gpu) < 2:
        raise invalid("--tp", "an LLM over several cards has no SLM on one of them.", "Give --gpu two sizes.")
    small, large = sized(slm), sized(llm, options.tp)
    if options.slm_precision and options.slm_precision not in small.weights:
        raise invalid(
            "--slm-precision", f"{slm} is not for {options.slm_precision}.", f"Choose of {', '.join(small.weights)}."
        )
    return [_row(each) for each in placed(small, large, tuple(options.gpu), options.slm_precision)]


def _row(each: Placed) -> Row:
    gigabytes = {f"{name}_gb": getattr(each, f"{name}_bytes") / 1e9 for name in ("slm", "llm", "left")}
    return asdict(each) | gigabytes | {"sessions": each.sessions}


if __name__ == "__main__":
    sys.exit(main())
