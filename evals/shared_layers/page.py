"""The figures of shared parameters as tables. It measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.figures.report import Columns, Row, interval, markdown_table

MEMORY: Columns = {
    "": "{name}",
    "weights, MB": "{weights_mb:.2f}",
    "a token of a session, bytes": "{per_token:,}",
    "session of 1,000 tokens, MB": "{session_mb:.2f}",
}
STEPS: Columns = {
    "step": "{name}",
    "two models, us": "{pair:,.0f}",
    "shared, us": "{shared:,.0f}",
    "shared / two": "{ratio:.2f}",
    "all layers again, us": "{again:,.0f}",
}
ANSWERS: Columns = {
    "system": "{system}",
    "accuracy": interval("accuracy", ".1%"),
    "tokens": "{tokens:.1f}",
    "LLM share": "{llm_share:.1%}",
    "switches": "{switches:.1f}",
    "latency ms": "{latency_ms:.1f}",
    "faster than LLM-only, pair": "{speed_up:.2f}x",
    "latency, shared / pair": "{latency_ratio[0]:.2f} [{latency_ratio[1]:.2f}, {latency_ratio[2]:.2f}]",
    "a token, shared / pair": "{per_token_ratio:.2f}",
    "accuracy, shared - pair, points": "{difference[0]:+.1p} [{difference[1]:+.1p}, {difference[2]:+.1p}]",
}


def memory_rows(memory: Mapping[str, Mapping[str, int]]) -> list[Row]:
    """The two models, both together, the one that is both."""
    sums = {key: memory["SLM"][key] + memory["LLM"][key] for key in ("weights", "per_token")}
    named = {"SLM": memory["SLM"], "LLM": memory["LLM"], "two models": sums, "shared": memory["shared"]}
    return [
        {"name": name, **row, "weights_mb": row["weights"] / 1e6, "session_mb": row["per_token"] / 1e3}
        for name, row in named.items()
    ]


def step_rows(step_us: Mapping[str, float]) -> list[Row]:
    """Makes a row of each kind of step."""
    kinds = dict.fromkeys(name.partition(",")[0] for name in step_us)
    return [
        {
            "name": kind,
            "pair": step_us[f"{kind}, pair"],
            "shared": step_us[f"{kind}, shared"],
            "ratio": step_us[f"{kind}, shared"] / step_us[f"{kind}, pair"],
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
