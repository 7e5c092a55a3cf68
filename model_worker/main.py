"""The process of a worker: settings, model, engine, server, drain. A role decides its name and its defaults."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
import torch
import transformers
from pydantic import ValidationError
from pydantic_settings import CliApp

from model_worker import convert
from model_worker.driver import EngineDriver
from model_worker.engine.batching import BatchingRule
from model_worker.engine.cost_model import StepCost
from model_worker.engine.engine import Engine, pages_that_fit
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.loader import LoadedModel, load
from model_worker.engine.measure import measure_steps
from model_worker.engine.memory import tokens_beside
from model_worker.engine.types import Limits
from model_worker.metrics import WorkerMetrics
from model_worker.service import WorkerService
from model_worker.settings import WorkerSettings
from model_worker.tokenizer import TokenizerFiles, load_tokenizer
from model_worker.turns import DeviceTurns
from rstitch import __version__
from rstitch.errors import RstitchError, invalid
from rstitch.service.logs import setup_logging
from rstitch.service.metrics import Metrics, setup_metrics
from rstitch.service.server import Server
from rstitch.service.telemetry import setup_telemetry
from rstitch.v1 import common_pb2, worker_pb2, worker_pb2_grpc

_log = structlog.get_logger(__name__)
_SERVICE = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name


@dataclass(frozen=True, slots=True)
class Role:
    """What distinguishes the two workers."""

    name: str
    model: common_pb2.Model
    settings: type[WorkerSettings]


def main(role: Role) -> None:
    """Runs a worker until SIGTERM or SIGINT; the entry point of `python -m slm_worker` and `llm_worker`."""
    try:
        settings = CliApp.run(role.settings)
    except ValidationError as error:
        sys.exit(_explain(role, error))
    setup_logging(f"{role.name}-worker", settings.log_level)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        asyncio.run(_serve(role, settings))
    except (UnsupportedModel, RstitchError) as error:
        _log.error("cannot start", error=str(error))
        sys.exit(1)


def _explain(role: Role, error: ValidationError) -> str:
    """One line per setting at fault, naming its flag and its variable."""
    lines = [f"{role.name}-worker: cannot start:"]
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else "settings"
        lines.append(f"  --{name.replace('_', '-')} (or RSTITCH_{name.upper()}): {item['msg']}")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that serves."""

    server: Server
    driver: EngineDriver
    port: int
    metrics: Metrics

    async def stop(self) -> None:
        """Ends calls in flight and the engine's thread."""
        await self.server.stop(0)
        await self.driver.stop()
        await asyncio.to_thread(self.metrics.shutdown)


async def start(role: Role, settings: WorkerSettings, on_fatal: Callable[[BaseException], None]) -> Worker:
    """Loads the model and serves it. Raises UnsupportedModel, or RstitchError if a setting cannot be met."""
    turns = _turns(role, settings)
    telemetry = setup_telemetry(f"rstitch-{role.name}-worker", settings.otlp_endpoint)
    tokenizer = load_tokenizer(settings.model)
    loaded, engine = build(settings, tokenizer.vocab_size)
    driver = EngineDriver(engine, on_fatal, settings.flush_ms / 1000, _batching(settings, engine), turns)
    server = Server(settings.listen, service_names=[_SERVICE], telemetry=telemetry)
    metrics = setup_metrics(f"rstitch-{role.name}-worker", settings.metrics_endpoint)
    info, files = _info(role, settings, loaded, engine, tokenizer), _tokenizer(tokenizer)
    service = WorkerService(driver, info, files, telemetry, WorkerMetrics(metrics, engine))
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(service, server.grpc)
    port = await server.start()
    driver.start()
    await server.set_serving(True)
    return Worker(server, driver, port, metrics)


async def _serve(role: Role, settings: WorkerSettings) -> None:
    def on_fatal(error: BaseException) -> None:
        """Without its engine this process cannot serve; whoever supervises it starts a new one."""
        _log.error("engine stopped", exc_info=error)
        os._exit(70)

    worker = await start(role, settings, on_fatal)
    address = f"{settings.listen.rpartition(':')[0]}:{worker.port}"
    _log.info("ready", address=address, model=settings.model, device=settings.device)
    await worker.server.serve_until_signal(settings.drain_grace_s)
    await worker.driver.stop()
    await asyncio.to_thread(worker.metrics.shutdown)


def build(settings: WorkerSettings, vocab_size: int) -> tuple[LoadedModel, Engine]:
    """The model and its engine. Raises UnsupportedModel."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UnsupportedModel(
            f"--device {settings.device}: torch sees {count} CUDA devices here; name one of them, or cpu"
        )
    name = settings.dtype
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    if settings.random_weights is not None:
        _log.warning("random weights: for benchmarks only", model=settings.model, seed=settings.random_weights)
    loaded = load(settings.model, getattr(torch, name), device, settings.context_length, settings.random_weights)
    page_size = settings.page_size or default_page_size(device)
    num_pages = _num_pages(settings, loaded, page_size)
    limits = Limits(
        vocab_size=min(vocab_size, loaded.num_logits),
        context_length=min(loaded.context_length, num_pages * page_size),
        num_pages=num_pages,
        page_size=page_size,
        max_batch_tokens=settings.max_batch_tokens,
        background_stretch=settings.background_stretch,
        background_us=round(settings.background_ms * 1000),
        attention=settings.attention,
        graphs=settings.graphs,
    )
    engine = Engine(loaded, limits, lambda done, of: _log.info("capturing steps", done=done, of=of))
    _log.info("engine made", steps=engine.path, page_size=page_size, num_pages=num_pages)
    engine.costs = measure_steps(engine, settings.measure_ms / 1000)
    if engine.costs is not None:
        _log.info("steps measured", **{_shape(cost): cost.step_us for cost in engine.costs.step_costs})
    return loaded, engine


def default_page_size(device: torch.device) -> int:
    """Tokens per KV page. On CUDA of a size that attention's kernel takes; with others it would not run."""
    return 256 if device.type == "cuda" else 16


def _num_pages(settings: WorkerSettings, loaded: LoadedModel, page_size: int) -> int:
    if settings.num_pages:
        return settings.num_pages
    tokens = settings.kv_tokens or (tokens_beside(loaded, settings.beside) if settings.beside else 0)
    return max(1, tokens // page_size) if tokens else pages_that_fit(loaded, page_size)


def _batching(settings: WorkerSettings, engine: Engine) -> BatchingRule | None:
    if settings.batching == "eager":
        return None
    size = int(settings.batching.removeprefix("fixed:")) if settings.batching != "delayed" else 0
    if not size and engine.costs is None:
        raise invalid("--batching", "delayed needs to know what a step costs.", "Give --measure-ms more than 0.")
    return BatchingRule(engine.costs, settings.max_delay_ms / 1000, size)


def _turns(role: Role, settings: WorkerSettings) -> DeviceTurns | None:
    if not settings.share_device:
        return None
    side: Literal["slm", "llm"] = "llm" if role.model == common_pb2.MODEL_LLM else "slm"
    try:
        return DeviceTurns(Path(settings.share_device), side, settings.share_slm_steps)
    except OSError as error:
        remedy = "Name a file in a folder that both workers may write to."
        raise invalid("--share-device", f"{error.filename}: {error.strerror}.", remedy) from error


def _shape(cost: StepCost) -> str:
    return f"rows_{cost.num_rows}_tokens_{cost.num_tokens_per_row}_us"


def _info(
    role: Role, settings: WorkerSettings, loaded: LoadedModel, engine: Engine, tokenizer: TokenizerFiles
) -> worker_pb2.GetInfoResponse:
    return worker_pb2.GetInfoResponse(
        role=role.model,
        model=settings.model,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=engine.limits.vocab_size,
        stop_tokens=sorted(loaded.stop_tokens),
        context_length=engine.limits.context_length,
        hidden_size=loaded.hidden_size,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        architecture=type(loaded.module).__name__,
        num_parameters=sum(parameter.numel() for parameter in loaded.module.parameters()),
        instance_id=uuid.uuid4().hex,
        version=__version__,
        step_costs=convert.step_costs(engine.costs),
    )


def _tokenizer(tokenizer: TokenizerFiles) -> worker_pb2.GetTokenizerResponse:
    return worker_pb2.GetTokenizerResponse(
        data=tokenizer.data, chat_template=tokenizer.chat_template, special_tokens=tokenizer.special_tokens
    )
