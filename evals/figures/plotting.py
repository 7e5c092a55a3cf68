"""What all plots share: no display, logarithmic axes that can be read, how a picture is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib import ticker

# Okabe and Ito's colours, told apart also by the colour-blind; markers tell them apart in grey, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F")
MARKERS = ("o", "D", "v", "P", "X", "<", ">", "h", "p", "d")


def panels(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure of so many axes, always as an array [rows, columns]."""
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)


class _LogTicks(ticker.Locator):
    """Ticks of a logarithmic axis, few enough for their numbers: even steps, 1-2-5 of a decade, or whole decades."""

    def __call__(self) -> Any:
        return self.tick_values(*self.axis.get_view_interval())  # type: ignore[union-attr]

    def tick_values(self, vmin: float, vmax: float) -> Any:
        low, high = min(vmin, vmax), max(vmin, vmax)
        if high / low < 5:
            found = ticker.MaxNLocator(6).tick_values(low, high)
        else:
            found = ticker.LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 300 else (1.0,)).tick_values(low, high)
        return [value for value in found if low <= value <= high]


def logarithmic(axes: Any, which: Literal["x", "y"]) -> None:
    """Makes an axis logarithmic, with plain numbers that do not overlap."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(_LogTicks())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(ticker.NullLocator())


def counts(axes: Any, values: Sequence[int]) -> None:
    """Makes the x axis one of sessions or batches: logarithmic, with a tick at each of the values."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(values)), [str(value) for value in sorted(set(values))])
    axes.minorticks_off()


def save(figure: Any, path: Path) -> None:
    """Writes the picture and forgets the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
