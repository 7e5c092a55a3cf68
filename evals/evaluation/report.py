"""`rstitch eval report`: the tables of one run, or of several of the same task."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evals.asking.run_file import Run
from evals.evaluation.modelled import rows_of
from evals.figures import tables
from evals.figures.provenance import line
from evals.figures.report import Row, replace_section
from rstitch.errors import invalid

RunFiles = Annotated[list[Path], typer.Argument(metavar="FILE", help="Of rstitch eval run.")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `rstitch eval report`."""

    files: RunFiles
    latency_model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of rstitch latency: adds modelled latency.")
    ] = None
    no_times: Annotated[
        bool, typer.Option("--no-times", help="Without measured latencies: of a run under a load of its own.")
    ] = False
    json: Annotated[bool, typer.Option("--json", help="Rows, configuration and provenance as JSON.")] = False
    markdown: Annotated[bool, typer.Option("--markdown", help="As a document has it.")] = False
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture for the markdown, such as a frontier.")
    ] = None
    write: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.md:SECTION", help="Puts the markdown between the marks <!-- SECTION:begin --> and :end."
        ),
    ] = None


def run(options: Options) -> int:
    """Prints and writes. Returns the exit code."""
    found, rows = rows_of(options.files, options.latency_model)
    if options.no_times:
        rows = [without_times(row) for row in rows]
    if options.json:
        json.dump({"configuration": found.configuration, "provenance": found.provenance, "rows": rows}, sys.stdout)
        sys.stdout.write("\n")
    elif options.markdown:
        sys.stdout.write(text(found, rows, str(options.image or "")) + "\n")
    else:
        console = Console(highlight=False)
        for table in tables.terminal(rows, console.width):
            console.print(table)
    if options.write:
        image = beside_document(options.image, options.write) if options.image else ""
        write(options.write, text(found, rows, image))
    return 0


def without_times(row: Row) -> Row:
    """A row without what was measured in time; what the latency model reckons stays."""
    timed = ("latency_", "client_", "ttft_", "speed_up", "cheaper")
    return {name: value for name, value in row.items() if not name.startswith(timed)}


def text(run: Run, rows: list[Row], image: str = "") -> str:
    """Puts together the tables, where they come from, and a picture."""
    picture = f"\n\n![accuracy over latency and over the share of the LLM]({image})" if image else ""
    return f"{tables.markdown(rows)}\n\n{caption(run, rows)}{picture}"


def caption(run: Run, rows: list[Row]) -> str:
    """Says what was asked, how, by which command, at which commit, on which machine."""
    facts = run.configuration
    sampling = (
        "greedy" if not facts["temperature"] else f"temperature {facts['temperature']:g}, top-p {facts['top_p']:g}"
    )
    n = " to ".join(str(count) for count in sorted({min(row["n"] for row in rows), max(row["n"] for row in rows)}))
    seen = "; latency as the router saw it" if any("latency_ms" in row for row in rows) else ""
    commands = dict.fromkeys(line(provenance) for provenance in run.provenance)
    return (
        f"{facts['task']} ({facts['data']}), n = {n} answers a system, {sampling}, seed {facts['seed']}, at most "
        f"{facts['max_new_tokens']} tokens; SLM {facts.get('slm', '?')}, LLM {facts.get('llm', '?')}; "
        f"{facts['concurrency']} at a time, {facts['order']}{seen}. Intervals are 95%: Wilson "
        "(of k samples: bootstrap over problems), paired bootstrap for differences and ratios. " + " ".join(commands)
    )


def beside_document(image: Path, where: str) -> str:
    """The path of a picture as the document of `FILE.md:SECTION` names it."""
    return Path(os.path.relpath(image, Path(where.rpartition(":")[0]).parent)).as_posix()


def write(where: str, content: str) -> None:
    """Replaces a section of a document. Raises: RstitchError (INVALID_ARGUMENT)."""
    document, _, section = where.rpartition(":")
    try:
        replace_section(Path(document), section, content)
    except (OSError, ValueError) as error:
        raise invalid("--write", f"{error}.", "Write FILE.md:SECTION, and put its two marks into the file.") from None
