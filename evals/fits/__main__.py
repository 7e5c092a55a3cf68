"""`rstitch fits SLM LLM --gpu 24,24`, or `python -m evals.fits`: whether a pair fits on one card or two, and what then.

Computed from configs alone: no weight is read, and no hub asked for the pairs of .env.example and a few more. For each
precision of the LLM's weights: the weights, what is left for KV, how many tokens that is, and how many sessions of
8,192. Without a pair: all that are known here.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from rich.console import Console

from evals.figures.report import Columns, Row, terminal_table
from evals.fits import document
from evals.fits.placing import Placed, placed
from evals.fits.presets import CONFIGS, PAIRS
from evals.fits.sizing import SESSION_TOKENS, sized
from model_worker.engine.errors import UnsupportedModel
from rstitch.cli.common import exit_code, print_error
from rstitch.errors import RstitchError, invalid

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
        raise argparse.ArgumentTypeError(f"{text!r} should be the GB of one card, or of two such as 24,24")
    return sizes


def parser() -> argparse.ArgumentParser:
    """Makes the parser."""
    # fmt: off
    made = argparse.ArgumentParser(prog="rstitch fits", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter,
                                   epilog=f"known without a hub: {', '.join(CONFIGS)}")
    made.add_argument("slm", nargs="?", metavar="SLM", help="a model of the list below, a folder, or a hub id")
    made.add_argument("llm", nargs="?", metavar="LLM", help="likewise")
    made.add_argument("--gpu", type=gpus, default=(24.0,), metavar="GB[,GB]",
                      help="one card for both models, or the SLM's and the LLM's (default 24; 1 GB is 10^9 bytes)")
    made.add_argument("--slm-precision", default="", metavar="NAME",
                      help="bf16, int8 or int4 (default: bf16, or as its folder comes)")
    made.add_argument("--json", action="store_true", help="the figures as JSON")
    made.add_argument("--write", action="store_true", help="write the table of docs/pairs.md, and nothing else")
    # fmt: on
    return made


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        if options.write:
            document.write()
            return 0
        found = [list(_rows(slm, llm, options)) for slm, llm in _pairs(options)]
    except RstitchError as error:
        print_error(str(error))
        return exit_code(error)
    except UnsupportedModel as error:
        print_error(str(error))
        return 2
    if options.json:
        json.dump([row for rows in found for row in rows], sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    console = Console()
    for rows in found:
        first = rows[0]
        cards = " + ".join(f"{gpu:g}" for gpu in options.gpu)
        title = f"{first['slm']} ({first['slm_precision']}) and {first['llm']} on {cards} GB"
        console.print(terminal_table(title, _COLUMNS, rows))
    return 0


def _pairs(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    if options.slm is None:
        return PAIRS
    if options.llm is None:
        raise invalid("LLM", "only an SLM is named.", "Name both models, or none for all pairs that are known here.")
    return ((options.slm, options.llm),)


def _rows(slm: str, llm: str, options: argparse.Namespace) -> list[Row]:
    small, large = sized(slm), sized(llm)
    if options.slm_precision and options.slm_precision not in small.weights:
        raise invalid(
            "--slm-precision", f"{slm} is not for {options.slm_precision}.", f"Choose of {', '.join(small.weights)}."
        )
    return [_row(each) for each in placed(small, large, options.gpu, options.slm_precision)]


def _row(each: Placed) -> Row:
    gigabytes = {f"{name}_gb": getattr(each, f"{name}_bytes") / 1e9 for name in ("slm", "llm", "left")}
    return asdict(each) | gigabytes | {"sessions": each.sessions}


if __name__ == "__main__":
    sys.exit(main())
