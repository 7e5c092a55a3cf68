"""Latency over load, as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evals.figures.plotting import COLOURS, logarithmic, panels, save
from evals.plan.fleet import Fleet


def plot_loads(fleet: Fleet, rate: float, path: Path) -> None:
    """Draws an answer's p50, p95 and first token over answers a second, up to where the fleet saturates."""
    most = fleet.saturation_of_all
    rates = most * np.linspace(0.02, 0.97, 48)
    latencies = [fleet.at(float(each)).latency for each in rates]
    figure, ((axes,),) = panels(1, 1, (7, 4.5))
    for label, values, colour in (
        ("p95 of an answer", [each.quantile_s(0.95) for each in latencies], COLOURS[1]),
        ("p50", [each.quantile_s(0.5) for each in latencies], COLOURS[0]),
        ("first token", [each.first_s for each in latencies], COLOURS[2]),
    ):
        axes.plot(rates, values, label=label, color=colour)
    axes.axvline(most, color=COLOURS[7], linestyle="--", label=f"saturates at {most:.3g}/s")
    axes.axvline(rate, color="black", linewidth=0.8, label=f"planned: {rate:.3g}/s")
    axes.set(xlabel="answers a second", ylabel="seconds")
    logarithmic(axes, "y")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    numbers = ", ".join(f"{count} {role.upper()}" for role, count in fleet.numbers.items())
    axes.set_title(numbers)
    save(figure, path)
