"""The gateway's server: says when it is ready, and on a signal drains and lets the process end well.

uvicorn ends by the signal once more, which whoever supervises it takes for a failure.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from gateway.connection import LINGER_S
from rstitch.service.ending import Ending

_log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT; what is still being answered after the grace, or at a second one, is cut off.

    Whoever is cut off has left, as far as the answers know: they end as they do then. Over TLS a connection that has
    not shaken hands within `handshake_s` is closed; uvicorn knows no such bound.
    """

    def __init__(self, config: uvicorn.Config, ending: Ending, *, grace_s: float, handshake_s: float) -> None:
        super().__init__(config)
        self._ending = ending
        self._grace_s = grace_s
        self._handshake_s = handshake_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens by itself where uvicorn would, which passes no bounds of TLS on."""
        await self.lifespan.startup()
        config = self.config
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        made: Callable[..., asyncio.Protocol] = config.http_protocol_class
        protocol = functools.partial(made, config=config, server_state=self.server_state, app_state=self.lifespan.state)
        bounds: dict[str, Any] = {}
        if config.ssl is not None:
            bounds = {
                "ssl": config.ssl,
                "ssl_handshake_timeout": self._handshake_s,
                "ssl_shutdown_timeout": LINGER_S,
            }
        try:
            listening = await asyncio.get_running_loop().create_server(
                protocol, config.host, config.port, backlog=config.backlog, **bounds
            )
        except OSError as error:
            _log.error("cannot listen", error=str(error))
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        self.servers = [listening]
        self.started = True
        _log.info("ready", address=f"{config.host}:{config.port}")

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
