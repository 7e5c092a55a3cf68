"""What an answer waits for, said where nothing comes for a while: silence looks like a fault. It changes no answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from rstitch.client.sync import Client
from rstitch.client.types import Event
from rstitch.errors import RstitchError

_AFTER_S = 4.0
_LOOK_S = 1.0
_STATUS_TIMEOUT_S = 1.0


class Waiting:
    """Asks the router what it waits for while an answer's events do not come; a context manager around them.

    Each thing that is waited for is one line on `console`, once.
    """

    def __init__(self, client: Client, console: Console) -> None:
        self._client = client
        self._console = console
        self._last = time.monotonic()
        self._told = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="waiting")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def heard(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yields the events, and notes when each came."""
        for event in events:
            self._last = time.monotonic()
            yield event
            self._last = time.monotonic()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_S):
            if time.monotonic() - self._last < _AFTER_S:
                self._told = ""
                continue
            why = self._why()
            if why != self._told and not self._over.is_set():
                self._told = why
                # Amid the text of the answer, which has no line end there.
                self._console.print(Text(f"\n… {why}", style="yellow"), soft_wrap=True)

    def _why(self) -> str:
        try:
            status = self._client.status(timeout_s=_STATUS_TIMEOUT_S)
        except RstitchError as error:
            return f"waiting for the router: {error.message}"
        # What the wire says behind the first semicolon is for its makers.
        away = [
            f"the {worker.role.upper()} worker ({worker.detail.partition(';')[0]})"
            for worker in status.workers
            if not worker.ready
        ]
        if away:
            return f"waiting for {' and '.join(away)}; it goes on by itself once it is back"
        if not status.ready:
            return f"waiting: {status.detail}"
        return f"waiting for a token; router and workers are ready, {status.num_running} answers are being written"
