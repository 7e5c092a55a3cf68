"""How a run gets on: how far each system is, and what its accuracy is so far, with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from evals.asking.ask import Job
from evals.asking.record import Record
from evals.figures.statistics import wilson

# Lines that are left to what was on the terminal before.
_MARGIN = 4


class RunProgress:
    """Told about each record; shows a bar for all, and one per system where there is room. A context manager."""

    def __init__(self, console: Console, wanted: Sequence[Job], known: Sequence[Record]) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[accuracy]}"),
        )  # fmt: skip
        self._progress = Progress(*columns, console=console)
        keys = {job.key for job in wanted}
        sizes = Counter(job.system.name for job in wanted)
        self._all = self._progress.add_task("answers", total=len(wanted), accuracy="")
        self._systems: dict[str, TaskID] = {}
        if len(sizes) + _MARGIN < console.height:
            self._systems = {name: self._progress.add_task(name, total=n, accuracy="") for name, n in sizes.items()}
        self._right: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        for record in known:
            if record.key in keys:
                self(record)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def __call__(self, record: Record) -> None:
        """One more answer."""
        name = record.system
        self._right[name] += record.correct
        self._done[name] += 1
        self._progress.update(self._all, advance=1)
        estimate = self._estimate(name)
        if name in self._systems:
            self._progress.update(self._systems[name], advance=1, accuracy=estimate)
        else:
            self._progress.update(self._all, accuracy=f"{name} {estimate}")

    def _estimate(self, name: str) -> str:
        right, n = self._right[name], self._done[name]
        low, high = wilson(right, n)
        return f"{right / n:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
