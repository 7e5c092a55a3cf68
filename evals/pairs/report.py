"""Tables and the plot of a pair selection. It measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from rich.table import Table

from evals.pairs.check import Measured
from evals.pairs.predict import Candidate

_COLOURS = ("#7a3fb0", "#c0392b", "#2471a3", "#1e8449", "#b9770e", "#566573")


def short_name(name: str) -> str:
    """A folder's last part, or a hub id."""
    return Path(name).name or name


def predictions(ranked: Sequence[Candidate]) -> Table:
    """What is predicted, the best first."""
    llm = ranked[0]
    table = Table(padding=(0, 1, 0, 0), box=None)
    table.title = (
        f"Predicted from {llm.n} questions; the LLM alone: {llm.llm_accuracy:.1%}, {llm.llm_tokens:.0f} tokens"
    )
    table.title_justify = "left"
    headings = (
        "SLM",
        "params",
        "alone",
        "follows",
        "followed",
        "tau",
        "accuracy",
        "LLM",
        "switches",
        "tokens",
        "faster",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "SLM" else "right", no_wrap=True)
    for one in ranked:
        at = one.proposed
        table.add_row(
            short_name(one.name),
            f"{one.num_parameters / 1e6:.2f}M",
            f"{one.slm_accuracy:.1%}",
            f"{one.slm_follows:.1%}",
            f"{one.llm_follows:.1%}",
            "none" if one.tau is None else f"{one.tau:g}",
            f"{at.accuracy:.1%} [{100 * at.accuracy_low:.0f}, {100 * at.accuracy_high:.0f}]",
            f"{at.llm_share:.1%}",
            f"{at.switches:.1f}",
            f"{at.tokens:.1f}",
            f"{at.speed_up:.2f}x",
        )
    return table


def comparison(pairs: Sequence[tuple[Candidate, Measured]]) -> Table:
    """Predicted beside measured."""
    table = Table(padding=(0, 1, 0, 0), box=None, title="Predicted | measured on the real stack", title_justify="left")
    for heading in ("SLM", "tau", "accuracy", "LLM-only", "LLM", "switches", "tokens", "faster"):
        table.add_column(heading, justify="left" if heading == "SLM" else "right", no_wrap=True)
    for one, seen in pairs:
        at = one.proposed
        table.add_row(
            short_name(one.name),
            "none" if one.tau is None else f"{one.tau:g}",
            f"{at.accuracy:.1%} | {seen.accuracy:.1%} [{100 * seen.accuracy_low:.1f}, {100 * seen.accuracy_high:.1f}]",
            f"{one.llm_accuracy:.1%} | {seen.llm_accuracy:.1%}",
            f"{at.llm_share:.1%} | {seen.llm_share:.1%}",
            f"{at.switches:.1f} | {seen.switches:.1f}",
            f"{at.tokens:.1f} | {seen.tokens:.1f}",
            f"{at.speed_up:.2f}x | {seen.speed_up:.2f}x",
        )
    return table


def plot(ranked: Sequence[Candidate], measured: dict[str, Measured], path: Path) -> None:
    """Accuracy over speed-up, a curve per candidate: a dot at the proposed threshold, a cross where it was measured."""
    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
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
    axes.set_xlabel("speed-up over LLM-only")
    axes.set_ylabel("accuracy (%)")
    dots = "dots: predicted at the proposed tau" + ("; crosses: measured, 95%" if measured else "")
    axes.set_title(f"Candidate SLMs ({dots})", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
