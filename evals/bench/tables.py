"""The tables of `rstitch bench run`, for the terminal and for a document. They measure nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from evals.asking.record import PLACES
from evals.figures.provenance import line
from evals.figures.report import Columns, Row, markdown_table, terminal_table

NOTES = (
    "Greedy; the same number of CPU threads per model in all systems. `generate` at more than one session is static "
    "batches of that size, padded on the left: its answers are there when the longest is. `assisted` knows no batches. "
    "`engine` is the LLM's engine alone, in the measuring process. Intervals are 95% (Wilson; paired bootstrap for "
    "differences and ratios). TTFT, TPOT (which leaves the first token out) and latency as the client saw them. "
    "Faster = shorter x cheaper, in mean latency over that of `{baseline}`. Of a token's time, a forward that several "
    "sessions share counts in full for each; *beside* is what runs while the answer goes on."
)


def _fixed(name: str, digits: int, scale: float = 1) -> Callable[[Row], str]:
    return lambda row: f"{scale * row[name]:.{digits}f}"


def _three_digits(name: str) -> Callable[[Row], str]:
    return lambda row: _significant(row[name])


def _interval(name: str, digits: int, scale: float = 1, sign: str = "") -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value, low, high = (f"{scale * row[key]:{sign}.{digits}f}" for key in (name, f"{name}_low", f"{name}_high"))
        return f"{value} [{low}, {high}]"

    return text


_SYSTEM: Columns = {"system": lambda row: row["system"]}
_QUALITY: Columns = _SYSTEM | {
    "accuracy %": _interval("accuracy", 1, 100),
    "tokens": _fixed("tokens", 1),
    "LLM %": _fixed("llm_share", 1, 100),
    "switches": _fixed("switches", 1),
    "faster": _fixed("speed_up", 2),
    "= shorter": _fixed("shorter", 2),
    "x cheaper": _fixed("cheaper", 2),
}
# A document has room for what a terminal of 80 columns has not.
_QUALITY_WIDE: Columns = _SYSTEM | {
    "accuracy %": _interval("accuracy", 1, 100),
    "points over": _interval("difference", 1, 100, sign="+"),
    "tokens": _fixed("tokens", 1),
    "by SLM": _fixed("slm_tokens", 1),
    "by LLM": _fixed("llm_tokens", 1),
    "LLM %": _fixed("llm_share", 1, 100),
    "switches": _fixed("switches", 1),
    "faster": _interval("speed_up", 2),
    "= shorter": _fixed("shorter", 2),
    "x cheaper": _fixed("cheaper", 2),
}
_SPEED: Columns = _SYSTEM | {
    "TTFT": _three_digits("ttft_p50_ms"),
    "TPOT": _three_digits("tpot_p50_ms"),
    "p50": _three_digits("latency_p50_ms"),
    "p90": _three_digits("latency_p90_ms"),
    "p99": _three_digits("latency_p99_ms"),
    "p50 x": _fixed("speed_up_p50", 2),
    "tok/s": _three_digits("output_tokens_per_s"),
    "tok/s x": _fixed("tokens_ratio", 2),
    "req/s": _three_digits("requests_per_s"),
    "req/s x": _fixed("requests_ratio", 2),
}
_PART_HEADINGS = {
    "slm_forward": "SLM", "llm_forward": "LLM", "scheduling": "engine", "waiting": "waits", "transport": "wire",
    "store": "Redis", "routing": "router", "client": "client", "total": "total", "background": "beside",
}  # fmt: skip
assert set(PLACES) < set(_PART_HEADINGS), "every part has a column"
_PARTS: Columns = _SYSTEM | {heading: _fixed(name, 3) for name, heading in _PART_HEADINGS.items()}
_VARIANT: Columns = _SYSTEM | {
    "latency x": _interval("ratio", 3),
    "median x": _fixed("median_ratio", 3),
    "ms/token": lambda row: f"{row['per_token_ms']:+.3f}",
    "req/s x": _fixed("variation_requests_ratio", 3),
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
            yield _Part(f"{load}: where the time of a token goes, in ms", _PARTS, told)
    scaled, counts = _scaling(plain)
    if scaled:
        columns = _SYSTEM | {count: _scaling_cell(count) for count in counts}
        yield _Part("tok/s by sessions (over one)", columns, scaled)
    for load, rows in _by_load(variants).items():
        yield _Part(f"{load}: variants over the same system without", _VARIANT, rows)


def _by_load(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["load"], []).append(row)
    return found


def _scaling(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Tokens a second by sessions, for systems measured with one and with more; and the counts of sessions."""
    counts = sorted({row["num_sessions"] for row in rows if not row["rate"]})
    found: dict[str, Row] = {}
    for row in rows:
        if not row["rate"]:
            scaled = found.setdefault(row["system"], {"system": row["system"]})
            scaled[str(row["num_sessions"])] = row["output_tokens_per_s"]
    return [row for row in found.values() if "1" in row and len(row) > 2], [str(count) for count in counts]


def _scaling_cell(count: str) -> Callable[[Row], str]:
    return lambda row: f"{_significant(row[count])} ({row[count] / row['1']:.2f}x)" if count in row else ""


def _significant(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
