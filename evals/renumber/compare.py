"""`python -m evals.renumber.compare PLAIN RENUMBERED`: whether two runs of `rstitch eval` have the same texts.

One is of a pair, the other of the same pair with a model under other ids. Tells how many answers that both have are the
same, and where each of the others parts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evals.asking.run_file import Run, read
from rstitch.cli.common import exit_code, print_error
from rstitch.errors import RstitchError

_SHOWN = 40


def main(arguments: list[str] | None = None) -> int:
    """Runs the program. Returns the exit code: 1 where a text differs, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m evals.renumber.compare", description=__doc__)
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="written by rstitch eval run")
    options = parser.parse_args(arguments)
    try:
        plain, other = (read([path]) for path in options.runs)
    except RstitchError as error:
        print_error(str(error))
        return exit_code(error)
    num, parted = compare(plain, other)
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
