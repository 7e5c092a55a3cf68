"""Clients that ask a router for one answer after another: `python -m evals.bench.toy_readers ADDRESS ...`.

A process of its own for each router, so that what reads is neither the router nor the one who measures. It asks from
its start on, and prints as JSON what came between two moments of `time.monotonic`, which one machine's processes have
in common.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

from evals.bench.toy_worker import TAU
from rstitch.client.aio import AsyncClient
from rstitch.client.events import Chunk, Finished, Switch
from rstitch.client.policies import Threshold


@dataclass(slots=True)
class Count:
    """What came to all streams while it counted."""

    tokens: int = 0
    chunks: int = 0
    switches: int = 0
    answers: int = 0


async def read(client: AsyncClient, max_new_tokens: int, window: tuple[float, float], count: Count) -> None:
    """One stream: asks until it is cancelled."""
    begin, end = window
    policy = Threshold(TAU)
    while True:
        async for event in client.generate("Add it up: ", policy=policy, max_new_tokens=max_new_tokens, guard=False):
            if not begin <= time.monotonic() < end:
                continue
            if isinstance(event, Chunk):
                count.tokens += len(event.tokens)
                count.chunks += 1
            elif isinstance(event, Switch):
                count.switches += 1
            elif isinstance(event, Finished):
                count.answers += 1


async def readers(address: str, num: int, max_new_tokens: int, window: tuple[float, float]) -> Count:
    """So many streams until the window is over."""
    count = Count()
    async with AsyncClient(address) as client:
        with suppress(TimeoutError):
            async with asyncio.timeout(window[1] - time.monotonic()), asyncio.TaskGroup() as group:
                for _ in range(num):
                    group.create_task(read(client, max_new_tokens, window, count))
    return count


def main() -> None:
    """Reads, then prints what came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--begin", type=float, required=True)
    parser.add_argument("--end", type=float, required=True)
    given = parser.parse_args()
    window = (given.begin, given.end)
    print(json.dumps(asdict(asyncio.run(readers(given.address, given.streams, given.max_new_tokens, window)))))


if __name__ == "__main__":
    main()
