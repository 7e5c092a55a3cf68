"""A worker as a process of its own, with the model that a test chose."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from rstitch.local.processes import Process, free_port
from tests.support.forked import spawn_forked


@contextlib.asynccontextmanager
async def worker_process(model_folder: Path, log: Path, *flags: str) -> AsyncIterator[tuple[Process, grpc.aio.Channel]]:
    """A worker's process that is ready, and a channel to it."""
    port = free_port()
    # fmt: off
    command = [sys.executable, "-m", "slm_worker", "--model", str(model_folder), "--dtype", "float64",
               "--listen", f"127.0.0.1:{port}", "--threads", "1", "--measure-ms", "0", *flags]
    # fmt: on
    with log.open("wb") as file:
        process = spawn_forked(command, os.environ | {"PYTHONUNBUFFERED": "1"}, file)
    try:
        await asyncio.to_thread(wait_until_ready, process, log)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield process, channel
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(process: Process, log: Path) -> None:
    while b'"ready"' not in log.read_bytes():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
