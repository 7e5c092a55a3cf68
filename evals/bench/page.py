"""docs/results/performance.md: one marked section per benchmark; one that is not there yet is added at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from evals.asking.values import JsonFile
from evals.figures.provenance import ROOT, line, provenance
from evals.figures.report import replace_section

PAGE = ROOT / "docs" / "results" / "performance.md"


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Says where a benchmark's figures go besides the terminal."""

    json: JsonFile = None
    write: Annotated[bool, typer.Option("--write", help="The tables go into docs/results/performance.md, too.")] = False


def finish(options: PageOptions, section: str, found: dict[str, Any], text: str, console: Console) -> None:
    """Says where the figures come from, and puts them where they were wanted."""
    facts = provenance()
    console.print(line(facts), style="dim")
    if options.json is not None:
        options.json.write_text(json.dumps({"provenance": facts} | found, indent=1) + "\n")
    if options.write:
        write(section, f"{text} {line(facts)}")


def write(section: str, text: str) -> None:
    """Puts `text` between the section's markers."""
    begin = f"<!-- {section}:begin -->"
    content = PAGE.read_text() if PAGE.exists() else "# Performance\n"
    if begin not in content:
        PAGE.write_text(f"{content}\n{begin}\n<!-- {section}:end -->\n")
    replace_section(PAGE, section, text)
