"""docs/results/performance.md: one marked section per benchmark; one that is not there yet is added at the end."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from evals.figures.provenance import ROOT, line, provenance
from evals.figures.report import replace_section

PAGE = ROOT / "docs" / "results" / "performance.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where the figures go."""
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--write", action="store_true", help="also write the tables into docs/results/performance.md")


def finish(options: argparse.Namespace, section: str, found: dict[str, Any], text: str, console: Console) -> None:
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
