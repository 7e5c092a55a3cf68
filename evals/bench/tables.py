"""The tables of `rstitch bench run`, for the terminal and for a document. They measure nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from evals.asking.record import PLACES
from evals.figures.provenance import line
from evals.figures.report import Columns, Row, interval, markdown_table, terminal_table

NOTES = (
    "Greedy; the same number of CPU threads per model in all systems. `generate` at more than one session is static "
    "batches of that size, padded on the left: its answers are there when the longest is. `assisted` knows no batches. "
    "`engine` is the LLM's engine alone, in the measuring process. Intervals are 95% (Wilson; paired bootstrap for "
    "differences and ratios). TTFT, TPOT (which leaves the first token out) and latency as the client saw them. "
    "Faster = shorter x cheaper, in mean latency over that of `{baseline}`. Of a token's time, a forward that several "
    "sessions share counts in full for each; *beside* is what runs while the answer goes on."
)


_SYSTEM = {"system": "{system}"}
_SPLIT = {"= shorter": "{shorter:.2f}", "x cheaper": "{cheaper:.2f}"}
_QUALITY: Columns = {
    **_SYSTEM,
    "accuracy %": interval("accuracy", ".1p"),
    "tokens": "{tokens:.1f}",
    "LLM %": "{llm_share:.1p}",
    "switches": "{switches:.1f}",
    "faster": "{speed_up:.2f}",
    **_SPLIT,
}
# A document has room for what a terminal of 80 columns has not.
_QUALITY_WIDE: Columns = {
    **_SYSTEM,
    "accuracy %": interval("accuracy", ".1p"),
    "points over": interval("difference", "+.1p"),
    "tokens": "{tokens:.1f}",
    "by SLM": "{slm_tokens:.1f}",
    "by LLM": "{llm_tokens:.1f}",
    "LLM %": "{llm_share:.1p}",
    "switches": "{switches:.1f}",
    "faster": interval("speed_up", ".2f"),
    **_SPLIT,
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
assert set(PLACES) < set(_HEADINGS), "every part has a column"
_PLACES: Columns = {**_SYSTEM, **{heading: f"{{{name}:.3f}}" for name, heading in _HEADINGS.items()}}
_VARIANT: Columns = {
    **_SYSTEM,
    "latency x": interval("ratio", ".3f"),
    "median x": "{median_ratio:.3f}",
    "ms/token": "{per_token_ms:+.3f}",
    "req/s x": "{variation_requests_ratio:.3f}",
}


@dataclass(frozen=True, slots=True)
class _Part:
    title: str
    columns: Columns
    rows: list[Row]


def terminal(result: dict[str, Any]) -> list[Table]:
    """All tables, each at most 80 columns wide."""
    return [terminal_table(part.title, part.columns, part.rows) for part in _parts(result, _QUALITY)]


def document(result: dict[str, Any], image: Path) -> str:
    """The same tables, the plot and where they come from, in Markdown."""
    settings = result["settings"]
    told = ", ".join(f"{name} {value}" for name, value in settings.items())
    parts = [f"**{part.title}**\n\n{markdown_table(part.columns, part.rows)}" for part in _parts(result, _QUALITY_WIDE)]
    picture = f"![accuracy over latency, throughput over sessions]({image.as_posix()})"
    notes = f"{NOTES.format(baseline=result['baseline'])} Settings: {told}. {line(result['provenance'])}"
    return "\n\n".join([*parts, picture, notes])


def _parts(result: dict[str, Any], quality: Columns) -> Iterator[_Part]:
    over = f"over {result['baseline']}"
    plain = [row for row in result["rows"] if not row["variation"]]
    variants = [row | row["variation"] for row in result["rows"] if row["variation"]]
    for load, rows in _by_load(plain).items():
        yield _Part(f"{load}: answers, n = {rows[0]['n']} ({over})", quality, rows)
        yield _Part(f"{load}: times in ms, throughput (x: {over})", _SPEED, rows)
    for load, rows in _by_load(plain).items():
        told = [row | row["places_ms_per_token"] for row in rows if row["places_ms_per_token"]]
        if told:
            yield _Part(f"{load}: where the time of a token goes, in ms", _PLACES, told)
    columns, scaled = _scaling(plain)
    if scaled:
        yield _Part("tok/s by sessions (over one)", columns, scaled)
    for load, rows in _by_load(variants).items():
        yield _Part(f"{load}: variants over the same system without", _VARIANT, rows)


def _by_load(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["load"], []).append(row)
    return found


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
