"""The figures of `make gpu` as one page of Markdown: what ran, what was found, and how far it is from what we want."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evals.bench import engine_tables, replay
from evals.figures.provenance import line
from evals.figures.report import Columns, markdown_table

_PARTS: Columns = {"part": "{name}", "": "{about}", "seconds": "{seconds:.0f}", "ended": "{ended}"}
_GOALS: Columns = {
    "goal": "{about}",
    "wanted": "{wanted}",
    "found": "{found:.3g}",
    "": lambda row: "met" if row["met"] else "**missed**",
}
# At batch 1 a step should take little more than reading the weights; the small model's kernels are too short for that.
_FLOOR_SHARE = {"qwen2.5-1.5b": 0.60, "qwen2.5-7b": 0.85, "qwen2.5-14b": 0.85}
# Threshold over llm_only, tokens a second, with 15% LLM tokens: at 1 and at 16 sessions.
_FASTER = {"qwen2.5-7b": (1.8, 1.2), "qwen2.5-14b": (2.7, 1.8), "qwen2.5-32b": (3.6, 2.5)}
_TOKEN_MS, _SWITCH_MS, _SCALING = 0.1, 0.7, 10.0


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and the bound that it should keep to."""

    about: str
    bound: float
    found: float
    at_least: bool = True

    def row(self) -> dict[str, Any]:
        met = self.found >= self.bound if self.at_least else self.found <= self.bound
        wanted = f"{'at least' if self.at_least else 'at most'} {self.bound:g}"
        return {"about": self.about, "wanted": wanted, "found": self.found, "met": met}


def page(found: dict[str, Any]) -> str:
    """Writes the page; parts that left no figures are told by how they ended."""
    facts = found["provenance"]
    lines = [
        f"# {facts['name'] or 'No GPU: a dry run on the CPU'}",
        f"{facts['versions']}{', ' + facts['memory'] if facts['memory'] else ''}. {line(facts)}",
        markdown_table(_PARTS, [part | {"ended": _ended(part)} for part in found["parts"]]),
    ]
    if wanted := [goal.row() for goal in goals(found)]:
        lines += ["## Beside what we want", markdown_table(_GOALS, wanted)]
    if kernels := found.get("kernels"):
        lines += ["## Kernels", *kernels["text"]]
    if anatomy := found.get("anatomy"):
        lines += ["## A decode step", *anatomy["text"]]
    if engine := found.get("engine"):
        lines += ["## Steps", *(engine_tables.document(model) for model in engine["models"])]
    if answers := found.get("replay"):
        lines.append("## Whole answers")
        for pair in answers["pairs"]:
            lines += [f"### {pair['name']}", markdown_table(replay.WIDE, pair["rows"]), *pair["notes"]]
    for part in found["parts"]:
        if part["code"] != 0:
            lines += [f"## What {part['name']} said last", "\n".join(["```", *part["tail"], "```"])]
    return "\n\n".join(lines) + "\n"


def goals(found: dict[str, Any]) -> Iterator[Goal]:
    """Yields those of our goals that these figures can be held against; a CPU's are held against none."""
    for model in found.get("engine", {}).get("models", ()):
        bound = _FLOOR_SHARE.get(model["model"])
        alone = [row for row in model["rows"] if row["batch"] == 1 and "floor_share" in row]
        if bound and alone:
            best = max(row["floor_share"] for row in alone)
            yield Goal(f"decode of one session, {model['model']}: share of the bandwidth's floor", bound, best)
    for pair in found.get("replay", {}).get("pairs", ()) if found["provenance"]["name"] else ():
        yield from _goals_of(pair)


def _goals_of(pair: dict[str, Any]) -> Iterator[Goal]:
    rows = {(row["system"], row["sessions"]): row for row in pair["rows"]}
    if outside := pair["outside"]:
        for role in ("slm", "llm"):
            about = f"{pair['name']}: ms a token of the {role.upper()} outside the forwards"
            yield Goal(about, _TOKEN_MS, outside[f"{role}_token_ms"], at_least=False)
        yield Goal(f"{pair['name']}: ms a switch", _SWITCH_MS, outside["switch_ms"], at_least=False)
    for llm, bounds in _FASTER.items():
        for sessions, bound in zip((1, 16), bounds, strict=True):
            if pair["name"].endswith(llm) and (row := rows.get(("replay", sessions))):
                which = "faster" if sessions == 1 else "more"
                yield Goal(f"{pair['name']}: threshold over llm_only, {sessions} at once", bound, row[which]["value"])
    for system in ("llm_only", "replay"):
        if row := rows.get((system, 16)):
            yield Goal(f"{pair['name']}: {system}, tokens a second at 16 over 1", _SCALING, row["scaling"])


def _ended(part: dict[str, Any]) -> str:
    if part["code"] is None:
        return "stopped at its limit"
    return "passed" if part["code"] == 0 else f"failed (exit code {part['code']})"
