"""The processes of the ranks beside rank 0, as that one sees them: started, watched, ended.

They end with this process, however that ends: each reads a pipe whose other end nobody else has, and the kernel closes
it. If one of them ends by itself, the worker is of no use any more, and is told. It knows no model and no step.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
import torch

from model_worker.dividing import settings_of_rank
from model_worker.engine.errors import RanksLost
from model_worker.engine.ranks.group import TorchRanks
from model_worker.settings import WorkerSettings

_log = structlog.get_logger(__name__)
OnFatal = Callable[[BaseException], None]
# At the start all ranks meet the same refusal: this one is to say it, too, before it ends because another has.
_TO_SAY_WHY_S = 5.0
_TO_END_S = 10.0


def start_ranks(name: str, settings: WorkerSettings, on_fatal: OnFatal) -> RankProcesses:
    """Starts the other ranks of a worker and waits until all have met; `on_fatal` is called on the running loop."""
    loop = asyncio.get_running_loop()

    def on_lost(error: BaseException) -> None:
        loop.call_soon_threadsafe(on_fatal, error)

    return RankProcesses(name, settings, on_lost)


class RankProcesses:
    """The ranks from 1 on, which run as children of this process, and the group that they make with it.

    `on_lost` is called, in a thread, when one of them has ended by itself. Until `serve` this process is ended instead:
    it may be waiting for that rank, and nobody waits for it yet.
    """

    def __init__(self, name: str, settings: WorkerSettings, on_lost: OnFatal) -> None:
        self._on_lost = on_lost
        self._is_serving = False
        self._is_ending = False
        self._told = threading.Event()  # the log says which rank is lost
        self._folder = tempfile.TemporaryDirectory(prefix="rstitch-ranks-")
        meeting = Path(self._folder.name) / "meeting"
        self._children = [
            _start(settings_of_rank(settings, rank), {"name": name, "rank": rank, "meeting": str(meeting)})
            for rank in range(1, settings.tp)
        ]
        for rank, child in enumerate(self._children, start=1):
            threading.Thread(target=self._watch, args=(rank, child), name=f"rank {rank}", daemon=True).start()
        _log.info("ranks started", count=settings.tp)
        # Also where the start is refused; gloo looks for the folder's file at the interpreter's end, for ten seconds.
        atexit.register(self.end)
        self.group: TorchRanks | None = None  # until all have met
        self.group = TorchRanks(0, settings.tp, torch.device(settings.device), meeting)

    def serve(self) -> None:
        """Says that the start is over."""
        self._is_serving = True

    def explained(self, on_fatal: OnFatal) -> OnFatal:
        """Returns what calls `on_fatal` once the log says which rank is lost, where it is that what was fatal."""

        def call(error: BaseException) -> None:
            if isinstance(error, RanksLost):
                self._told.wait(_TO_SAY_WHY_S)
            on_fatal(error)

        return call

    def end(self) -> None:
        """Ends all ranks, if that is not done; rank 0 must not compute any more."""
        if self._is_ending:
            return
        self._is_ending = True
        atexit.unregister(self.end)
        for child in self._children:
            assert child.stdin is not None
            child.stdin.close()
        for child in self._children:
            try:
                child.wait(_TO_END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self.group is not None:
            self.group.leave()
        self._folder.cleanup()

    def _watch(self, rank: int, child: subprocess.Popen[str]) -> None:
        code = child.wait()
        if self._is_ending:
            return
        _log.error("a rank ended, so this worker ends", rank=rank, exit_code=code)
        self._told.set()
        if self._is_serving:
            self._on_lost(RanksLost(f"rank {rank} ended with exit code {code}"))
            return
        threading.Event().wait(_TO_SAY_WHY_S)
        os._exit(1)


def _start(settings: WorkerSettings, told: dict[str, object]) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-m", "model_worker.rank"], stdin=subprocess.PIPE, text=True)
    assert child.stdin is not None
    child.stdin.write(json.dumps(told | {"settings": settings.model_dump(mode="json")}) + "\n")
    child.stdin.flush()
    return child
