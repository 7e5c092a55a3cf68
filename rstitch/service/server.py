"""A gRPC server as every rstitch service runs it: health, reflection, keepalive, TLS, typed errors, traces,
graceful drain.

It does not know which services are added to it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rstitch.channels import MAX_MESSAGE_BYTES, server_options
from rstitch.errors import RstitchError
from rstitch.service.access import AccessInterceptor
from rstitch.service.interceptors import ErrorInterceptor, ParsingInterceptor
from rstitch.service.refused_calls import RefusedCalls
from rstitch.service.telemetry import Telemetry
from rstitch.service.tls import ServerTls

_log = structlog.get_logger(__name__)
# So long the calls have to end that nobody waits for.
REST_S = 0.25
# The service of which health says SERVING as long as this process answers at all, whether it takes work or not.
LIVE = "live"


class Server:
    """Serves what is added to it, and says NOT_SERVING until told otherwise."""

    def __init__(
        self,
        listen: str,  # HOST:PORT; port 0 picks a free one
        *,
        service_names: Sequence[str],  # full, such as `rstitch.v1.RouterService`, for health and reflection
        telemetry: Telemetry,
        access: AccessInterceptor | None = None,  # None: everybody may call everything
        max_message_bytes: int = MAX_MESSAGE_BYTES,  # larger requests are refused with reason MESSAGE_TOO_LARGE
        tls: ServerTls | None = None,
        refused_calls: RefusedCalls | None = None,
    ) -> None:
        self._listen = listen
        self._service_names = tuple(service_names)
        self.telemetry = telemetry  # whoever stops the server sends the rest of it
        self.is_serving = False  # what its health says
        self._tls = tls
        # From the outside in: whom no certificate lets in is not heard; a span sees the final status; what access
        # or the parser refuses becomes one; access notes what the parser refuses.
        known, parsing = tls.interceptors() if tls else [], ParsingInterceptor(max_message_bytes)
        errors = ErrorInterceptor(refused_calls.count) if refused_calls is not None else ErrorInterceptor()
        interceptors = (*known, telemetry.server_interceptor(), errors, access, parsing)
        self.grpc: grpc.aio.Server = grpc.aio.server(
            interceptors=[each for each in interceptors if each is not None],
            options=server_options(max_message_bytes),
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        names = (*self._service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.grpc)

    async def start(self) -> int:
        """Binds and serves; the health says NOT_SERVING.

        Returns: the port. Raises: RstitchError (UNAVAILABLE, CANNOT_LISTEN) if the address cannot be had.
        """
        await self.set_serving(False)
        await self._health.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
        try:
            port = self._bind()
        except RuntimeError as error:
            raise RstitchError(
                grpc.StatusCode.UNAVAILABLE,
                "CANNOT_LISTEN",
                f"cannot listen on {self._listen}.",
                field="listen",
                remedy="Another process may have the port, or the host is not this machine's; choose another.",
            ) from error
        await self.grpc.start()
        return port

    def _bind(self) -> int:
        if self._tls is None:
            return int(self.grpc.add_insecure_port(self._listen))
        return int(self.grpc.add_secure_port(self._listen, self._tls.credentials()))

    async def set_serving(self, serving: bool) -> None:
        """Sets the health of the server and of each of its services."""
        self.is_serving = serving
        kinds = health_pb2.HealthCheckResponse
        for name in ("", *self._service_names):
            await self._health.set(name, kinds.SERVING if serving else kinds.NOT_SERVING)

    async def serve_until_signal(
        self,
        grace_s: float,
        on_drain: Callable[[], Awaitable[None]] | None = None,
        on_signal: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Serves until SIGTERM or SIGINT, then drains: NOT_SERVING, `on_drain`, calls in flight get `grace_s` to end.

        A second signal cuts all of that off. `on_drain` runs before the server refuses new calls. Until
        `on_signal` returns, which comes first, everything is served as before, for the grace at most. It knows which
        calls are waited for: others, such as streams that carry none at the moment, then have `REST_S`.
        """
        loop = asyncio.get_running_loop()
        drain, stop_now = asyncio.Event(), asyncio.Event()

        def told() -> None:
            (stop_now if drain.is_set() else drain).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told)
        try:
            await drain.wait()
            _log.info("draining", grace_s=grace_s)
            hurry = asyncio.create_task(stop_now.wait())
            if on_signal is not None:
                await _before(hurry, on_signal(), grace_s)
                grace_s = min(grace_s, REST_S)
            await self._end_serving()
            if on_drain is not None:
                await _before(hurry, on_drain())
            stopping = asyncio.create_task(self.grpc.stop(grace_s))
            await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                await self.grpc.stop(None)
            hurry.cancel()
            await stopping
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        _log.info("stopped")

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls and gives those in flight `grace_s` to end."""
        await self._end_serving()
        await self.grpc.stop(grace_s)

    async def _end_serving(self) -> None:
        self.is_serving = False
        await self._health.enter_graceful_shutdown()


async def _before(hurry: asyncio.Task[bool], work: Awaitable[None], patience_s: float | None = None) -> None:
    """Runs `work` to its end, but no longer than that, nor beyond a second signal."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task, hurry}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
