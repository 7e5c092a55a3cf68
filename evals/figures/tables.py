"""The tables of `rstitch eval` and `rstitch bench run`, for the terminal and for documents. They measure nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.table import Table

from evals.figures.provenance import line
from evals.figures.report import Columns, Row, filled, interval, markdown_table, terminal_table

NOTES = (
    "Greedy; the same number of CPU threads per model in all systems. `generate` at more than one session is static "
    "batches of that size, padded on the left: its answers are there when the longest is. `assisted` knows no batches. "
    "`engine` is the LLM's engine alone, in the measuring process. Intervals are 95% (Wilson; paired bootstrap for "
    "differences and ratios). TTFT, TPOT (which leaves the first token out) and latency as the client saw them. "
    "Faster = shorter x cheaper, in mean latency over that of `{baseline}`. Of a token's time, a forward that several "
    "sessions share counts in full for each; *beside* is what runs while the answer goes on."
)

_SYSTEM = {"system": "{system}"}
_ACCURACY: Columns = {
    **_SYSTEM,
    "accuracy": "{accuracy:.1%} [{accuracy_low:.1p}, {accuracy_high:.1p}]",
    "to LLM-only, points": interval("difference", "+.1p"),
    "only it / only LLM": "{only_this} / {only_baseline}",
    "McNemar p": "{mcnemar_p:.3f}",
    "same tokens": "{same_tokens:.1%}",
    "cut off": "{cut_off}",
    "errors": "{errors}",
}
_TOKENS: Columns = {
    "tokens": "{tokens:.1f}",
    "by SLM": "{slm_tokens:.1f}",
    "by LLM": "{llm_tokens:.1f}",
    "LLM share": "{llm_share:.1%}",
    "switches": "{switches:.1f}",
}
_FASTER: Columns = {"faster": interval("speed_up", ".2f"), "= shorter": "{shorter:.2f}", "x cheaper": "{cheaper:.2f}"}
_COST: Columns = {
    **_SYSTEM,
    **_TOKENS,
    "latency ms": "{latency_ms:.1f}",
    "p50": "{latency_p50_ms:.1f}",
    "TTFT p50": "{ttft_p50_ms:.1f}",
    "modelled": "{modelled_ms:.1f}",
    **_FASTER,
    "modelled faster": "{modelled_speed_up:.2f}",
}
_EXTRAS: Columns = {
    **_SYSTEM,
    "drafts accepted": "{accepted_share:.1%}",
    "head asked": "{consultations:.1f}",
    "trials": "{trials:.2f}",
    "their tokens": "{trial_tokens:.1f}",
    "exited early": lambda row: f"{row['exited_early'] / row['n']:.1%}",
    "budget spent": lambda row: f"{row['budget_spent'] / row['n']:.1%}",
}
_EXTRA_FIELDS = ("accepted_share", "consultations", "trials", "exited_early", "budget_spent")
# Left out on a terminal of fewer columns.
_WIDE = ("only it / only LLM", "same tokens", "by SLM", "by LLM", "p50", "TTFT p50", "= shorter", "x cheaper")
_WIDE_FROM = 130

_QUALITY_WIDE: Columns = {
    **_SYSTEM,
    "accuracy %": interval("accuracy", ".1p"),
    "points over": interval("difference", "+.1p"),
    **_TOKENS,
    **_FASTER,
}
# What a terminal of 80 columns has room for.
_QUALITY: Columns = {
    **_SYSTEM,
    "accuracy %": interval("accuracy", ".1p"),
    "tokens": "{tokens:.1f}",
    "LLM %": "{llm_share:.1p}",
    "switches": "{switches:.1f}",
    **_FASTER,
    "faster": "{speed_up:.2f}",
}
_SPEED: Columns = {
    **_SYSTEM,
    "TTFT": "{ttft_p50_ms:sig}",
    "TPOT": "{tpot_p50_ms:sig}",
    "p50": "{latency_p50_ms:sig}",
    "p90": "{latency_p90_ms:sig}",
    "p99": "{latency_p99_ms:sig}",
    "p50 x": "{speed_up_p50:.2f}",
    "tok/s": "{output_tokens_per_s:sig}",
    "tok/s x": "{tokens_ratio:.2f}",
    "req/s": "{requests_per_s:sig}",
    "req/s x": "{requests_ratio:.2f}",
}
_HEADINGS = {
    "slm_forward": "SLM", "llm_forward": "LLM", "scheduling": "engine", "waiting": "waits", "transport": "wire",
    "store": "Redis", "routing": "router", "client": "client", "total": "total", "background": "beside",
}  # fmt: skip
_PLACES: Columns = {**_SYSTEM, **{heading: f"{{{name}:.3f}}" for name, heading in _HEADINGS.items()}}
_VARIANT: Columns = {
    **_SYSTEM,
    "latency x": interval("ratio", ".3f"),
    "median x": "{median_ratio:.3f}",
    "ms/token": "{per_token_ms:+.3f}",
    "req/s x": "{variation_requests_ratio:.3f}",
}


class _Part(NamedTuple):
    title: str
    columns: Columns
    rows: Sequence[Row]


def terminal(rows: Sequence[Row], width: int) -> list[Table]:
    """The tables of an evaluation; a narrow terminal gets fewer columns."""
    left_out = _WIDE if width < _WIDE_FROM else ()
    tables = []
    for title, columns, told in _evaluated(rows):
        if len(columns) == 1:  # not one answer was given
            continue
        cells = {name: cell for name, cell in columns.items() if name not in left_out}
        table = terminal_table(title, cells, told)
        table.columns[0].no_wrap = False
        table.columns[0].overflow = "fold"
        tables.append(table)
    return tables


def markdown(rows: Sequence[Row]) -> str:
    """The same tables for a document."""
    return "\n\n".join(markdown_table(columns, told) for _, columns, told in _evaluated(rows))


def _evaluated(rows: Sequence[Row]) -> Iterator[_Part]:
    """Accuracy, cost, and more of those that drafted, asked a head, tried an answer, left early or had a budget."""
    samples = "" if rows[0]["n"] == rows[0]["problems"] else f" of {rows[0]['problems']} problems"
    for title, columns in (("accuracy", _ACCURACY), ("cost, means per answer", _COST)):
        yield _Part(f"{title} (n = {rows[0]['n']}{samples})", filled(columns, rows), rows)
    if extra := [row for row in rows if any(row.get(name) for name in _EXTRA_FIELDS)]:
        yield _Part("drafts, heads, exits, budgets", filled(_EXTRAS, extra), extra)


def matrix_terminal(result: dict[str, Any]) -> list[Table]:
    """The tables of the matrix, each at most 80 columns wide."""
    return [terminal_table(*part) for part in _matrix(result, _QUALITY)]


def matrix_document(result: dict[str, Any], image: Path) -> str:
    """The same tables, the plot and where they come from, in Markdown."""
    told = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    parts = [
        f"**{title}**\n\n{markdown_table(columns, rows)}" for title, columns, rows in _matrix(result, _QUALITY_WIDE)
    ]
    picture = f"![accuracy over latency, throughput over sessions]({image.as_posix()})"
    notes = f"{NOTES.format(baseline=result['baseline'])} Settings: {told}. {line(result['provenance'])}"
    return "\n\n".join([*parts, picture, notes])


def _matrix(result: dict[str, Any], quality: Columns) -> Iterator[_Part]:
    over = f"over {result['baseline']}"
    plain = [row for row in result["rows"] if not row["variation"]]
    variants = [row | row["variation"] for row in result["rows"] if row["variation"]]
    placed = [row | row["places_ms_per_token"] for row in plain if row["places_ms_per_token"]]
    for load, rows in _by_load(plain):
        yield _Part(f"{load}: answers, n = {rows[0]['n']} ({over})", quality, rows)
        yield _Part(f"{load}: times in ms, throughput (x: {over})", _SPEED, rows)
    for load, rows in _by_load(placed):
        yield _Part(f"{load}: where the time of a token goes, in ms", _PLACES, rows)
    columns, scaled = _scaling(plain)
    if scaled:
        yield _Part("tok/s by sessions (over one)", columns, scaled)
    for load, rows in _by_load(variants):
        yield _Part(f"{load}: variants over the same system without", _VARIANT, rows)


def _by_load(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each load, which follow one another."""
    return ((load, list(those)) for load, those in groupby(rows, lambda row: str(row["load"])))


def _scaling(rows: list[Row]) -> tuple[Columns, list[Row]]:
    """Tokens a second by sessions, for systems measured with one and with more, and over their own with one."""
    table = pd.DataFrame(row for row in rows if not row["rate"])
    if table.empty:
        return {}, []
    table = table.pivot_table("output_tokens_per_s", "system", "num_sessions", sort=False).sort_index(axis=1)
    if 1 not in table or len(table.columns) < 2:
        return {}, []
    over_one = table.div(table[1], axis=0).rename(columns=lambda count: f"x{count}")
    scaled = table.rename(columns=lambda count: f"n{count}").join(over_one).loc[table.count(axis=1) > 1].reset_index()
    columns = _SYSTEM | {str(count): f"{{n{count}:sig}} ({{x{count}:.2f}}x)" for count in table.columns}
    return columns, [{str(name): value for name, value in row.dropna().items()} for _, row in scaled.iterrows()]
