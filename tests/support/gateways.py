"""Gateways as processes of their own, in front of a real router or a scripted one."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from rstitch.local.gateway import answers, command
from rstitch.local.lock import Lock
from rstitch.local.options import GatewayOptions
from rstitch.local.processes import ChildProcess, free_port
from rstitch.local.reaper import Reaper

QUESTION = "There are 12 boxes with 7 pens each. How many pens are there?"


@contextmanager
def started(router: str, folder: Path, *args: str, ca: str = "") -> Iterator[httpx2.Client]:
    """A client of a gateway with further flags, which trusts `ca`; its log is gateway.log in the folder."""
    with process(router, folder, *args, ca=ca) as (_, client):
        yield client


@contextmanager
def process(router: str, folder: Path, *args: str, ca: str = "") -> Iterator[tuple[ChildProcess, httpx2.Client]]:
    """A gateway as `started` has it, together with its process, for tests that end it."""
    reaper = Reaper()
    listen = f"127.0.0.1:{free_port()}"
    if "--http-listen" in args:
        listen = f"127.0.0.1:{args[args.index('--http-listen') + 1].rpartition(':')[2]}"
    line = command(GatewayOptions(args=args), listen, router, None)
    made = ChildProcess("gateway", line, {"PYTHONUNBUFFERED": "1"}, folder / "gateway.log", reaper)
    made.start()
    try:
        ends = time.monotonic() + 60
        while not answers(listen, Lock(Path(ca).parent) if ca else None, 1.0):
            assert made.exit_code is None, made.log_tail()
            assert time.monotonic() < ends, made.log_tail()
            time.sleep(0.05)
        trusted = ssl.create_default_context(cafile=ca) if ca else True
        scheme = "https" if ca else "http"
        with httpx2.Client(base_url=f"{scheme}://{listen}", timeout=60, verify=trusted) as client:
            yield made, client
    finally:
        made.terminate()
        made.wait_or_kill(10)
        reaper.close()


def chat(**more: Any) -> dict[str, Any]:
    """The body of a chat with one question."""
    return {"model": "rstitch", "messages": [{"role": "user", "content": QUESTION}], **more}


def events_of(response: httpx2.Response) -> list[Any]:
    """What a stream of server-sent events says, each as JSON but for the end."""
    found: list[Any] = []
    for block in response.text.split("\n\n"):
        if block and not block.startswith(":"):
            *id_, line = block.split("\n")
            assert line.startswith("data: "), block
            assert not id_ or (len(id_) == 1 and id_[0].startswith("id: ")), block
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


def until(holds: Callable[[], bool]) -> None:
    """Waits for what others bring about, but not forever."""
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)
