"""A gateway in this process, on a real port: whole but for the process of its own, and so started in no time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gateway.main import serving
from gateway.server import Server
from gateway.settings import GatewaySettings
from rstitch.local.processes import free_port
from rstitch.service.ending import Ending
from tests.support.gateways import until


@contextmanager
def gateway(router: str, **settings: Any) -> Iterator[str]:
    """The address of a gateway in front of a router, as http://HOST:PORT."""
    listen = f"127.0.0.1:{free_port()}"
    chosen = GatewaySettings(http_listen=listen, router=router, **settings)
    made: list[Server] = []

    async def serve() -> None:
        async with serving(chosen, Ending()) as (_, server):
            made.append(server)
            await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        until(lambda: bool(made) and made[0].started)
        yield f"http://{listen}"
    finally:
        made[0].should_exit = True
        thread.join(30)
        assert not thread.is_alive()
