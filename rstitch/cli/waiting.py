"""What an answer waits for, said where nothing comes for a while: silence looks like a fault. It changes no answer.

The events are read by a thread, and handed to the one that Ctrl-C interrupts: that may happen anywhere, and amid the
start of a call it would leave the channel locked.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.text import Text

from rstitch.client.sync import Client
from rstitch.client.types import Event
from rstitch.errors import RstitchError

# Silence of that long is looked into, and said if something is away; if nothing is, only after a longer one.
_AWAY_AFTER_S = 1.0
_AFTER_S = 4.0
_LOOK_S = 0.5
_STATUS_TIMEOUT_S = 1.0

# An event, the error that ended them, or None at their end.
_Item = Event | Exception | None


def heard(events: Iterable[Event], client: Client, console: Console) -> Iterator[Event]:
    """Yields the events; while none comes, asks the router what it waits for, and says each thing on `console` once."""
    arrived: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    # It ends with the channel, of which nobody waits for the end.
    threading.Thread(target=_read, args=(events, arrived), name="events", daemon=True).start()
    last, told = time.monotonic(), ""
    while True:
        try:
            item = arrived.get(timeout=_LOOK_S)
        except queue.Empty:
            silent_s = time.monotonic() - last
            if silent_s < _AWAY_AFTER_S:
                continue
            why, is_away = _why(client)
            if why != told and (is_away or silent_s >= _AFTER_S):
                told = why
                # Amid the text of the answer, which has no line end there.
                console.print(Text(f"\n… {why}", style="yellow"), soft_wrap=True)
            continue
        if item is None:
            return
        if isinstance(item, Exception):
            raise item
        yield item
        last, told = time.monotonic(), ""


def _read(events: Iterable[Event], arrived: queue.SimpleQueue[_Item]) -> None:
    try:
        for event in events:
            arrived.put(event)
    except Exception as error:  # noqa: BLE001 - whatever it is, who waits for the events raises it
        arrived.put(error)
    else:
        arrived.put(None)


def _why(client: Client) -> tuple[str, bool]:
    """Says what is waited for, and whether that is a part which is away."""
    try:
        status = client.status(timeout_s=_STATUS_TIMEOUT_S)
    except RstitchError as error:
        return f"waiting for the router: {error.message}", True
    # What the wire says behind the first semicolon is for its makers.
    away = [
        f"the {worker.role.upper()} worker ({worker.detail.partition(';')[0]})"
        for worker in status.workers
        if worker.detail or not worker.ready
    ]
    if away:
        return f"waiting for {' and '.join(away)}; it goes on by itself once it is back", True
    if not status.ready:
        return f"waiting: {status.detail}", True
    return f"waiting for a token; router and workers are ready, {status.num_running} answers are being written", False
