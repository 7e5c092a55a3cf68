"""The table of docs/pairs.md, what fits where: made of the configs that the command knows; a test holds it to those."""

from __future__ import annotations

from pathlib import Path

from evals.figures.provenance import ROOT
from evals.figures.report import Columns, Row, markdown_table, replace_section
from evals.fits.placing import Placed, placed
from evals.fits.presets import PAIRS
from evals.fits.sizing import sized

PAGE = ROOT / "docs" / "pairs.md"
SECTION = "fits"
_CARDS = {"1 x 24 GB": (24.0,), "2 x 24 GB": (24.0, 24.0), "1 x 80 GB": (80.0,), "2 x 80 GB": (80.0, 80.0)}


def table() -> str:
    """Makes the table: for each pair and cards the first precision of the LLM that has room for a session."""
    columns: Columns = {"SLM": "{slm}", "LLM": "{llm}", **{name: f"{{{name}}}" for name in _CARDS}}
    return markdown_table(columns, [_row(slm, llm) for slm, llm in PAIRS])


def write(page: Path = PAGE) -> None:
    """Writes the table into the page."""
    replace_section(page, SECTION, table())


def _row(slm: str, llm: str) -> Row:
    small, large = sized(slm), sized(llm)
    cells = {name: _cell(list(placed(small, large, gpus))) for name, gpus in _CARDS.items()}
    return {"slm": slm.rpartition("/")[2], "llm": llm.rpartition("/")[2], **cells}


def _cell(ways: list[Placed]) -> str:
    way = next((each for each in ways if each.sessions), None)
    return f"{way.precision}: {way.sessions:,}" if way is not None else "no"
