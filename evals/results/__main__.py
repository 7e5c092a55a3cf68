"""`make results`, or `python -m evals.results`: measures the tiny pair anew and writes docs/results/*.md.

Each step is a few commands, printed as they run. Runs are kept in --folder: a second call goes on where the first
ended.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from evals.asking.flags import positive
from evals.figures.provenance import ROOT
from evals.results.steps import steps


def main() -> int:
    """Runs the steps asked for; returns the exit code of the first command that failed, else 0."""
    parser = argparse.ArgumentParser(prog="make results", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps only")
    parser.add_argument("--list", action="store_true", help="what would run")
    parser.add_argument("--folder", type=Path, default=Path(".run/results"), help="of the runs (default .run/results)")
    parser.add_argument("--n", type=positive, default=1000, help="held-out problems (default 1000)")
    parser.add_argument("--n-latency", type=positive, default=200, help="of the run at one session (default 200)")
    options = parser.parse_args()
    console = Console(highlight=False)
    todo = steps(options.folder, options.n, options.n_latency)
    unknown = set(options.only or ()) - {step.name for step in todo}
    if unknown:
        parser.error(f"there is no step {', '.join(sorted(unknown))}; choose of {', '.join(s.name for s in todo)}")
    todo = [step for step in todo if not options.only or step.name in options.only]
    (ROOT / options.folder).mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for index, step in enumerate(todo, start=1):
        console.rule(f"{index}/{len(todo)} {step.name}: {step.title} (about {step.minutes} min)", align="left")
        for command in step.commands:
            console.print(f"python -m {shlex.join(command)}", style="dim", soft_wrap=True)
            if options.list:
                continue
            code = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode
            if code:
                console.print(f"error: step {step.name} failed with exit code {code}", style="bold red")
                return code
    if not options.list:
        console.print(f"the pages of docs/results are written; {(time.monotonic() - began) / 60:.0f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
