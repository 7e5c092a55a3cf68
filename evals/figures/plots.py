"""The plots of `rstitch eval` and `rstitch bench run`. They compute nothing but what a plot needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evals.figures.families import Member, member_of
from evals.figures.plotting import COLOURS, MARKERS, counts, logarithmic, panels, save
from evals.figures.report import Row

_ALONE = {"LLM-only": ("black", "s"), "SLM-only": ("dimgray", "^")}
MODELCOLOURS = {"slm": "#0072B2", "llm": "#D55E00"}
_SHARE_TICKS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
_ACCURACY = "accuracy (%), 95% interval"
_SMALLEST_ENTROPY = 1e-6
# Points of accuracy that the second row of a frontier shows.
_NEAR = 8.0

Latency = Literal["latency_ms", "modelled_ms"]
# Means, and the lower and upper ends of their intervals.
Curve = tuple[Sequence[float], Sequence[float], Sequence[float]]


def frontier(rows: Sequence[Row], title: str, path: Path, latency: Latency | None = "latency_ms") -> None:
    """Accuracy over latency and over the LLM's share of the tokens: one line per family, one point per system.

    Where some fall far behind, a second row shows those near the best.

    Args:
        latency: as measured, or the latency model's, which no load distorts (systems that it cannot reckon are left
            out); None: only the share is drawn.
    """
    lines = _lines(rows)
    shown = [100 * row["accuracy"] for points in lines.values() for _, row in points]
    zoomed = max(shown) - min(shown) > 1.5 * _NEAR
    columns = ["llm_share"] if latency is None else [latency, "llm_share"]
    size = (1.5 + 6 * len(columns), 5.4 + 4.6 * zoomed)
    figure, grid = panels(1 + zoomed, len(columns), size, sharey="row", sharex="col")
    for row in grid:
        for axes, x in zip(row, columns, strict=True):
            _draw(axes, lines, x)
        row[0].set_ylabel(_ACCURACY)
    if zoomed:
        grid[1][0].set_ylim(max(shown) - _NEAR, max(shown) + 0.2 * _NEAR)
    if latency is not None:
        modelled = "modelled, " if latency == "modelled_ms" else ""
        grid[-1][0].set_xlabel(f"mean latency per answer (ms, {modelled}logarithmic)")
        logarithmic(grid[-1][0], "x")
    _share_axis(grid[-1][-1])
    handles, names = grid[-1][-1].get_legend_handles_labels()
    ncols = min(3 * len(columns), len(names))
    figure.legend(handles, names, loc="outside lower center", ncols=ncols, fontsize=9)
    between = "; " if len(columns) > 1 else ";\n"
    numbers = "the numbers at a line's ends are its tau, price, threshold, probability or draft"
    figure.suptitle(f"{title}{between}{numbers}", fontsize=11)
    save(figure, path)


def matrix(rows: Sequence[Row], path: Path) -> None:
    """Accuracy over latency at the first load, throughput over sessions; no variants: they lie on what they vary."""
    rows = [row for row in rows if not row["variation"]]
    first = [row for row in rows if row["load"] == rows[0]["load"]]
    closed = [row for row in rows if not row["rate"]]
    figure, ((left, right),) = panels(1, 2, (12.0, 4.8))
    _draw(left, _lines(first), "latency_p50_ms")
    left.set_xlim(left=0)
    left.set(xlabel="latency p50 (ms)", ylabel=_ACCURACY)
    left.set_title(f"Accuracy over latency, {rows[0]['load']}, n = {rows[0]['n']}")
    lines = _lines(closed)
    for points, (colour, marker) in zip(lines.values(), _styles(lines).values(), strict=True):
        for system, dashes in zip(dict.fromkeys(member.system for member, _ in points), cycle(("-", "--", ":", "-."))):
            mine = [row for member, row in points if member.system == system]
            xs, ys = zip(*sorted((row["num_sessions"], row["requests_per_s"]) for row in mine), strict=True)
            right.plot(xs, ys, color=colour, marker=marker, linestyle=dashes, label=system)
    counts(right, [row["num_sessions"] for row in closed])
    right.set_ylim(bottom=0)
    right.set(xlabel="sessions", ylabel="answers per second", title="Throughput over sessions")
    right.grid(alpha=0.3)
    left.legend(fontsize=8, loc="lower right")
    right.legend(fontsize=8, loc="upper left")
    save(figure, path)


def _share_axis(axes: Any) -> None:
    axes.set_xlabel("share of tokens by the LLM (linear up to 1%, then logarithmic)")
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xticks(_SHARE_TICKS, [f"{100 * tick:g}%" for tick in _SHARE_TICKS])
    axes.minorticks_off()
    axes.set_xlim(-0.002, 1.3)


def entropies(
    found: Mapping[str, Mapping[str, Sequence[float]]], taus: Mapping[str, float], title: str, path: Path
) -> None:
    """Histograms of token entropies by model, one panel per system: {system: {model: entropies}}."""
    figure, grid = panels(1, len(found), (5.2 * len(found), 4.2))
    bins = np.logspace(np.log10(_SMALLEST_ENTROPY), 0, 49)
    for axes, (system, by_model) in zip(grid[0], found.items(), strict=True):
        total = sum(len(values) for values in by_model.values())
        for model, values in by_model.items():
            clipped = np.clip(values, _SMALLEST_ENTROPY, 1)
            above = np.mean(np.asarray(values) > 0.1)
            axes.hist(
                clipped, bins, weights=np.full(len(values), 100 / total), histtype="stepfilled", alpha=0.45,
                color=MODELCOLOURS[model], edgecolor=MODELCOLOURS[model],
                hatch="//" if model == "llm" else None,
                label=f"{model.upper()}: {len(values)} tokens, {above:.1%} above 0.1",
            )  # fmt: skip
        if system in taus:
            axes.axvline(taus[system], color="black", linestyle="--", linewidth=1, label=f"tau {taus[system]:g}")
        logarithmic(axes, "x")
        axes.set_title(system, fontsize=10)
        axes.set_xlabel("entropy of the token's distribution (share of log V)")
        axes.set_ylabel("% of the system's tokens")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save(figure, path)


def around(offsets: Sequence[int], curves: Mapping[str, Curve], title: str, path: Path) -> None:
    """Mean entropy by offset from a token, with intervals: {name: (means, lows, highs)}."""
    figure, ((axes,),) = panels(1, 1, (9, 5.2))
    for (name, (means, lows, highs)), colour, marker in zip(curves.items(), COLOURS, MARKERS, strict=False):
        axes.plot(offsets, means, color=colour, marker=marker, markersize=4, label=name)
        axes.fill_between(offsets, lows, highs, color=colour, alpha=0.2)
    axes.axvline(0, color="black", linestyle="--", linewidth=1)
    axes.set_xticks(list(offsets)[::2])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens from the first harmful one")
    axes.set_ylabel("mean entropy, 95% interval")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=1 + (len(curves) > 2), fontsize=9)
    save(figure, path)


def _draw(axes: Any, lines: Mapping[str, list[tuple[Member, Row]]], x: str) -> None:
    for (family, points), style in zip(lines.items(), _styles(lines).values(), strict=True):
        _line(axes, points, x, family, *style)
    axes.grid(alpha=0.3)


def _styles(families: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker by family: the same in all panels."""
    others = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    return {family: _ALONE.get(family) or next(others) for family in families}


def _line(axes: Any, points: list[tuple[Member, Row]], x: str, family: str, colour: str, marker: str) -> None:
    points = [point for point in points if point[1].get(x) is not None]
    if not points:
        return
    xs, ys = [row[x] for _, row in points], [100 * row["accuracy"] for _, row in points]
    lows, highs = ([100 * row[f"accuracy_{end}"] for _, row in points] for end in ("low", "high"))
    errors = [np.subtract(ys, lows), np.subtract(highs, ys)]
    axes.errorbar(xs, ys, yerr=errors, fmt="none", ecolor=colour, alpha=0.35, capsize=2, linewidth=1)
    axes.plot(
        xs, ys, color=colour, marker=marker, markersize=8 if family in _ALONE else 5.5, linewidth=1.4, alpha=0.9,
        linestyle="" if len(points) == 1 else "-", label=family, zorder=3,
    )  # fmt: skip
    ends = [points[0], points[-1]] if len(points) > 1 else []
    for member, row in ends:
        if member.value is not None:
            axes.annotate(
                f"{member.value:g}", (row[x], 100 * row["accuracy"]), textcoords="offset points", xytext=(5, 5),
                fontsize=7, color=colour,
            )  # fmt: skip


def _lines(rows: Sequence[Row]) -> dict[str, list[tuple[Member, Row]]]:
    """Points by family, each in the order of what varies; the models alone come first."""
    lines: dict[str, list[tuple[Member, Row]]] = defaultdict(list)
    for row in rows:
        if "latency_ms" in row:
            member = member_of(row["system"])
            lines[member.family].append((member, row))
    for points in lines.values():
        points.sort(key=lambda point: (point[0].value is None, point[0].value or 0.0))
    return dict(sorted(lines.items(), key=lambda item: (item[0] not in _ALONE, item[0])))
