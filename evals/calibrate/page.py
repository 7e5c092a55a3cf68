"""The table of docs/calibration.md. It measures nothing."""

from __future__ import annotations

import json
from typing import Any

from evals.figures.provenance import ROOT, line
from evals.figures.report import Columns, Row, markdown_table, replace_section

POOL = 240  # questions that repeats draw from
DOCUMENT = ROOT / "docs" / "calibration.md"
RESULTS = ROOT / "docs" / "results" / "calibration.json"

COLUMNS: Columns = {
    "goal": "{goal}",
    "landed": "{landed} of {repeats}",
    "95%": "[{landed_low:.0%}, {landed_high:.0%}]",
    "width stated": "{width}",
    "off by": "{error}",
    "values": lambda row: ", ".join(f"{value:g}" for value in row["values"]),
}


def write(rows: list[Row], facts: dict[str, Any]) -> None:
    """Replaces the table and the file of figures."""
    text = [
        markdown_table(COLUMNS, rows),
        "",
        f"Each repeat calibrates on {facts['calibrated on']} questions of {facts['questions']} and checks on "
        f"{facts['checked on']} others; the pool is the same for all, so they are not quite as many independent "
        f"trials as the interval takes them for. *Width stated* and *off by* (checked less calibrated) are medians. "
        f"{line(facts)}",
    ]
    replace_section(DOCUMENT, "calibration", "\n".join(text))
    RESULTS.write_text(json.dumps({"rows": rows, "facts": facts}, indent=1) + "\n")
