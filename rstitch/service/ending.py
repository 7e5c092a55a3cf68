"""The end of a process within its time, whatever others do: who takes its spans may never answer.

From the signal on:

    calls in flight      their grace
    spans and metrics    4 s since the signal, all together, and at least 1 s
    whatever is left     5 s more than the grace, then the process ends without it
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

_log = structlog.get_logger(__name__)
SENDING_S = 4.0
_LEAST_SENDING_S = 1.0
_LAST_RESORT_S = 5.0


class Sender(Protocol):
    """Something that has the rest of what was recorded still to send."""

    def shutdown(self, timeout_s: float) -> bool:
        """Sends the rest, blocking, for at most `timeout_s`; returns whether it was done by then."""
        ...


class Ending:
    """How a service ends; `begin` is for the moment of the signal.

    Where it is the whole process that ends with the service, it is made to.
    """

    def __init__(self, *, ends_process: bool = False) -> None:
        self._ends_process = ends_process
        self._began = 0.0
        self._has_given_up = False

    def begin(self, grace_s: float) -> None:
        """Counts from now; a process that is still there when all its time is over is ended."""
        self._began = time.monotonic()
        if self._ends_process:
            last_resort = threading.Timer(grace_s + _LAST_RESORT_S, _end_now)
            last_resort.daemon = True
            last_resort.start()

    async def send(self, *senders: Sender) -> None:
        """Lets all send the rest at once, in the time that is left; what does not get through is lost."""
        left_s = max(_LEAST_SENDING_S, self._began + SENDING_S - time.monotonic()) if self._began else SENDING_S
        done = await asyncio.gather(*(asyncio.to_thread(sender.shutdown, left_s) for sender in senders))
        self._has_given_up = not all(done)

    def leave(self) -> None:
        """Ends the process now if a thread was given up: the interpreter's own end would trip over it."""
        if self._has_given_up and self._ends_process:
            _exit()


def done_within(timeout_s: float, work: Callable[[], object], what: str) -> bool:
    """Runs `work` in a thread that is given up after `timeout_s`; returns whether it has ended.

    An error in it counts as an end, and is logged as `what`.
    """
    done = threading.Event()

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever a library raises: the process is ending
            _log.warning(what, error=type(error).__name__)
        done.set()

    threading.Thread(target=run, name="ending", daemon=True).start()
    has_ended = done.wait(timeout_s)
    if not has_ended:
        _log.warning(what, error="no answer in time")
    return has_ended


def _end_now() -> None:
    _log.error("did not end in time, ending without what is left")
    _exit()


def _exit() -> None:
    # It was told to end and does: whoever supervises it need not start it again.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
