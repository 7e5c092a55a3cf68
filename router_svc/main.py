"""The process of the router: settings, connections, server, and what it waits for until it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable

import structlog
from pydantic import ValidationError
from pydantic_settings import CliApp

from fleet.registry import Registry
from router_svc.access.cached_keys import CachedKeys
from router_svc.access.key_source import key_source
from router_svc.access.quotas import Quotas
from router_svc.answers.sessions import Sessions
from router_svc.api.profiles import Profiles
from router_svc.api.service import RouterService
from router_svc.observers.fleet_metrics import FleetMetrics
from router_svc.observers.observer import Observers
from router_svc.policies.heads import Heads
from router_svc.policies.stored_heads import StoredHeads
from router_svc.settings import RouterSettings
from router_svc.trajectory.head_store import HeadStore
from router_svc.trajectory.lease import Lease
from router_svc.trajectory.store import TrajectoryStore
from router_svc.trajectory.types import Model
from router_svc.workers.making import make_fleet
from router_svc.workers.runs import WorkerInfo
from router_svc.workers.streams import DecodeStream, OpenStream
from rstitch.backoff import Backoff
from rstitch.errors import RstitchError
from rstitch.service import semconv
from rstitch.service.access import AccessInterceptor
from rstitch.service.ending import Ending
from rstitch.service.expiry import measure_expiry
from rstitch.service.exposure import check_exposure
from rstitch.service.logs import setup_logging
from rstitch.service.memory import return_large_blocks, settle_collector
from rstitch.service.metrics import NO_METRICS, Metrics
from rstitch.service.refused_calls import RefusedCalls
from rstitch.service.server import Server
from rstitch.service.settings import explain
from rstitch.service.telemetry import Telemetry, setup_telemetry
from rstitch.service.wakeups import GrpcLoop
from rstitch.v1 import router_pb2, router_pb2_grpc
from storage.confirming import Confirming
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink

_log = structlog.get_logger(__name__)
# What is left of calls whose callers are gone gets so long before the connections close.
_CLOSE_PATIENCE_S = 2.0
_SERVICE = router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name


def main(stream: OpenStream = DecodeStream) -> None:
    """Runs the router until SIGTERM or SIGINT; the entry point of `python -m router_svc`."""
    try:
        settings = CliApp.run(RouterSettings)
    except ValidationError as error:
        sys.exit(explain("router", error))
    setup_logging("router", settings.log_level)
    ending = Ending(ends_process=True)
    return_large_blocks()
    settle_collector()
    try:
        with asyncio.Runner(loop_factory=GrpcLoop) as runner:
            runner.run(_serve(settings, stream, ending))
    except RstitchError as error:
        _log.error("cannot start", error=str(error))
        sys.exit(1)
    ending.leave()


class Router:
    """A router that serves, ready or not; `running` makes it.

    Attributes:
        port: the port that it listens on, once started.
        ready: set once it takes questions.
        keys: those that callers show; None: nobody is asked for one.
        attending: the task of `attend`, which ends only by a bug of ours.
    """

    def __init__(self, settings: RouterSettings, observers: Observers, stream: OpenStream = DecodeStream) -> None:
        self._settings = settings
        redis = RedisAddress.of(settings.redis, settings)
        tls, credentials = settings.server_tls(), settings.worker_credentials()
        self.keys = key_source(settings.keys, redis)
        check_exposure(
            settings.listen,
            has_keys=self.keys is not None,
            has_tls=tls is not None,
            has_client_ca=False,  # a certificate names no tenant
            insecure=settings.insecure,
        )
        credentials.files().read()  # later there are only logs to say what is wrong with them
        patience_s, metrics = settings.redis_patience_s, observers.metrics
        self._registry_link = RedisLink(redis, 0)
        self.fleet = make_fleet(
            settings, Registry(self._registry_link, settings.fleet), credentials, observers.telemetry, stream
        )
        confirming = Confirming.parse(settings.redis_wait)
        keeps = {"ttl_s": settings.ttl_s, "patience_s": patience_s}
        self.store = TrajectoryStore(redis, **keeps, metrics=metrics, confirming=confirming)
        self.lease = Lease(self.store, settings.lease_s)
        self.heads = self._make_heads(redis)
        times = {"lease_s": settings.lease_s, "ttl_s": settings.ttl_s}
        self.quotas = Quotas(RedisLink(redis, patience_s), self.lease.router_id, **times, metrics=metrics)
        self.sessions = Sessions(settings, self.fleet, self.store, self.lease, self.heads, observers, self.quotas)
        self.profiles = Profiles(redis, settings.redis_patience_s, settings.tau)
        self.service = RouterService(settings, self.fleet, self.sessions, self.lease, self.profiles, self.heads)
        access = AccessInterceptor(self.keys, audited=settings.audit) if self.keys is not None else None
        self.server = Server(
            settings.listen,
            service_names=[_SERVICE],
            telemetry=observers.telemetry,
            access=access,
            tls=tls,
            refused_calls=RefusedCalls(metrics),
        )
        self._measure(metrics)
        router_pb2_grpc.add_RouterServiceServicer_to_server(self.service, self.server.grpc)
        self.port = 0
        self.ready = asyncio.Event()
        self.attending: asyncio.Task[None] | None = None

    def _measure(self, metrics: Metrics) -> None:
        """Adds what is known of this router whether it writes answers or not."""
        FleetMetrics(metrics, self.fleet)
        settings, gauge = self._settings, metrics.gauge_of
        what = "Whether the router takes questions, as its health says: 1 or 0."
        gauge(semconv.METRIC_READY, "{router}", what, lambda: [(int(self.server.is_serving), {})])
        what = "Whether the worker of a model answers: 1 or 0."
        gauge(
            semconv.METRIC_CONNECTED,
            "{worker}",
            what,
            lambda: [(int(self.fleet.status(model)[0]), {semconv.RSTITCH_MODEL: model.label}) for model in Model],
        )
        gauge(semconv.METRIC_TAU, "{entropy}", "tau where a request names none.", lambda: [(settings.tau, {})])
        files = ("tls_cert", "tls_client_ca", "worker_tls_cert", "worker_tls_ca", "redis_cert", "redis_ca")
        measure_expiry(metrics, {name: getattr(settings, name) for name in files})

    def _make_heads(self, redis: RedisAddress) -> StoredHeads:
        def slm() -> WorkerInfo | None:
            return self.fleet.info(Model.SLM)

        settings = self._settings
        files = Heads(settings.heads, slm, settings.heads_from_hub)
        return StoredHeads(HeadStore(redis, settings.redis_patience_s), files, slm)

    async def start(self) -> None:
        """Binds the port. The server says NOT_SERVING until `attend` has found all that the router needs."""
        self.service.detail = f"waiting for redis at {RedisAddress.of(self._settings.redis, self._settings).shown}"
        self.port = await self.server.start()

    async def attend(self) -> None:
        """Waits for Redis and the workers, then keeps health and lease as they should be until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.fleet.monitor())
            # Workers are waited for meanwhile; what follows needs Redis.
            await self._wait_for_redis()
            if isinstance(self.keys, CachedKeys):
                await self.keys.refresh()  # whoever is told that it serves is let in
                group.create_task(self.keys.keep())
            group.create_task(self.lease.keep(self._after_renewal))
            group.create_task(self._tell_health())

    async def _wait_for_redis(self) -> None:
        backoff = Backoff(first_s=0.1, max_s=2.0, patience_s=None)
        while True:
            try:
                await self.lease.renew()
            except RstitchError as error:
                _log.warning("waiting for redis", error=str(error))
                await asyncio.sleep(backoff.next_s() or 0)
            else:
                self.service.detail = ""
                return

    async def _after_renewal(self) -> None:
        await self.quotas.renew()
        await self.sessions.tidy()

    async def _tell_health(self) -> None:
        """Says SERVING while the pair is sound. An answer waits itself for a worker that is away for a while."""
        while True:
            await self.fleet.wait_ready()
            await self.server.set_serving(True)
            if not self.ready.is_set():
                host = self._settings.listen.rpartition(":")[0]
                _log.info("ready", address=f"{host}:{self.port}", slm=self._settings.slm, llm=self._settings.llm)
                self.ready.set()
            while self.fleet.ready:
                await self.fleet.wait_change()
            await self.server.set_serving(False)
            _log.error("not ready", detail=self.fleet.detail)

    async def close(self) -> None:
        """Closes the connections to workers and Redis; no answer may be running any more, and no call."""
        await self.sessions.under_way.end_calls(_CLOSE_PATIENCE_S)  # of deletions, which are taken during a drain, too
        await self.fleet.close()
        await self._registry_link.close()
        await self.profiles.close()
        await self.heads.close()
        await self.quotas.close()
        await self.store.close()
        if isinstance(self.keys, CachedKeys):
            await self.keys.close()


@contextlib.asynccontextmanager
async def running(
    settings: RouterSettings,
    telemetry: Telemetry,
    clock: Callable[[], float] = time.monotonic,
    metrics: Metrics = NO_METRICS,
    stream: OpenStream = DecodeStream,
) -> AsyncIterator[Router]:
    """Runs a router that listens and attends to its readiness. The caller drains it before leaving the context."""
    router = Router(settings, Observers(telemetry, metrics, clock), stream)
    await router.start()
    router.attending = attending = asyncio.create_task(router.attend(), name="attend")
    try:
        yield router
    finally:
        attending.cancel()
        await asyncio.wait({attending})
        await router.close()
        if not attending.cancelled() and (error := attending.exception()) is not None:
            raise error


async def _serve(settings: RouterSettings, stream: OpenStream, ending: Ending) -> None:
    telemetry = setup_telemetry("rstitch-router", settings.otlp_endpoint)
    metrics = settings.make_metrics("rstitch-router", insecure=settings.insecure)
    try:
        async with running(settings, telemetry, metrics=metrics, stream=stream) as router:
            assert router.attending is not None

            async def drain() -> None:
                ending.begin(settings.drain_grace_s)
                await router.sessions.drain()

            drained = router.server.serve_until_signal(settings.drain_grace_s, drain)
            serving = asyncio.create_task(drained, name="serve")
            await asyncio.wait({serving, router.attending}, return_when=asyncio.FIRST_COMPLETED)
            # Without lease and workers' state it must not go on: others may take its sessions over. `running` raises
            # the error.
            if not serving.done():
                _log.error("cannot go on", error=repr(router.attending.exception()))
                signal.raise_signal(signal.SIGTERM)
            await serving
    finally:
        await ending.send(telemetry, metrics)
