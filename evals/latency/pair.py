"""The latency model of a pair that runs: its calls are timed, some of its answers too, and both formulas are fitted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any

from evals.asking.access import access
from evals.figures.provenance import provenance
from evals.latency.answers import Asker, serving_of
from evals.latency.calls import Service
from evals.latency.fit import fit_model
from evals.latency.measure import Measurement, Plan, measure
from evals.latency.model import LatencyModel
from evals.latency.profile import CACHED, INPUTS, Prober
from rstitch.client.aio import AsyncClient
from rstitch.v1 import worker_pb2

ROLES = ("slm", "llm")


async def fit_pair(
    router: str,
    questions: Sequence[str],
    *,
    max_new_tokens: int,
    repeats: int,
    inputs: Sequence[int] = INPUTS,
    cached: Sequence[int] = CACHED,
    seed: int = 0,
    most_s: float = math.inf,
    bar: Callable[[str, int], AbstractContextManager[Callable[[], None]]] = lambda words, total: nullcontext(_no_tick),
) -> LatencyModel:
    """Measures the pair of a running router, and what serving it adds to answers to these questions.

    Args:
        questions: each is asked by every policy, one at a time; none: what serving adds is not measured.
        max_new_tokens: of an answer.
        inputs, cached: the grid, in tokens; repeats: of each of its calls.
        most_s: fewer repeats, but for one, if they would take longer.
        bar: shows words while so much is measured, and is told of each that was.

    Raises: RstitchError if the service is lost or refuses.
    """
    async with AsyncExitStack() as held:
        client = await held.enter_async_context(AsyncClient(router, credentials=access()))
        probers = await probers_of(await workers_of(client), seed, held)
        plan = Plan(inputs, cached, repeats, questions, (), seed, most_s)
        asker = Asker(client, max_new_tokens, seed) if questions else None
        with bar("latency model", plan.num_measured(probers)) as tick:
            made = await measure(probers, asker, plan, tick)
    return fitted(made, probers, plan, Service())


async def workers_of(client: AsyncClient) -> list[str]:
    """Addresses of the SLM's and the LLM's worker, as the router knows them."""
    by_role = {str(worker.role): worker.address for worker in (await client.status()).workers}
    return [by_role[role] for role in ROLES]


async def probers_of(workers: Sequence[str], seed: int, held: AsyncExitStack) -> dict[str, Prober]:
    """Connects to workers, SLM first; what was opened ends with `held`. Raises: RstitchError."""
    made = {}
    for role, address in zip(ROLES, workers, strict=True):
        channel = await held.enter_async_context(access().aio_channel(address))
        made[role] = await Prober.connect(channel, seed)
        held.push_async_callback(made[role].close)
    return made


def fitted(made: Measurement, probers: Mapping[str, Prober], plan: Plan, service: Service) -> LatencyModel:
    """Fits the formulas on what was measured, and what serving adds if answers were."""
    infos = {role: probers[role].info for role in ROLES}
    slm, llm = (fit_model(made.calls[role], _facts(info)) for role, info in infos.items())
    grid = {"inputs": plan.inputs, "cached": plan.cached, "repeats": made.num_rounds, "seed": plan.seed}
    model = LatencyModel(slm, llm, None, provenance() | grid)
    return dataclasses.replace(model, serving=serving_of(model, made.seen, service)) if made.seen else model


def _facts(info: worker_pb2.GetInfoResponse) -> dict[str, Any]:
    """What a worker says of itself: what runs, what steps of several rows took at its start, what its cache holds."""
    shapes = [[cost.num_rows, cost.num_tokens_per_row, cost.step_us] for cost in info.step_costs]
    room = info.capacity
    return {
        "model": Path(info.model).name, "device": info.device, "dtype": info.dtype, "step_costs": shapes,
        "kv_tokens": room.num_pages * room.page_size, "max_batch_tokens": room.max_batch_tokens,
    }  # fmt: skip


def _no_tick() -> None:
    """Ignores what it is told: for whoever fits without a screen."""
