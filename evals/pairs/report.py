"""Tables, the plot and the document of a pair selection. It measures nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.figures.plotting import panels, save
from evals.figures.provenance import ROOT, line
from evals.figures.report import Columns, Row, markdown_table, replace_section
from evals.pairs.check import Measured
from evals.pairs.predict import Candidate

DOCUMENT = ROOT / "docs" / "pairs.md"
RESULTS = ROOT / "docs" / "results"
_COLOURS = ("#7a3fb0", "#c0392b", "#2471a3", "#1e8449", "#b9770e", "#566573")


def short_name(name: str) -> str:
    """A folder's last part, or a hub id."""
    return Path(name).name or name


# A row has `one`, the candidate; `at`, what it should do at its tau; and perhaps `seen`, what was measured there.
PREDICTED: Columns = {
    "SLM": "{name}",
    "params": "{millions:.2f}M",
    "alone": "{one.slm_accuracy:.1%}",
    "follows": "{one.slm_follows:.1%}",
    "followed": "{one.llm_follows:.1%}",
    "tau": "{tau}",
    "accuracy": "{at.accuracy:.1%} [{at.accuracy_low:.0p}, {at.accuracy_high:.0p}]",
    "LLM": "{at.llm_share:.1%}",
    "switches": "{at.switches:.1f}",
    "tokens": "{at.tokens:.1f}",
    "faster": "{at.speed_up:.2f}x [{one.speed_up_low:.2f}, {one.speed_up_high:.2f}]",
}
COMPARED: Columns = {
    "SLM": "{name}",
    "tau": "{tau}",
    "accuracy": "{at.accuracy:.1%} / {seen.accuracy:.1%} [{seen.accuracy_low:.0p}, {seen.accuracy_high:.0p}]",
    "LLM-only": "{one.llm_accuracy:.1%} / {seen.llm_accuracy:.1%}",
    "LLM share": "{at.llm_share:.1%} / {seen.llm_share:.1%}",
    "switches": "{at.switches:.1f} / {seen.switches:.1f}",
    "tokens": "{at.tokens:.1f} / {seen.tokens:.1f}",
    "faster": "{at.speed_up:.2f}x / {seen.speed_up:.2f}x [{seen.speed_up_low:.2f}, {seen.speed_up_high:.2f}]",
}
COMPARED_TITLE = "Predicted / measured on the real stack"


def rows(ranked: Sequence[Candidate], measured: Mapping[str, Measured]) -> list[Row]:
    """Makes the rows of both tables, the best candidate first."""
    return [
        {
            "one": one,
            "at": one.proposed,
            "seen": measured.get(one.name),
            "name": short_name(one.name),
            "millions": one.num_parameters / 1e6,
            "tau": "none" if one.tau is None else f"{one.tau:g}",
        }
        for one in ranked
    ]


def predicted_title(ranked: Sequence[Candidate]) -> str:
    """How much it is predicted from, and what the LLM does alone."""
    one = ranked[0]
    return f"Predicted from {one.n} questions; the LLM alone: {one.llm_accuracy:.1%}, {one.llm_tokens:.0f} tokens"


def correlation_lines(correlations: Mapping[str, Mapping[str, float]], num_candidates: int) -> list[str]:
    """Says each correlation in words."""
    return [
        f"Rank correlation of {figure.replace('_', ' ')}, {num_candidates} candidates: "
        f"Kendall {found['kendall']:+.2f}, Spearman {found['spearman']:+.2f}"
        for figure, found in correlations.items()
    ]


def write(plain: dict[str, Any], ranked: Sequence[Candidate], measured: Mapping[str, Measured]) -> None:
    """The section of docs/pairs.md, its figures and its plot."""
    table = rows(ranked, measured)
    parts = [f"{predicted_title(ranked)}. Latency: {plain['latency']}.", markdown_table(PREDICTED, table)]
    parts += plain["alike"]
    if measured:
        n = next(iter(measured.values())).n
        parts += [f"{COMPARED_TITLE} (n = {n} other questions):", markdown_table(COMPARED, table)]
        parts.append("\n".join(f"- {text}" for text in correlation_lines(plain["rank_correlations"], len(ranked))))
    parts += [
        f"{line(plain['provenance'])} Accuracies and speed-ups with 95% intervals.",
        "![candidates](results/pairs.png)",
    ]
    plot(ranked, measured, RESULTS / "pairs.png")
    (RESULTS / "pairs.json").write_text(json.dumps(plain, indent=1) + "\n")
    replace_section(DOCUMENT, "pairs", "\n\n".join(parts))


def plot(ranked: Sequence[Candidate], measured: Mapping[str, Measured], path: Path) -> None:
    """Accuracy over speed-up, a curve per candidate: a dot at the proposed threshold, a cross where it was measured."""
    figure, ((axes,),) = panels(1, 1, (7.5, 4.8))
    for index, one in enumerate(ranked):
        colour = _COLOURS[index % len(_COLOURS)]
        curve = sorted(one.curve, key=lambda outlook: outlook.tau)
        axes.plot([o.speed_up for o in curve], [100 * o.accuracy for o in curve], color=colour, linewidth=1, alpha=0.6)
        at = one.proposed
        label = f"{short_name(one.name)}, {'no tau' if one.tau is None else f'tau {one.tau:g}'}"
        axes.plot(at.speed_up, 100 * at.accuracy, "o", color=colour, label=label)
        if one.name in measured:
            seen = measured[one.name]
            errors = [[100 * (seen.accuracy - seen.accuracy_low)], [100 * (seen.accuracy_high - seen.accuracy)]]
            axes.errorbar(seen.speed_up, 100 * seen.accuracy, yerr=errors, fmt="x", color=colour, capsize=3)
    axes.axhline(100 * ranked[0].llm_accuracy, color="grey", linestyle="--", linewidth=1, label="LLM-only")
    axes.set(xlabel="speed-up over LLM-only", ylabel="accuracy (%)")
    dots = "dots: predicted at the proposed tau" + ("; crosses: measured, 95%" if measured else "")
    axes.set_title(f"Candidate SLMs ({dots})", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)
