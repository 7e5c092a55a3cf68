"""What `bench engine` found: for the terminal, for a document, for the eye. It measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console

from evals.figures.report import Columns, Row, markdown_table, terminal_table

mpl.use("Agg")
from matplotlib import pyplot as plt


def _ms(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row[name]:.3f}"


_VARIANT: Columns = {"variant": lambda row: row["variant"] or "-"}
_STEPS: Columns = {
    "context": lambda row: str(row["context"]),
    "batch": lambda row: str(row["batch"]),
    "bare ms": _ms("bare_ms"),
    "step ms": _ms("engine_ms"),
    "over bare": lambda row: f"{row['ratio']['value']:.2f}",
    "quiet": lambda row: f"{row['quiet_ratio']:.2f}",
    "tok/s": lambda row: f"{row['tokens_per_s']:.0f}",
    "x": lambda row: f"{row['over_batch_1']:.2f}",
    "outside": lambda row: "" if row["outside_model"] is None else f"{row['outside_model']:.0%}",
    "agreed": lambda row: f"{row['agreed']:.0%}",
}
_FLOOR: Columns = {"of floor": lambda row: f"{row['floor_share']:.0%}"}
_EXTENDS: Columns = {
    "tokens": lambda row: str(row["tokens"]),
    "bare ms": _STEPS["bare ms"],
    "step ms": _STEPS["step ms"],
    "over bare": _STEPS["over bare"],
    "quiet": _STEPS["quiet"],
    "over a decode": lambda row: f"{row['over_decode']:.2f}",
}
# A document is wider than a terminal.
_WIDE: Columns = {
    "over bare": lambda row: "{value:.2f} [{low:.2f}, {high:.2f}]".format(**row["ratio"]),
    "run-on ms": _ms("run_on_ms"),
}
_LEGEND = (
    "bare: a cached transformers forward at batch 1, in turn with the steps; quiet: the ratio of the 10th percentiles; "
    "tok/s: steps one after another, x: over batch 1; outside: of a step, not in the model's layers and head; agreed: "
    "blocks in which both chose the same tokens."
)


def _columns(model: dict[str, Any], wide: bool = False) -> Columns:
    variants = _VARIANT if len(model["counters"]) > 1 else {}
    floor = _FLOOR if "floor_ms" in model else {}
    return variants | _STEPS | (_WIDE if wide else {}) | floor


def _extend_columns(model: dict[str, Any]) -> Columns:
    return (_VARIANT if len(model["counters"]) > 1 else {}) | _EXTENDS


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
            f"{model['floor_ms']:.3f} ms."
        )
    for variant, counters in model["counters"].items():
        graphs = counters["num_graph_steps"] + counters["num_graph_misses"]
        if graphs:
            captured = counters["num_graph_steps"]
            notes.append(f"{variant or 'default'}: {captured} of {graphs} steps by a captured graph.")
    return notes


def show(model: dict[str, Any], console: Console) -> None:
    """For the terminal."""
    console.print(terminal_table(_title(model), _columns(model), model["rows"]))
    console.print(terminal_table("extends", _extend_columns(model), model["extends"]))
    for note in (*_notes(model), _LEGEND):
        console.print(note, style="dim")


def document(model: dict[str, Any]) -> str:
    """For a document."""
    tables = [
        markdown_table(_columns(model, wide=True), model["rows"]),
        markdown_table(_extend_columns(model), model["extends"]),
    ]
    return "\n\n".join([f"### {_title(model)}", *tables, *_notes(model), _LEGEND])


def plot(models: Sequence[dict[str, Any]], path: Path) -> None:
    """Step time over the batch, one panel per model, one line per context and variant; dashed: bare, at batch 1."""
    figure, panels = plt.subplots(1, len(models), figsize=(5.2 * len(models), 4.2), layout="constrained", squeeze=False)
    for axes, model in zip(panels[0], models, strict=True):
        lines = dict.fromkeys((row["variant"], row["context"]) for row in model["rows"])
        for number, (variant, context) in enumerate(lines):
            rows = [row for row in model["rows"] if (row["variant"], row["context"]) == (variant, context)]
            x = [row["batch"] for row in rows]
            label = " ".join(filter(None, [f"context {context}", variant]))
            axes.plot(x, [row["engine_ms"] for row in rows], marker="o", color=f"C{number}", label=label)
            axes.axhline(rows[0]["bare_ms"], color=f"C{number}", linestyle="--", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        batches = sorted({row["batch"] for row in model["rows"]})
        axes.set_xticks(batches, [str(batch) for batch in batches])
        for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatter("{x:g}")
        axes.set_xlabel("sessions in the step")
        axes.set_ylabel("ms per step (dashed: bare forward at batch 1)")
        axes.set_title(model["model"])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
