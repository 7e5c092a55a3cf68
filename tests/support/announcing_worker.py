"""A worker without a model: it listens, and announces itself with the load that a file beside says, until SIGTERM.

    python -m tests.support.announcing_worker --listen HOST:PORT --drain-grace-s 5 --role slm [--load FILE]

The file is JSON: numbers of an announcement that differ, such as {"num_waiting": 3}; a run that is under way keeps it
from ending on SIGTERM until the file says that there is none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleet.announcement import Announcement
from fleet.registry import Registry
from rstitch.errors import RstitchError
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink

_BEAT_S = 0.2


async def _serve(options: argparse.Namespace) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    host, _, port = options.listen.rpartition(":")
    await asyncio.start_server(lambda reader, writer: writer.close(), host, int(port))
    link = RedisLink(RedisAddress(os.environ["RSTITCH_REDIS"]), patience_s=0)
    registry = Registry(link, os.environ["RSTITCH_FLEET"])
    worker = Announcement(
        id=os.environ["RSTITCH_WORKER_ID"],
        role=options.role,
        address=options.listen,
        instance_id=uuid.uuid4().hex,
        weights_fingerprint="w",
        tokenizer_fingerprint="t",
        model=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        version="0",
        num_pages=100,
        num_free_pages=100,
        num_running=0,
        num_waiting=0,
        num_sessions=0,
        draining=False,
    )
    while True:
        now = replace(worker, **_load(options.load), draining=ended.is_set())
        if now.draining and not now.num_running:
            await registry.withdraw(now)
            return
        with suppress(RstitchError):  # one before it may have been killed a moment ago
            await registry.beat(now)
        await asyncio.sleep(_BEAT_S)


def _load(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    load: dict[str, Any] = json.loads(path.read_text())
    return load


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--drain-grace-s", type=float)
    parser.add_argument("--role", required=True)
    parser.add_argument("--load", type=Path)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
