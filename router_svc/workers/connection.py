"""The connection to a worker, made anew where its certificates are renewed on disk. It knows no call."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from rstitch.credentials import Credentials
from rstitch.errors import RstitchError
from rstitch.service.telemetry import Telemetry

_log = structlog.get_logger(__name__)
# So long may answers still run over a connection that another has taken the place of.
_GRACE_S = 86_400.0


class Connection:
    """A channel to a worker. Raises: RstitchError naming the flag of a file that does not load."""

    def __init__(self, address: str, credentials: Credentials, telemetry: Telemetry) -> None:
        self.address = address
        self._credentials = credentials
        self._telemetry = telemetry
        self._files = credentials.files()
        self._channel = credentials.aio_channel(address, telemetry.client_interceptors(), self._files.read())
        self._leaving: dict[asyncio.Task[None], Any] = {}

    @property
    def is_traced(self) -> bool:
        """Whether its calls become spans."""
        return self._telemetry.enabled

    @property
    def channel(self) -> Any:
        """Gives the channel with the newest certificates; calls in flight go on over the one before."""
        try:
            pem = self._files.renewed()
        except RstitchError as error:
            _log.error("certificates for the worker not renewed: the last good ones stay", error=str(error))
            return self._channel
        if pem is not None:
            _log.info("certificates for the worker renewed", address=self.address)
            old = self._channel
            interceptors = self._telemetry.client_interceptors()
            self._channel = self._credentials.aio_channel(self.address, interceptors, pem)
            leaving = asyncio.create_task(old.close(_GRACE_S), name="close-old-connection")
            self._leaving[leaving] = old
            leaving.add_done_callback(lambda task: self._leaving.pop(task, None))
        return self._channel

    async def close(self, grace_s: float | None = None) -> None:
        """Closes all of it; calls in flight are cancelled, those on the newest channel after `grace_s`."""
        leaving = dict(self._leaving)
        for task in leaving:
            task.cancel()
        if leaving:
            await asyncio.wait(leaving)
        for channel in leaving.values():
            await channel.close()
        await self._channel.close(grace_s)
