"""What `bench engine` found: for the terminal, for a document, for the eye. It measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from evals.figures import plotting
from evals.figures.report import Columns, markdown_table, terminal_table

_VARIANT: Columns = {"variant": lambda row: row["variant"] or "-"}
_TIMES = {
    "bare ms": "{bare_ms:.3f}",
    "step ms": "{engine_ms:.3f}",
    "over bare": "{ratio[value]:.2f}",
    "quiet": "{quiet_ratio:.2f}",
}
_STEPS: Columns = {
    "context": "{context}",
    "batch": "{batch}",
    **_TIMES,
    "tok/s": "{tokens_per_s:.0f}",
    "x": "{over_batch_1:.2f}",
    "outside": "{outside_model:.0%}",
    "agreed": "{agreed:.0%}",
}
_FLOOR: Columns = {"of floor": "{floor_share:.0%}"}
_EXTENDS: Columns = {"tokens": "{tokens}", **_TIMES, "over a decode": "{over_decode:.2f}"}
# A document is wider than a terminal.
_WIDE: Columns = {
    "over bare": "{ratio[value]:.2f} [{ratio[low]:.2f}, {ratio[high]:.2f}]",
    "run-on ms": "{run_on_ms:.3f}",
}
_LEGEND = (
    "bare: a cached transformers forward at batch 1, in turn with the steps; quiet: the ratio of the 10th percentiles; "
    "tok/s: steps one after another, x: over batch 1; outside: of a step, not in the model's layers and head; agreed: "
    "blocks in which both chose the same tokens."
)


def _columns(model: dict[str, Any], wide: Columns) -> tuple[Columns, Columns]:
    """Of the steps and of the extends; variants and the floor only where there are any."""
    variants = _VARIANT if len(model["counters"]) > 1 else {}
    floor = _FLOOR if "floor_ms" in model else {}
    return {**variants, **_STEPS, **wide, **floor}, {**variants, **_EXTENDS}


def _title(model: dict[str, Any]) -> str:
    return (
        f"{model['model']}, {model['parameters'] / 1e6:.1f}M parameters, {model['dtype']}, {model['device']}, "
        f"{model['threads']} thread{'s' if model['threads'] > 1 else ''}"
    )


def _notes(model: dict[str, Any]) -> list[str]:
    notes = []
    if "floor_ms" in model:
        notes.append(
            f"Copy bandwidth {model['copy_bandwidth_gb_s']:.0f} GB/s: reading the weights takes at least "
            f"{model['floor_ms']:.3f} ms. What a step is of that (of floor) says how good it is: a bare forward is not "
            "captured, so on a GPU its time is the host's, and in 16 bits random weights agree by chance."
        )
    for variant, counters in model["counters"].items():
        captured = counters["num_graph_steps"]
        if graphs := captured + counters["num_graph_misses"]:
            notes.append(f"{variant or 'default'}: {captured} of {graphs} steps by a captured graph.")
    return notes


def show(model: dict[str, Any], console: Console) -> None:
    """Prints the tables of a model."""
    steps, extends = _columns(model, {})
    console.print(terminal_table(_title(model), steps, model["rows"]))
    console.print(terminal_table("extends", extends, model["extends"]))
    for note in (*_notes(model), _LEGEND):
        console.print(note, style="dim")


def document(model: dict[str, Any]) -> str:
    """Writes the tables of a model as Markdown."""
    steps, extends = _columns(model, _WIDE)
    tables = [markdown_table(steps, model["rows"]), markdown_table(extends, model["extends"])]
    return "\n\n".join([f"### {_title(model)}", *tables, *_notes(model), _LEGEND])


def plot(models: Sequence[dict[str, Any]], path: Path) -> None:
    """Step time over the batch, one panel per model, one line per context and variant; dashed: bare, at batch 1."""
    figure, panels = plotting.panels(1, len(models), (5.2 * len(models), 4.2))
    for axes, model in zip(panels[0], models, strict=True):
        lines = dict.fromkeys((row["variant"], row["context"]) for row in model["rows"])
        for number, (variant, context) in enumerate(lines):
            rows = [row for row in model["rows"] if (row["variant"], row["context"]) == (variant, context)]
            x = [row["batch"] for row in rows]
            label = " ".join(filter(None, [f"context {context}", variant]))
            axes.plot(x, [row["engine_ms"] for row in rows], marker="o", color=f"C{number}", label=label)
            axes.axhline(rows[0]["bare_ms"], color=f"C{number}", linestyle="--", linewidth=0.8)
        plotting.counts(axes, [row["batch"] for row in model["rows"]])
        plotting.logarithmic(axes, "y")
        axes.set_xlabel("sessions in the step")
        axes.set_ylabel("ms per step (dashed: bare forward at batch 1)")
        axes.set_title(model["model"])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    plotting.save(figure, path)
