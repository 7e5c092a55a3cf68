"""The figures of shared parameters as tables. It measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.figures.report import Columns, Row, markdown_table

MEMORY: Columns = {
    "": lambda row: row["name"],
    "weights, MB": lambda row: f"{row['weights'] / 1e6:.2f}",
    "a token of a session, bytes": lambda row: f"{row['per_token']:,}",
    "session of 1,000 tokens, MB": lambda row: f"{row['per_token'] / 1e3:.2f}",
}
STEPS: Columns = {
    "step": lambda row: row["name"],
    "two models, us": lambda row: f"{row['pair']:,.0f}",
    "shared, us": lambda row: f"{row['shared']:,.0f}",
    "shared / two": lambda row: f"{row['shared'] / row['pair']:.2f}",
    "all layers again, us": lambda row: f"{row['again']:,.0f}" if row["again"] else "",
}
ANSWERS: Columns = {
    "system": lambda row: row["system"],
    "accuracy": lambda row: f"{row['accuracy']:.1%} [{row['accuracy_low']:.1%}, {row['accuracy_high']:.1%}]",
    "tokens": lambda row: f"{row['tokens']:.1f}",
    "LLM share": lambda row: f"{row['llm_share']:.1%}",
    "switches": lambda row: f"{row['switches']:.1f}",
    "latency ms": lambda row: f"{row['latency_ms']:.1f}",
    "faster than LLM-only, pair": lambda row: f"{row['speed_up']:.2f}x",
    "latency, shared / pair": lambda row: _interval(row, "latency_ratio", "{:.2f}"),
    "a token, shared / pair": lambda row: f"{row['beside']['per_token_ratio']:.2f}" if "beside" in row else "",
    "accuracy, shared - pair, points": lambda row: _interval(row, "difference", "{:+.1f}", 100),
}


def memory_rows(memory: Mapping[str, Mapping[str, int]]) -> list[Row]:
    """The two models, both together, the one that is both."""
    sums = {key: memory["SLM"][key] + memory["LLM"][key] for key in ("weights", "per_token")}
    named = {"SLM": memory["SLM"], "LLM": memory["LLM"], "two models": sums, "shared": memory["shared"]}
    return [{"name": name} | dict(row) for name, row in named.items()]


def step_rows(step_us: Mapping[str, float]) -> list[Row]:
    """One row per kind of step."""
    kinds = dict.fromkeys(name.partition(",")[0] for name in step_us)
    return [
        {
            "name": kind,
            "pair": step_us[f"{kind}, pair"],
            "shared": step_us[f"{kind}, shared"],
            "again": step_us.get(f"{kind}, shared, all layers again"),
        }
        for kind in kinds
    ]


def markdown(found: Mapping[str, Any], caption: str) -> str:
    """For the document: three tables and where they come from."""
    parts = [
        caption,
        "Memory (float32):",
        markdown_table(MEMORY, memory_rows(found["memory"])),
        "Steps (float32, one thread, one session with 100 tokens before, median; *switch over n tokens*: the LLM's "
        "first step where the SLM has written n tokens):",
        markdown_table(STEPS, step_rows(found["step_us"])),
        "Answers (as a client sees them; greedy, float32):",
        markdown_table(ANSWERS, found["answers"]),
    ]
    return "\n\n".join(parts)


def _interval(row: Row, key: str, form: str, scale: float = 1.0) -> str:
    if "beside" not in row:
        return ""
    value, low, high = (form.format(scale * number) for number in row["beside"][key])
    return f"{value} [{low}, {high}]"
