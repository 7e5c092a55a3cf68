"""Tables for the terminal and for documents. It knows nothing of what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

Row = dict[str, Any]
# Heading and how a row fills it. The first column is the name of a row.
Columns = dict[str, Callable[[Row], str]]


def markdown_table(columns: Columns, rows: list[Row]) -> str:
    """Heading, alignment and one line per row."""
    lines = ["| " + " | ".join(columns) + " |", "|-|" + "-:|" * (len(columns) - 1)]
    lines += ["| " + " | ".join(cell(row) for cell in columns.values()) + " |" for row in rows]
    return "\n".join(lines)


def terminal_table(title: str, columns: Columns, rows: list[Row]) -> Table:
    """The same for the terminal."""
    table = Table(title=title, title_justify="left", padding=(0, 1, 0, 0), box=None)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
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
