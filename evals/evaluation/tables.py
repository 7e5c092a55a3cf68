"""The tables of a report, for the terminal and for documents."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from evals.figures.report import Columns, Row, filled, interval, markdown_table, terminal_table

ACCURACY: Columns = {
    "system": "{system}",
    "accuracy": "{accuracy:.1%} [{accuracy_low:.1p}, {accuracy_high:.1p}]",
    "to LLM-only, points": interval("difference", "+.1p"),
    "only it / only LLM": "{only_this} / {only_baseline}",
    "McNemar p": "{mcnemar_p:.3f}",
    "same tokens": "{same_tokens:.1%}",
    "cut off": "{cut_off}",
    "errors": "{errors}",
}
COST: Columns = {
    "system": "{system}",
    "tokens": "{tokens:.1f}",
    "by SLM": "{slm_tokens:.1f}",
    "by LLM": "{llm_tokens:.1f}",
    "LLM share": "{llm_share:.1%}",
    "switches": "{switches:.1f}",
    "latency ms": "{latency_ms:.1f}",
    "p50": "{latency_p50_ms:.1f}",
    "TTFT p50": "{ttft_p50_ms:.1f}",
    "modelled": "{modelled_ms:.1f}",
    "faster": interval("speed_up", ".2f"),
    "= shorter": "{shorter:.2f}",
    "x cheaper": "{cheaper:.2f}",
    "modelled faster": "{modelled_speed_up:.2f}",
}
EXTRAS: Columns = {
    "system": "{system}",
    "drafts accepted": "{accepted_share:.1%}",
    "head asked": "{consultations:.1f}",
    "trials": "{trials:.2f}",
    "their tokens": "{trial_tokens:.1f}",
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
        table = terminal_table(title, cells, told)
        table.columns[0].no_wrap = False
        table.columns[0].overflow = "fold"
        tables.append(table)
    return tables


def markdown(rows: Sequence[Row]) -> str:
    """Writes the same tables for a document."""
    parts = [markdown_table(filled(columns, rows), list(rows)) for columns in (ACCURACY, COST)]
    extra = extras(rows)
    if extra:
        parts.append(markdown_table(filled(EXTRAS, extra), extra))
    return "\n\n".join(parts)


def extras(rows: Sequence[Row]) -> list[Row]:
    """Those that drafted, asked a head, tried an answer, left early or had a budget."""
    return [row for row in rows if any(row.get(name) for name in _EXTRA_FIELDS)]


def _title(what: str, rows: Sequence[Row]) -> str:
    samples = "" if rows[0]["n"] == rows[0]["problems"] else f" of {rows[0]['problems']} problems"
    return f"{what} (n = {rows[0]['n']}{samples})"
