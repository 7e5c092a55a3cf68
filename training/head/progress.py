"""What a training run shows: bars, how the head gets on, how long the rest will take; or lines of JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 32  # of a sparkline: the last steps
_ROWS = {  # of the live table: curve, heading, format
    "reward": ("reward", "{:.3f}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "latency_ms": ("modelled ms", "{:.4g}"),
    "llm_share": ("LLM tokens", "{:.1%}"),
    "price": ("lambda", "{:.2e}"),
}


class Screen:
    """Shows a run on a terminal; elsewhere a line for each thing that happened. A context manager.

    Args:
        as_json: says each thing as a line of JSON on stdout; the console is then another stream's.
    """

    def __init__(self, console: Console, *, as_json: bool = False) -> None:
        self.console = console
        self._as_json = as_json
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        )
        self._curves: Sequence[Mapping[str, Any]] = ()
        self._looks: list[Mapping[str, Any]] = []
        live = console.is_terminal and not as_json
        self._live = Live(get_renderable=self._shown, console=console, refresh_per_second=4) if live else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    @contextmanager
    def bar(self, words: str, total: int) -> Iterator[Callable[..., None]]:
        """Shows a bar while the block runs; what it yields moves it by one, or by the number that it is given."""
        task = self._bars.add_task(words, total=total)

        def advance(number: Any = 1) -> None:
            self._bars.advance(task, number if isinstance(number, int) else 1)

        try:
            yield advance
        finally:
            self._bars.remove_task(task)

    def say(self, event: str, words: str, **facts: Any) -> None:
        """Tells one thing: in words for people, with its facts for machines; without facts they get the words."""
        if self._as_json:
            sys.stdout.write(json.dumps({"event": event, **(facts or {"words": words})}) + "\n")
            sys.stdout.flush()
        self.console.print(words, soft_wrap=True, markup=False, highlight=False)

    def step(self, curves: Sequence[Mapping[str, Any]], num_steps: int) -> None:
        """Shows the curves, of which the last is new."""
        self._curves = curves
        last = curves[-1]
        figures = ", ".join(f"{name} {form.format(last[key])}" for key, (name, form) in _ROWS.items())
        if "slack" in last:
            figures += f", to spare {spare_in_words(last)}"
        if self._as_json or not self._live:
            self.say("step", f"step {last['step']}/{num_steps}: {figures}", **last)

    def look(self, step: int, figures: Mapping[str, Any]) -> None:
        """Shows what the head does on dev after a step."""
        self._looks.append({"step": step, **figures})
        words = f"dev after step {step}: " + look_in_words(figures)
        if self._as_json or not self._live:
            self.say("look", words, step=step, **figures)

    def _shown(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for key, (name, form) in _ROWS.items():
            if self._curves:
                values = [float(curve[key]) for curve in self._curves]
                table.add_row(name, form.format(values[-1]), sparkline(values))
        if self._curves and "slack" in self._curves[-1]:
            values = [float(curve["slack"]) for curve in self._curves if "slack" in curve]
            table.add_row("to spare", spare_in_words(self._curves[-1]), sparkline(values))
        for look in self._looks:
            table.add_row(f"dev, step {look['step']}", "", look_in_words(look))
        return Group(table, self._bars)


def look_in_words(figures: Mapping[str, Any]) -> str:
    """Says what answers came to, from the fields of `Figures`."""
    form = "{accuracy:.1%} [{low:.1%}, {high:.1%}], {latency_ms:.4g} ms, {llm_share:.1%} LLM tokens"
    return form.format(**figures)


def spare_in_words(curve: Mapping[str, Any]) -> str:
    """Says by how much a target was met after a step, from the step's curve, which has the `slack`."""
    words = f"{curve['slack']:+.1%}"
    return f"{words} [{curve['slack_low']:+.1%}, {curve['slack_high']:+.1%}]" if "slack_low" in curve else words


def sparkline(values: Sequence[float]) -> str:
    """Draws the last values as blocks, from the least of them to the most."""
    shown = values[-_WIDTH:]
    low, high = min(shown), max(shown)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in shown)


def left_in_words(num_left: int, most_left: int, per_second: float, price_per_hour: float | None) -> str:
    """Says how long the rest will take, and what it costs.

    Args:
        num_left, most_left: rollouts, if dynamic sampling needs no more rounds than one, and if it needs all.
    """
    hours = [number / per_second / 3600 for number in (num_left, most_left)]
    took = " to ".join(f"{hour:.1f} h" if hour >= 1 else f"{60 * hour:.0f} min" for hour in hours)
    words = f"{per_second:.1f} rollouts/s; {num_left:,} to {most_left:,} more of them: {took}"
    if price_per_hour is None:
        return words
    return f"{words}, {price_per_hour * hours[0]:.2f} to {price_per_hour * hours[1]:.2f} in money"
