"""The process of a worker: model, engine, server, drain. A role decides its name and its defaults.

It reads no flags: `entry` has done so.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import structlog
import torch
import transformers

from model_worker.addresses import Advertised, worker_id
from model_worker.announcing import Announcer
from model_worker.build import build, make_batching
from model_worker.device_turns import DeviceTurns
from model_worker.dividing import check_division
from model_worker.draining import Draining
from model_worker.driver import EngineDriver
from model_worker.engine.errors import RanksLost, UnsupportedModel
from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.memory import weight_bytes
from model_worker.engine.shared_layers.engine import SharedEngine
from model_worker.grammars import Grammars
from model_worker.heads import HeadTable
from model_worker.infos import announcement, model_info, slm_info
from model_worker.metrics import WorkerMetrics
from model_worker.rank_processes import RankProcesses, start_ranks
from model_worker.role import Role
from model_worker.service import Card, WorkerService
from model_worker.settings import WorkerSettings
from model_worker.spare_cores import SpareCores
from model_worker.tokenizer import load_tokenizer
from rstitch.errors import RstitchError, invalid
from rstitch.service.access import AccessInterceptor
from rstitch.service.ending import Ending
from rstitch.service.expiry import measure_expiry
from rstitch.service.exposure import check_exposure
from rstitch.service.key_file import KeyFile
from rstitch.service.logs import setup_logging
from rstitch.service.metrics import Metrics
from rstitch.service.refused_calls import RefusedCalls
from rstitch.service.server import REST_S, Server
from rstitch.service.telemetry import setup_telemetry
from rstitch.v1 import common_pb2, worker_pb2, worker_pb2_grpc
from storage.redis_address import RedisAddress
from storage.redis_link import RedisLink

_log = structlog.get_logger(__name__)
_SERVICE = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
# Weights that no cache holds: smaller models' steps are over before more threads are awake.
_LARGE_BYTES = 32 << 20


def run(role: Role, settings: WorkerSettings, told: Sequence[str]) -> None:
    """Runs a worker until SIGTERM or SIGINT; its log begins with what there was to be `told` of its flags."""
    setup_logging(f"{role.name}-worker", settings.log_level)
    for sentence in told:
        _log.warning(sentence)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    ending = Ending(ends_process=True)
    try:
        asyncio.run(_serve(role, settings, ending))
    except (UnsupportedModel, RanksLost, RstitchError) as error:
        _log.error("cannot start", error=str(error))
        sys.exit(1)
    ending.leave()


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that serves, at `port`; with shared layers it has a second server, as the SLM."""

    servers: list[Server]
    port: int
    driver: EngineDriver
    metrics: Metrics
    drainings: list[Draining]  # one for each server
    announcer: Announcer | None  # None: no fleet hears of it
    ranks: RankProcesses | None = None  # the other ranks of a divided model

    async def drain(self) -> None:
        """Says that it takes no more sessions, for good, and returns once no call is open."""
        for draining in self.drainings:
            draining.begin(final=True)
        for draining in self.drainings:
            await draining.emptied()

    async def stop(self) -> None:
        """Ends calls in flight at once, then the engine's thread."""
        for server in self.servers:
            await server.stop(0)
        await self.end(Ending())

    async def end(self, ending: Ending) -> None:
        """Withdraws from the fleet, ends the engine's thread, and sends the last spans and metrics."""
        if self.announcer is not None:
            await self.announcer.stop()
        await self.driver.stop()
        if self.ranks is not None:
            await asyncio.to_thread(self.ranks.end)
        await ending.send(*(server.telemetry for server in self.servers), self.metrics)


async def start(role: Role, settings: WorkerSettings, on_fatal: Callable[[BaseException], None]) -> Worker:
    """Loads the model and serves it. Raises UnsupportedModel, or RstitchError if a setting cannot be met."""
    if settings.shared_listen:
        _refuse_with_shared_layers(role, settings)
    # What is wrong with these is said before a model is loaded.
    if settings.tp > 1:
        check_division(settings)
    tls = settings.server_tls()
    access = _access(settings)
    redis = RedisAddress.of(settings.redis, settings) if settings.redis else None
    reached = Advertised.of(settings.listen, settings.advertise, redis)
    link = RedisLink(redis, 0) if redis is not None else None
    metrics = settings.make_metrics(f"rstitch-{role.name}-worker", insecure=settings.insecure)
    turns = _turns(role, settings)
    tokenizer = load_tokenizer(settings.model)
    ranks = start_ranks(role.name, settings, on_fatal) if settings.tp > 1 else None
    alone = turns.alone() if turns is not None else nullcontext()
    loaded, engine = build(settings, tokenizer, alone, ranks.group if ranks is not None else None)
    batching, cores = make_batching(settings, engine), _cores(role, settings, loaded)
    on_fatal = on_fatal if ranks is None else ranks.explained(on_fatal)
    driver = EngineDriver(engine, on_fatal, settings.flush_ms / 1000, batching, turns, cores)
    measured, refused = WorkerMetrics(metrics, engine), RefusedCalls(metrics)
    measure_expiry(metrics, {"tls_cert": settings.tls_cert, "tls_client_ca": settings.tls_client_ca})
    files = worker_pb2.GetTokenizerResponse(
        data=tokenizer.data,
        chat_template=tokenizer.chat_template,
        named_templates=tokenizer.named_templates,
        special_tokens=tokenizer.special_tokens,
        early_exit=worker_pb2.ExitStyle(**asdict(tokenizer.early_exit)),
    )
    grammars = Grammars(tokenizer.data, engine.limits.vocab_size, loaded.stop_tokens)
    servers: list[Server] = []
    announcer = Announcer(link, settings.fleet, lambda: engine.capacity) if link is not None else None
    drainings: list[Draining] = []

    async def serve(name: str, address: str, info: worker_pb2.GetInfoResponse) -> int:
        telemetry = setup_telemetry(f"rstitch-{name}-worker", settings.otlp_endpoint)
        server = Server(
            address, service_names=[_SERVICE], telemetry=telemetry, access=access, tls=tls, refused_calls=refused
        )
        heads, shallow = HeadTable(info.hidden_size, info.tokenizer_fingerprint), info.role != role.model
        draining = Draining(announcer.hurry) if announcer is not None else Draining()
        tracer = telemetry.tracer
        service = WorkerService(driver, Card(info, files), heads, grammars, tracer, measured, draining, shallow)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(service, server.grpc)
        servers.append(server)
        drainings.append(draining)
        port = await server.start()
        reached_at = reached.beside(port) if shallow else reached.at(port)
        info.worker_id = worker_id(name, settings.worker_id, reached_at, is_other=shallow)
        if announcer is not None:
            announcer.add(announcement(name, info, reached_at), draining)
        return port

    info = model_info(role, settings, loaded, engine, tokenizer)
    port = await serve(role.name, settings.listen, info)
    if isinstance(engine, SharedEngine):
        await serve("slm", settings.shared_listen, slm_info(settings, info, engine))
    driver.start()
    for server in reversed(servers):
        await server.set_serving(True)
    if ranks is not None:
        ranks.serve()
    if announcer is not None:
        announcer.start()
    return Worker(servers, port, driver, metrics, drainings, announcer, ranks)


async def _serve(role: Role, settings: WorkerSettings, ending: Ending) -> None:
    def on_fatal(error: BaseException) -> None:
        """Without its engine this process cannot serve; whoever supervises it starts a new one."""
        _log.error("engine stopped", exc_info=error)
        os._exit(70)

    worker = await start(role, settings, on_fatal)
    address = f"{settings.listen.rpartition(':')[0]}:{worker.port}"
    _log.info("ready", address=address, model=settings.model, device=settings.device)
    server, *others = worker.servers
    async with asyncio.TaskGroup() as stopping:

        async def leave() -> None:
            ending.begin(settings.drain_grace_s)
            await worker.drain()

        async def stop_others() -> None:
            for other in others:
                stopping.create_task(other.stop(REST_S))

        serving = stopping.create_task(server.serve_until_signal(settings.drain_grace_s, stop_others, leave))
        beating = worker.announcer.beating if worker.announcer is not None else None
        await asyncio.wait({serving, beating or serving}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():  # the fleet will not have it; the reason is raised below
            signal.raise_signal(signal.SIGTERM)
    await worker.end(ending)
    if beating is not None and not beating.cancelled():
        beating.result()


def _access(settings: WorkerSettings) -> AccessInterceptor | None:
    """Returns what lets calls in, None if everybody may call. Raises RstitchError if it must not listen like that."""
    keys = KeyFile(Path(settings.keys_file), "--keys-file") if settings.keys_file else None
    for listen in filter(None, (settings.listen, settings.shared_listen)):
        check_exposure(
            listen,
            has_keys=keys is not None,
            has_tls=bool(settings.tls_cert),
            has_client_ca=bool(settings.tls_client_ca),
            insecure=settings.insecure,
        )
    return AccessInterceptor(keys, audited=settings.audit) if keys is not None else None


def _turns(role: Role, settings: WorkerSettings) -> DeviceTurns | None:
    if not settings.share_device:
        return None
    with _shared_file("--share-device"):
        return DeviceTurns(Path(settings.share_device), _side(role), settings.share_slm_steps)


def _cores(role: Role, settings: WorkerSettings, loaded: LoadedModel) -> SpareCores | None:
    """Returns what finds spare cores, None where there are none, they would not pay, or sums must have one order."""
    share, everything = settings.threads or torch.get_num_threads(), len(os.sched_getaffinity(0))
    num_bytes = weight_bytes(loaded.module)
    is_wanted = settings.share_cores and settings.device == "cpu" and not settings.batch_invariant and settings.tp == 1
    if not is_wanted or everything <= share or num_bytes < _LARGE_BYTES:
        return None
    with _shared_file("--share-cores"):
        return SpareCores(Path(settings.share_cores), _side(role), share, everything, torch.set_num_threads)


def _side(role: Role) -> Literal["slm", "llm"]:
    return "llm" if role.model == common_pb2.MODEL_LLM else "slm"


@contextmanager
def _shared_file(flag: str) -> Iterator[None]:
    """Raises RstitchError about `flag` where its file cannot be made."""
    try:
        yield
    except OSError as error:
        remedy = "Name a file in a folder that both workers may write to."
        raise invalid(flag, f"{error.filename}: {error.strerror}.", remedy) from error


def _refuse_with_shared_layers(role: Role, settings: WorkerSettings) -> None:
    """Raises RstitchError if a setting cannot be met by a model that serves both roles."""
    if role.model != common_pb2.MODEL_LLM:
        raise invalid("--shared-listen", "it is the LLM's.", "Start llm_worker with it, and no slm_worker.")
    for flag, wrong in (
        ("--graphs", settings.graphs == "on"),
        ("--compile", settings.compile == "on"),
        ("--batching", settings.batching != "eager"),
        ("--share-device", bool(settings.share_device)),
        ("--beside", bool(settings.beside)),
    ):
        if wrong:
            raise invalid(flag, "it is not for a worker with --shared-listen.", "Leave it at its default.")
