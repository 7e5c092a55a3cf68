"""`python -m evals.renumber.compare PLAIN RENUMBERED`: whether two runs of `rstitch eval` have the same texts.

One is of a pair, the other of the same pair with a model under other ids. Tells how many answers that both have are the
same, and where each of the others parts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from evals.asking.run_file import Run, read
from evals.commands import run_program

_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `python -m evals.renumber.compare`."""

    plain: Annotated[Path, typer.Argument(metavar="PLAIN", help="Written by rstitch eval run.")]
    renumbered: Annotated[Path, typer.Argument(metavar="RENUMBERED", help="Another, under other ids.")]


def main(arguments: list[str] | None = None) -> int:
    """Runs the program. Returns the exit code: 1 where a text differs, 2 for bad input."""
    return run_program("python -m evals.renumber.compare", __doc__, run, Options, arguments)


def run(options: Options) -> int:
    """Compares and tells. Returns the exit code: 1 where a text differs."""
    num, parted = compare(read([options.plain]), read([options.renumbered]))
    sys.stdout.write(f"{num} answers in both; {num - len(parted)} have the same text and the same writers\n")
    sys.stdout.write("".join(f"{line}\n" for line in parted))
    return 1 if parted or not num else 0


def compare(plain: Run, other: Run) -> tuple[int, list[str]]:
    """How many answers both have, and a line about each that differs."""
    theirs = {record.key: record for record in other.records}
    both = [(record, theirs[record.key]) for record in plain.records if record.key in theirs]
    parted = []
    for one, two in both:
        parts = [[(part.model, part.num_tokens, part.text) for part in record.parts] for record in (one, two)]
        if parts[0] != parts[1]:
            pairs = enumerate(zip(one.text, two.text, strict=False))
            at = next((index for index, (a, b) in pairs if a != b), min(len(one.text), len(two.text)))
            shown = [record.text[at : at + _SHOWN] for record in (one, two)]
            parted.append(f"{one.system}, problem {one.problem}: from character {at}: {shown[0]!r} beside {shown[1]!r}")
    return len(both), parted


if __name__ == "__main__":
    sys.exit(main())
