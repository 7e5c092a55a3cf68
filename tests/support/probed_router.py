"""A router whose event loop is timed: `python -m tests.support.probed_router` with the router's own flags.

Each time that the loop was held for longer than a few milliseconds, a line goes to the file that RSTITCH_PROBE names:
when (monotonic), how long by the clock, and how much of that the loop's own thread computed. The clock also has what
other programs took of the machine; the thread's own time has not.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from router_svc import main

_EVERY_S = 0.002
_LEAST_S = 0.005


async def _probe(path: str) -> None:
    with open(path, "a", buffering=1) as file:  # noqa: ASYNC230 - a few lines
        clock, own = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(_EVERY_S)
            now, own_now = time.monotonic(), time.thread_time()
            if now - clock - _EVERY_S > _LEAST_S:
                file.write(f"{now:.4f} {now - clock - _EVERY_S:.4f} {own_now - own:.4f}\n")
            clock, own = now, own_now


def _probed() -> None:
    serve = main._serve

    async def probed(*args: Any) -> None:
        probing = asyncio.create_task(_probe(os.environ["RSTITCH_PROBE"]))
        try:
            await serve(*args)
        finally:
            probing.cancel()

    main._serve = probed
    main.main()


if __name__ == "__main__":
    _probed()
