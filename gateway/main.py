"""The process of the gateway: settings, the way to the router, server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncIterator

import structlog
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import CliApp

from gateway.app import make_app
from gateway.connection import connections
from gateway.server import Server
from gateway.settings import GatewaySettings
from rstitch.client.aio import AsyncClient
from rstitch.errors import RstitchError
from rstitch.service.ending import Ending
from rstitch.service.logs import setup_logging
from rstitch.service.metrics import setup_metrics
from rstitch.service.settings import explain

_log = structlog.get_logger(__name__)


def main() -> None:
    """Runs the gateway until SIGTERM or SIGINT; the entry point of `python -m gateway`."""
    try:
        settings = CliApp.run(GatewaySettings)
    except ValidationError as error:
        sys.exit(explain("gateway", error))
    setup_logging("gateway", settings.log_level)
    try:
        settings.check()
        asyncio.run(_serve(settings))
    except RstitchError as error:
        _log.error("cannot start", error=str(error))
        sys.exit(1)


@contextlib.asynccontextmanager
async def serving(settings: GatewaySettings, ending: Ending) -> AsyncIterator[tuple[FastAPI, Server]]:
    """Makes the application and its server, which is not started yet."""
    host, _, port = settings.http_listen.rpartition(":")
    async with AsyncClient(settings.router, credentials=settings.credentials()) as client:
        app = make_app(settings, client, setup_metrics("rstitch-gateway", None, scraped=True))
        config = uvicorn.Config(
            app,
            host=host.strip("[]"),
            port=int(port),
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws="none",
            loop="asyncio",
            http=connections(settings.head_timeout_s),
            limit_concurrency=settings.max_connections,
            ssl_certfile=settings.http_tls_cert or None,
            ssl_keyfile=settings.http_tls_key or None,
        )
        yield app, Server(config, ending, grace_s=settings.drain_grace_s, handshake_s=settings.head_timeout_s)


async def _serve(settings: GatewaySettings) -> None:
    async with serving(settings, Ending(ends_process=True)) as (_, server):
        _log.info("gateway starts", listen=settings.http_listen, router=settings.router)
        gc.freeze()  # what lives as long as the process is not looked through again and again
        await server.serve()
    _log.info("stopped")
