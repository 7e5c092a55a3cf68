"""The start of a stack as people see it: a live table on a terminal, one line per ready part elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from rstitch.cli.log_lines import last_lines
from rstitch.local.stack import LocalStack, State

_PATIENCE_S = 5.0


class StackProgress:
    """Shows the state of each part of a stack while it starts; a context manager, called with every change."""

    def __init__(self, console: Console, stack: LocalStack) -> None:
        self._console = console
        self._stack = stack
        self._states: dict[str, tuple[State, float]] = {}
        # What each part was last said to wait for, where there is no live table.
        self._told: dict[str, str] = {}
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(self._table(), console=console, refresh_per_second=10) if console.is_terminal else None

    def __enter__(self) -> StackProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._live.update(self._table(), refresh=True)
            self._live.stop()

    def __call__(self, part: str, state: State, seconds: float) -> None:
        self._states[part] = (state, seconds)
        if self._live:
            self._live.update(self._table())
            return
        if state == "ready":
            self._console.print(f"{part} ready after {seconds:.1f} s")
        elif (said := self._said(part, state, seconds)) and said != self._told.get(part):
            self._told[part] = said
            self._console.print(Text(f"{part}: {said}"), soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for part, (state, seconds) in self._states.items():
            mark = Text("✔", style="green") if state == "ready" else self._spinner
            word = Text(state, style="green" if state == "ready" else "cyan")
            said = Text(self._said(part, state, seconds), style="dim", overflow="fold")
            table.add_row(mark, part, word, f"{seconds:5.1f} s", said)
        return table

    def _said(self, part: str, state: State, seconds: float) -> str:
        """Gives the last line of a part that takes long to start, since it may wait for something; else ""."""
        if state == "ready" or seconds < _PATIENCE_S:
            return ""
        return "".join(last_lines(self._stack.log_tail(part), 1))


def start(stack: LocalStack, console: Console) -> None:
    """Starts a stack and shows how it gets on."""
    with StackProgress(console, stack) as progress:
        stack.start(progress)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Lets SIGTERM and a closed terminal end the block as Ctrl-C does, by KeyboardInterrupt."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
