"""docs/results/performance.md: one marked section per benchmark; one that is not there yet is added at the end."""

from __future__ import annotations

from evals.figures.provenance import ROOT
from evals.figures.report import replace_section

PAGE = ROOT / "docs" / "results" / "performance.md"


def write(section: str, text: str) -> None:
    """Puts `text` between the section's markers."""
    begin = f"<!-- {section}:begin -->"
    content = PAGE.read_text() if PAGE.exists() else "# Performance\n"
    if begin not in content:
        PAGE.write_text(f"{content}\n{begin}\n<!-- {section}:end -->\n")
    replace_section(PAGE, section, text)
