"""Tables and plots of an evaluation: for the terminal, for docs/results.md, for the eye. It measures nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.table import Table

mpl.use("Agg")
from matplotlib import pyplot as plt

Row = dict[str, Any]
# Heading and how a row fills it. The first column is the name of a row.
Columns = dict[str, Callable[[Row], str]]

_COLUMNS: Columns = {
    "system": lambda row: row["system"],
    "accuracy": lambda row: f"{row['accuracy']:.1%} [{row['accuracy_low']:.1%}, {row['accuracy_high']:.1%}]",
    "to LLM-only, points": lambda row: (
        f"{100 * row['difference']:+.1f} [{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]"
    ),
    "tokens": lambda row: f"{row['tokens']:.1f}",
    "LLM share": lambda row: f"{row['llm_share']:.1%}",
    "switches": lambda row: f"{row['switches']:.1f}",
    "latency ms": lambda row: f"{row['latency_ms']:.1f}",
    "p50 ms": lambda row: f"{row['latency_p50_ms']:.1f}",
    "TTFT p50 ms": lambda row: f"{row['ttft_p50_ms']:.1f}",
    "speed-up": lambda row: f"{row['speed_up']:.2f}x",
    "= shorter": lambda row: f"{row['shorter']:.2f}x",
    "x cheaper": lambda row: f"{row['cheaper']:.2f}x",
}


def rich_table(rows: list[Row]) -> Table:
    """For the terminal: what fits eighty columns."""
    caption = f"n = {rows[0]['n']}, 95% intervals; faster than LLM-only = shorter x cheaper"
    table = Table(caption=caption, padding=(0, 1, 0, 0), box=None)
    for name in ("", "accuracy", "tokens", "LLM", "sw.", "ms", "faster", "shorter", "cheaper"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row["system"].replace("R-Stitch ", ""),
            f"{row['accuracy']:.1%} [{100 * row['accuracy_low']:.1f}, {100 * row['accuracy_high']:.1f}]",
            f"{row['tokens']:.1f}",
            f"{row['llm_share']:.1%}",
            f"{row['switches']:.1f}",
            f"{row['latency_ms']:.1f}",
            f"{row['speed_up']:.2f}",
            f"{row['shorter']:.2f}",
            f"{row['cheaper']:.2f}",
        )
    return table


def markdown(rows: list[Row], caption: str, image: Path) -> str:
    """For a document: table, plot, where it comes from."""
    lines = [
        markdown_table(_COLUMNS, rows),
        "",
        f"n = {rows[0]['n']} each; intervals are 95% (Wilson; paired bootstrap for differences). {caption}",
        "",
        f"![accuracy over latency]({image.as_posix()})",
    ]
    return "\n".join(lines)


def markdown_table(columns: Columns, rows: list[Row]) -> str:
    """Heading, alignment and one line per row."""
    lines = ["| " + " | ".join(columns) + " |", "|-|" + "-:|" * (len(columns) - 1)]
    lines += ["| " + " | ".join(cell(row) for cell in columns.values()) + " |" for row in rows]
    return "\n".join(lines)


def terminal_table(title: str, columns: Columns, rows: list[Row]) -> Table:
    """The same for the terminal."""
    table = Table(title=title, title_justify="left", padding=(0, 1, 0, 0), box=None)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    return table


def replace_section(document: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- name:begin -->` and `<!-- name:end -->`; ValueError if they are not there."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = document.read_text()
    head, found, rest = content.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"{document}: no section {begin} ... {end}")
    document.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def plot(rows: list[Row], path: Path) -> None:
    """Accuracy over latency: the two models alone, and R-Stitch as a curve over tau."""
    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")

    def errors(chosen: list[Row]) -> list[list[float]]:
        return [
            [100 * (row["accuracy"] - row["accuracy_low"]) for row in chosen],
            [100 * (row["accuracy_high"] - row["accuracy"]) for row in chosen],
        ]

    def points(chosen: list[Row], label: str, **style: Any) -> None:
        x = [row["latency_ms"] for row in chosen]
        y = [100 * row["accuracy"] for row in chosen]
        axes.errorbar(x, y, yerr=errors(chosen), label=label, capsize=3, markersize=7, **style)

    stitched = sorted((row for row in rows if row["tau"] >= 0), key=lambda row: float(row["latency_ms"]))
    points(stitched, "R-Stitch over tau", marker="o", color="#7a3fb0", linewidth=1.2)
    points([row for row in rows if row["system"] == "LLM-only"], "LLM-only", marker="s", color="#c0392b", linestyle="")
    points([row for row in rows if row["system"] == "SLM-only"], "SLM-only", marker="^", color="#2471a3", linestyle="")
    for index, row in enumerate(stitched):
        axes.annotate(
            f"{row['tau']:g}",
            (row["latency_ms"], 100 * row["accuracy"]),
            textcoords="offset points",
            xytext=(5, -14 if index % 2 else 8),
            fontsize=8,
            color="#7a3fb0",
        )
    axes.set_xscale("log")
    ticks = [50, 75, 100, 150, 200, 300, 400, 600, 1000]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.minorticks_off()
    latencies = [float(row["latency_ms"]) for row in rows]
    axes.set_xlim(0.85 * min(latencies), 1.15 * max(latencies))
    axes.set_xlabel("mean latency per answer (ms, logarithmic)")
    axes.set_ylabel("accuracy (%), 95% interval")
    axes.set_title(f"Tiny pair, {rows[0]['n']} held-out problems: accuracy over latency")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
