"""The gateway's server: says when it is ready, and on a signal drains and lets the process end well.

uvicorn ends by the signal once more, which whoever supervises it takes for a failure.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from types import FrameType
from typing import Any

import structlog
import uvicorn

from rstitch.service.ending import Ending

_log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT; what is still being answered after the grace, or at a second one, is cut off.

    Whoever is cut off has left, as far as the answers know: they end as they do then.
    """

    def __init__(self, config: uvicorn.Config, ending: Ending, grace_s: float) -> None:
        super().__init__(config)
        self._ending = ending
        self._grace_s = grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _log.info("ready", address=f"{self.config.host}:{self.config.port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting = asyncio.get_running_loop().call_later(self._grace_s, self._cut_off)
        await super().shutdown(sockets)
        cutting.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._cut_off()
            return
        self.should_exit = True
        self._ending.begin(self._grace_s)
        _log.info("draining", signal=signal.Signals(sig).name, grace_s=self._grace_s)

    def _cut_off(self) -> None:
        connections: set[Any] = set(self.server_state.connections)
        for each in connections:
            each.transport.abort()
