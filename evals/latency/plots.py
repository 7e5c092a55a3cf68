"""How well the latency model describes what it was fitted on, and answers that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from evals.figures.plotting import logarithmic, panels, save
from evals.latency.check import WITHIN, Checked
from evals.latency.fit import cell_medians
from evals.latency.model import LatencyModel
from evals.latency.profile import TimedCall

_COLOURS = {"slm": "#2471a3", "llm": "#c0392b"}


def plot_fit(model: LatencyModel, calls: Mapping[str, Sequence[TimedCall]], path: Path) -> None:
    """Residuals of both formulas by what was put in, and the calls beside the formulas."""
    figure, axes = panels(2, 2, (11, 7.5))
    for row, role in enumerate(("slm", "llm")):
        latency = model.slm if role == "slm" else model.llm
        cells = cell_medians(calls[role])
        prefills, decodes = cells[cells[:, 0] > 1], cells[cells[:, 0] == 1]
        name = f"{role.upper()} ({latency.facts.get('model', role)})"
        shown = axes[row, 0]
        for index, held in enumerate(sorted({float(cached) for cached in prefills[:, 1]})):
            chosen = prefills[prefills[:, 1] == held]
            colour = plt.get_cmap("viridis")(0.9 * index / max(1, len(set(prefills[:, 1])) - 1))
            shown.plot(chosen[:, 0], chosen[:, 2], "o", color=colour, markersize=4)
            fine = np.geomspace(2, chosen[:, 0].max(), 60)
            shown.plot(fine, latency.prefill(fine, held), color=colour, linewidth=1, label=f"{held:.0f} cached")
        shown.set(xlabel="tokens put in", ylabel="ms")
        shown.set_title(f"{name}: prefill, R² {latency.fits['prefill'].r2:.3f}")
        logarithmic(shown, "x")
        logarithmic(shown, "y")
        shown.legend(fontsize=7)
        left = axes[row, 1]
        for chosen, modelled, label, marker in (
            (prefills, latency.prefill(prefills[:, 0], prefills[:, 1]), "prefill", "o"),
            (decodes, latency.decode(decodes[:, 1]), "decode", "^"),
        ):
            left.plot(
                chosen[:, 2], 100 * (modelled / chosen[:, 2] - 1), marker, label=label, color=_COLOURS[role],
                markerfacecolor="none" if label == "prefill" else _COLOURS[role],
            )  # fmt: skip
        left.axhline(0, color="black", linewidth=0.8)
        left.set(xlabel="measured (median of a cell, ms)", ylabel="modelled over measured (%)")
        logarithmic(left, "x")
        left.set_title(f"{role.upper()}: residuals, decode R² {latency.fits['decode'].r2:.3f}")
        left.legend(fontsize=8)
    for panel in axes.flat:
        panel.grid(alpha=0.3)
    save(figure, path)


def plot_check(checked: Checked, path: Path) -> None:
    """Modelled over measured latency of whole answers, by system, with the target's band."""
    figure, ((axes,),) = panels(1, 1, (6.5, 5.5))
    measured = np.array([answer.latency_ms for answer in checked.answers])
    for index, system in enumerate(checked.systems):
        chosen = [number for number, answer in enumerate(checked.answers) if answer.system == system]
        colour = plt.get_cmap("plasma")(0.9 * index / max(1, len(checked.systems) - 1))
        axes.plot(measured[chosen], checked.modelled_ms[chosen], "o", color=colour, markersize=4, label=system)
    ends = np.array([0.8 * measured.min(), 1.2 * measured.max()])
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.fill_between(ends, (1 - WITHIN) * ends, (1 + WITHIN) * ends, color="black", alpha=0.08, label=f"±{WITHIN:.0%}")
    axes.set(xlabel="measured latency of an answer (ms)", ylabel="modelled (ms)")
    logarithmic(axes, "x")
    logarithmic(axes, "y")
    axes.set_title(f"{len(measured)} answers, median error {checked.median_error.value:.1%}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)
