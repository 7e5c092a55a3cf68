"""Tables for the terminal and for documents. It knows nothing of what was measured."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

Row = dict[str, Any]
# Headings and what fills them: a template such as "{accuracy:.1%}" over the fields of a row, or a function. A cell is
# empty where a field is missing or None. The first column is the name of a row.
Columns = Mapping[str, str | Callable[[Row], str]]


class _Cells(string.Formatter):
    """Formats as `str.format` does, and `.1p` as a percentage without its sign, `sig` with three digits that matter."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec.endswith("p"):
            return format(100 * value, f"{format_spec[:-1]}f")
        if format_spec == "sig":
            return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
        return format(value, format_spec)


_CELLS = _Cells()


def interval(name: str, form: str) -> str:
    """A template of a figure with its interval: `name`, `name_low` and `name_high`, all in one format."""
    return f"{{{name}:{form}}} [{{{name}_low:{form}}}, {{{name}_high:{form}}}]"


def frame(columns: Columns, rows: Sequence[Row]) -> pd.DataFrame:
    """The cells of a table, as text."""
    cells = {name: [_cell(column, row) for row in rows] for name, column in columns.items()}
    return pd.DataFrame(cells, dtype=str)


def filled(columns: Columns, rows: Sequence[Row]) -> Columns:
    """Leaves out columns in which no row says anything but 0."""
    return {
        name: column for name, column in columns.items() if any(_cell(column, row) not in ("", "0") for row in rows)
    }


def markdown_table(columns: Columns, rows: Sequence[Row]) -> str:
    """The table for a document: heading, alignment and one line per row."""
    align = ["left", *["right"] * (len(columns) - 1)]
    # disable_numparse: "1.00" is not to become "1"
    return str(frame(columns, rows).to_markdown(index=False, disable_numparse=True, colalign=align))


def terminal_table(title: str, columns: Columns, rows: Sequence[Row]) -> Table:
    """The same table for the terminal."""
    table = Table(title=title, title_justify="left", padding=(0, 1, 0, 0), box=None)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for cells in frame(columns, rows).itertuples(index=False, name=None):
        table.add_row(*cells)
    return table


def replace_section(document: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- name:begin -->` and `<!-- name:end -->`; ValueError if they are not there."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = document.read_text()
    head, found, rest = content.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"{document}: no section {begin} ... {end}")
    document.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def _cell(column: str | Callable[[Row], str], row: Row) -> str:
    if not isinstance(column, str):
        return column(row)
    try:
        return _CELLS.vformat(column, (), row)
    except (KeyError, TypeError):
        return ""
