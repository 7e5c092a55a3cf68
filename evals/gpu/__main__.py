"""`make gpu`: kernels, steps, whole answers, CUDA tests and laws on one GPU; writes figures and a page.

Each part has its limit, and one that fails or is stopped leaves the others to run. Nothing is fetched: models have
random weights, of real sizes.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from evals.commands import run_program
from evals.figures.provenance import provenance
from evals.gpu.card import card
from evals.gpu.page import page
from evals.gpu.parts import DRY, LARGE, SIZES, Part, parts
from evals.gpu.running import Ended, run_part
from evals.options import many

_STYLES = {"passed": "green"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `make gpu`."""

    device: Annotated[str, typer.Option(help="cuda:N, or cpu for a dry run.")] = "cuda:0"
    large: Annotated[bool, typer.Option("--large", help="1.5B with 14B and 32B in place of 7B; needs 80 GB.")] = False
    only: Annotated[
        list[str],
        typer.Option(metavar="PART...", help="kernels, engine, replay, tests, laws.", show_default="all"),
    ] = many()
    limit: Annotated[int, typer.Option(help="Seconds for all parts together.")] = 460
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Is made anew.")] = Path(".run/gpu")


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts; returns the exit code: 1 if one did not pass."""
    return run_program("make gpu", __doc__, run, Options, arguments)


def run(options: Options) -> int:
    """Runs the parts and writes figures and page; returns the exit code: 1 if one did not pass."""
    console = Console()
    folder = options.out
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    on_gpu = options.device.startswith("cuda")
    facts = card(options.device)
    if on_gpu and not facts["name"]:
        console.print(f"{options.device}: there is no such device here: {facts['why']}", style="red")
        console.print("Without a GPU: make gpu ARGS='--device cpu' runs every part as far as a CPU goes.")
        return 2
    sizes = (LARGE if options.large else SIZES) if on_gpu else DRY
    planned = [part for part in parts(options.device, sizes, folder) if part.name in (options.only or [part.name])]
    console.print(f"{facts['name'] or 'CPU'}, {facts['versions']}", soft_wrap=True)
    ended = run_parts(planned, folder, options.limit, console)
    found = figures(folder, {part.name: part.figures for part in planned if part.figures})
    found |= {"provenance": provenance() | facts, "parts": [asdict(part) for part in ended]}
    (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "page.md").write_text(page(found))
    console.print(f"{folder / 'page.md'}, {sum(part.seconds for part in ended):.0f} s", style="bold")
    return 0 if len(ended) == len(planned) and all(part.code == 0 for part in ended) else 1


def run_parts(planned: Sequence[Part], folder: Path, limit_s: float, console: Console) -> list[Ended]:
    """Runs one part after another, each within its limit and all within `limit_s`; tells how each ended."""
    begin, ended = time.monotonic(), []
    for part in planned:
        left = limit_s - (time.monotonic() - begin)
        if left < 1:
            console.print(f"{part.name:8} not begun: {limit_s:g} s are over", style="yellow")
            continue
        with console.status(f"{part.name}: {part.about} (at most {part.limit_s} s)"):
            found = run_part(part, folder, min(part.limit_s, left))
        _tell(found, console)
        ended.append(found)
    return ended


def figures(folder: Path, files: Mapping[str, str]) -> dict[str, Any]:
    """Reads what the parts left, by their names."""
    return {name: json.loads((folder / file).read_text()) for name, file in files.items() if (folder / file).exists()}


def _tell(part: Ended, console: Console) -> None:
    console.print(f"{part.name:8} {part.verdict}, {part.seconds:.0f} s", style=_STYLES.get(part.verdict, "red"))
    for line in part.tail:
        console.print(f"  {line[:200]}", style="dim", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
