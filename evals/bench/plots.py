"""The plot of `rstitch bench run`: accuracy over latency at the fewest sessions, throughput over sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

from evals.figures import plotting
from evals.figures.report import Row

# Of a system wherever it appears; thresholds share a colour map.
_STYLES = {
    "generate": {"color": "#7f8c8d", "marker": "X"},
    "assisted": {"color": "#b7950b", "marker": "P"},
    "engine": {"color": "#117a65", "marker": "D"},
    "llm_only": {"color": "#c0392b", "marker": "s"},
    "slm_only": {"color": "#2471a3", "marker": "^"},
}
_SIZE = (12.0, 4.8)


def plot(rows: list[Row], path: Path) -> None:
    """Writes the picture. Variants are left out: they lie on what they vary."""
    rows = [row for row in rows if not row["variation"]]
    figure, ((left, right),) = plotting.panels(1, 2, _SIZE)
    first = rows[0]["load"]
    _accuracy_over_latency(left, [row for row in rows if row["load"] == first])
    _throughput_over_sessions(right, [row for row in rows if not row["rate"]])
    plotting.save(figure, path)


def _accuracy_over_latency(axes: Any, rows: list[Row]) -> None:
    styles = _styles(rows)
    for row in rows:
        errors = [[100 * (row["accuracy"] - row["accuracy_low"])], [100 * (row["accuracy_high"] - row["accuracy"])]]
        axes.errorbar(
            row["latency_p50_ms"], 100 * row["accuracy"], yerr=errors, capsize=3, linestyle="", label=row["system"],
            **styles[row["system"]],
        )  # fmt: skip
    stitched = sorted((row for row in rows if row["system"].startswith("tau")), key=lambda row: row["latency_p50_ms"])
    x, y = [row["latency_p50_ms"] for row in stitched], [100 * row["accuracy"] for row in stitched]
    axes.plot(x, y, color="#7a3fb0", alpha=0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("latency p50 (ms)")
    axes.set_ylabel("accuracy (%), 95% interval")
    axes.set_title(f"Accuracy over latency, {rows[0]['load']}, n = {rows[0]['n']}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")


def _throughput_over_sessions(axes: Any, rows: list[Row]) -> None:
    styles = _styles(rows)
    for system, style in styles.items():
        chosen = sorted((row for row in rows if row["system"] == system), key=lambda row: row["num_sessions"])
        axes.plot(
            [row["num_sessions"] for row in chosen], [row["requests_per_s"] for row in chosen], label=system, **style
        )
    plotting.counts(axes, [row["num_sessions"] for row in rows])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sessions")
    axes.set_ylabel("answers per second")
    axes.set_title("Throughput over sessions")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")


def _styles(rows: list[Row]) -> dict[str, dict[str, Any]]:
    names = list(dict.fromkeys(row["system"] for row in rows))
    stitched = [name for name in names if name not in _STYLES]
    shades = mpl.colormaps["plasma"]
    thresholds = {
        name: {"color": shades(0.25 + 0.5 * index / max(1, len(stitched) - 1)), "marker": "o"}
        for index, name in enumerate(stitched)
    }
    return {name: {"markersize": 7} | (_STYLES.get(name) or thresholds[name]) for name in names}
