"""The tables of a report, for the terminal and for documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from evals.figures import report
from evals.figures.report import Columns, Row


def _share(row: Row, name: str) -> str:
    return f"{row[name]:.1%} [{100 * row[f'{name}_low']:.1f}, {100 * row[f'{name}_high']:.1f}]"


def _points(row: Row) -> str:
    if "difference" not in row:
        return ""
    return f"{100 * row['difference']:+.1f} [{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]"


def _ratio(row: Row) -> str:
    if "speed_up" not in row:
        return ""
    return f"{row['speed_up']:.2f} [{row['speed_up_low']:.2f}, {row['speed_up_high']:.2f}]"


def _number(row: Row, name: str, form: str) -> str:
    value: Any = row.get(name)
    return "" if value is None else format(value, form)


ACCURACY: Columns = {
    "system": lambda row: row["system"],
    "accuracy": lambda row: _share(row, "accuracy"),
    "to LLM-only, points": _points,
    "only it / only LLM": lambda row: f"{row['only_this']} / {row['only_baseline']}" if "only_this" in row else "",
    "McNemar p": lambda row: _number(row, "mcnemar_p", ".3f"),
    "same tokens": lambda row: _number(row, "same_tokens", ".1%"),
    "cut off": lambda row: _number(row, "cut_off", "d"),
    "errors": lambda row: _number(row, "errors", "d"),
}
COST: Columns = {
    "system": lambda row: row["system"],
    "tokens": lambda row: _number(row, "tokens", ".1f"),
    "by SLM": lambda row: _number(row, "slm_tokens", ".1f"),
    "by LLM": lambda row: _number(row, "llm_tokens", ".1f"),
    "LLM share": lambda row: _number(row, "llm_share", ".1%"),
    "switches": lambda row: _number(row, "switches", ".1f"),
    "latency ms": lambda row: _number(row, "latency_ms", ".1f"),
    "p50": lambda row: _number(row, "latency_p50_ms", ".1f"),
    "TTFT p50": lambda row: _number(row, "ttft_p50_ms", ".1f"),
    "modelled": lambda row: _number(row, "modelled_ms", ".1f"),
    "faster": _ratio,
    "= shorter": lambda row: _number(row, "shorter", ".2f"),
    "x cheaper": lambda row: _number(row, "cheaper", ".2f"),
    "modelled faster": lambda row: _number(row, "modelled_speed_up", ".2f"),
}
EXTRAS: Columns = {
    "system": lambda row: row["system"],
    "drafts accepted": lambda row: _number(row, "accepted_share", ".1%"),
    "head asked": lambda row: _number(row, "consultations", ".1f"),
    "trials": lambda row: _number(row, "trials", ".2f"),
    "their tokens": lambda row: _number(row, "trial_tokens", ".1f"),
    "exited early": lambda row: f"{row['exited_early'] / row['n']:.1%}",
    "budget spent": lambda row: f"{row['budget_spent'] / row['n']:.1%}",
}
# Left out on a terminal of fewer columns.
_WIDE = ("only it / only LLM", "same tokens", "by SLM", "by LLM", "p50", "TTFT p50", "= shorter", "x cheaper")
_WIDE_FROM = 130
_EXTRA_FIELDS = ("accepted_share", "consultations", "trials", "exited_early", "budget_spent")


def terminal(rows: Sequence[Row], width: int) -> list[Table]:
    """Accuracy, cost, and, of systems that have more to say, that; a narrow terminal gets fewer columns."""
    shown = [
        (_title("accuracy", rows), ACCURACY, list(rows)),
        (_title("cost, means per answer", rows), COST, list(rows)),
    ]
    if extra := extras(rows):
        shown.append(("drafts, heads, exits, budgets", EXTRAS, extra))
    left_out = _WIDE if width < _WIDE_FROM else ()
    tables = []
    for title, columns, told in shown:
        if len(filled(columns, told)) == 1:  # not one answer was given
            continue
        cells = {name: cell for name, cell in filled(columns, told).items() if name not in left_out}
        table = report.terminal_table(title, cells, told)
        table.columns[0].no_wrap = False
        table.columns[0].overflow = "fold"
        tables.append(table)
    return tables


def markdown(rows: Sequence[Row]) -> str:
    """The same for a document."""
    parts = [report.markdown_table(filled(columns, rows), list(rows)) for columns in (ACCURACY, COST)]
    extra = extras(rows)
    if extra:
        parts.append(report.markdown_table(filled(EXTRAS, extra), extra))
    return "\n\n".join(parts)


def extras(rows: Sequence[Row]) -> list[Row]:
    """Those that drafted, asked a head, tried an answer, left early or had a budget."""
    return [row for row in rows if any(row.get(name) for name in _EXTRA_FIELDS)]


def filled(columns: Columns, rows: Sequence[Row]) -> Columns:
    """Without columns in which no row says anything."""
    return {name: cell for name, cell in columns.items() if any(cell(row) not in ("", "0") for row in rows)}


def _title(what: str, rows: Sequence[Row]) -> str:
    samples = "" if rows[0]["n"] == rows[0]["problems"] else f" of {rows[0]['problems']} problems"
    return f"{what} (n = {rows[0]['n']}{samples})"
