"""`bench switch`: what a switch costs by the number of tokens that the other model has not seen.

At the worker: a warm Decode stream is sent the tokens and asked for one more, all at once or after a background run has
taken all but the last. In the whole stack, as a user sees it: answers in which the SLM writes so many tokens and the
LLM one, again and again (see `replay_router`), less what their tokens take when one model writes alone. Routers that
differ in their flags share the workers and take turns.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any

import grpc
import pandas as pd
import transformers
import typer
from rich.console import Console
from rich.progress import Progress

from evals.asking.ask import ask, jobs
from evals.asking.record import Record
from evals.asking.stack_options import PlaceOptions
from evals.asking.values import counts
from evals.bench import page
from evals.bench.outside import Clock, switch_ms
from evals.bench.replay_stack import SYSTEMS, Replayed, numbered, replay_stack, shape_name
from evals.bench.shapes import SHAPES, shape_or_folder
from evals.bench.traces import Author, Trace, trace_of
from evals.figures.progress import progress_bar
from evals.figures.provenance import ROOT
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from rstitch.channels import client_options
from rstitch.client.aio import AsyncClient
from rstitch.v1 import worker_pb2, worker_pb2_grpc

# Flags of routers that share workers and Redis, by what they do at a switch.
ROUTERS = {
    "background catch-up": [],
    "at the switch": ["--catch-up-tokens", "0"],
    "run-ahead": ["--run-ahead", "on"],
}
_ALONE = ("slm_only", "llm_only")
_MAX_TURNS = 16  # segments of the SLM in one answer
_TOKENS = 300  # of an answer, about

_WORKER: Columns = {
    "role": "{role}",
    "tokens": "{tokens}",
    "at once": "{at_once_ms:.3f}",
    "its forward": "{at_once_forward_ms:.3f}",
    "after catch-up": "{after_ms:.3f}",
    "forward": "{after_forward_ms:.3f}",
    "saved": "{saved_ms:.3f}",
}
_STACK: Columns = {
    "tokens": "{tokens}",
    "a token: SLM": "{slm_token_ms:.3f}",
    "LLM": "{llm_token_ms:.3f}",
    "background": "{background catch-up:.3f}",
    "at switch": "{at the switch:.3f}",
    "run-ahead": "{run-ahead:.3f}",
    "kept": "{ahead_kept:.0%}",
    "outside": "{outside:.3f}",
}
_LEGEND = (
    "tokens: not seen by the model that takes over; at once: fed and one token decoded in one run; after catch-up: all "
    "but the last were fed before. In the stack: what two switches add to the tokens' own time (the discarded "
    "proposal, the catch-up, the exchange) with background catch-up, without, and with run-ahead on top; kept: of the "
    "tokens written ahead; outside: of background's, what is not in a forward."
)


class Stream:
    """A warm Decode stream of one session."""

    def __init__(self, channel: grpc.aio.Channel, role: str) -> None:
        self.role = role
        self._session_id = f"bench-{uuid.uuid4().hex}"
        self._call: Any = worker_pb2_grpc.WorkerServiceStub(channel).Decode()

    async def feed(self, num_prefix: int, length: int) -> Row:
        """From a prefix on, `length` tokens are fed and one decoded: at once, and after a run that fed all but one."""
        prefix = [100 + index % 50 for index in range(num_prefix)]
        tokens = [100 + index % 100 for index in range(length)]
        await self._run(0, prefix, 0)
        at_once, at_once_forward = await self._run(num_prefix, tokens, 1)
        await self._run(0, prefix, 0)
        if length > 1:
            await self._run(num_prefix, tokens[:-1], 0)
        after, after_forward = await self._run(num_prefix + length - 1, tokens[-1:], 1)
        return {
            "role": self.role,
            "tokens": length,
            "at_once_ms": at_once,
            "at_once_forward_ms": at_once_forward,
            "after_ms": after,
            "after_forward_ms": after_forward,
            "saved_ms": at_once - after,
        }

    async def _run(self, position: int, tokens: Sequence[int], max_tokens: int) -> tuple[float, float]:
        """Milliseconds from the request to the finish as the client sees it, and of these in the forwards."""
        request = worker_pb2.DecodeRequest(
            session_id=self._session_id, position=position, tokens=tokens, max_tokens=max_tokens
        )
        begin = time.perf_counter()
        await self._call.write(request)
        while not (reply := await self._call.read()).HasField("finish"):
            pass
        return 1000 * (time.perf_counter() - begin), reply.finish.timing.forward_us / 1000

    def close(self) -> None:
        self._call.cancel()


def _shape(role: str) -> Any:
    return typer.Option(
        parser=shape_or_folder, metavar="NAME|DIR", show_default="the bundled one",
        help=f"Of the {role.upper()}: {', '.join(SHAPES)}, or a model folder.",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options(PlaceOptions, page.PageOptions):
    """The options of `bench switch`."""

    slm_shape: Annotated[str, _shape("slm")] = str(ROOT / "models" / "tiny-slm")
    llm_shape: Annotated[str, _shape("llm")] = str(ROOT / "models" / "tiny-llm")
    lengths: Annotated[Sequence[int], counts("Tokens that the other has not seen.")] = (1, 4, 16, 64, 256)
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens that both hold before.")] = 64
    rounds: Annotated[int, typer.Option(min=1, help="Of every kind.")] = 20
    answers: Annotated[int, typer.Option(min=1, help="Rounds of the whole stack.")] = 5


def run(options: Options) -> int:
    """Measures and prints."""
    console = Console()
    transformers.logging.disable_progress_bar()
    shapes = (options.slm_shape, options.llm_shape)
    traces = [turns(length) for length in options.lengths]
    with (
        replay_stack(options, shapes, traces, options.prompt_tokens, len(ROUTERS), console) as stack,
        progress_bar(console) as progress,
    ):
        addresses = {
            name: stack.start_router(*flags).address if flags else stack.router_address
            for name, flags in ROUTERS.items()
        }
        fed, answers = asyncio.run(_measure(stack.worker_addresses, addresses, traces, options, progress))
    workers, stacked = rows_of_workers(fed), rows_of_stack(answers, options.lengths)
    name = " with ".join(shape_name(shape) for shape in shapes)
    console.print(terminal_table(f"{name}: on a warm stream, ms", _WORKER, workers))
    console.print(terminal_table("in the whole stack: to the LLM and back, ms", _STACK, stacked))
    console.print(_LEGEND, style="dim")
    text = "\n\n".join([f"{name}.", markdown_table(_WORKER, workers), markdown_table(_STACK, stacked), _LEGEND])
    page.finish(options, "switch", {"pair": name, "workers": workers, "stack": stacked}, text, console)
    return 0


def turns(length: int) -> Trace:
    """The SLM writes `length` tokens, the LLM one, as often as it fits an answer; the SLM ends it."""
    num = max(1, min(_MAX_TURNS, _TOKENS // (length + 1)))
    turn: list[tuple[Author, int]] = [("slm", length), ("llm", 1)]
    return trace_of([*(turn * num), ("slm", length)])


async def _measure(
    workers: tuple[str, str],
    routers: dict[str, str],
    traces: Sequence[Trace],
    options: Options,
    progress: Progress,
) -> tuple[list[Row], list[Record]]:
    fed: list[Row] = []
    async with AsyncExitStack() as exits:
        streams = []
        for role, address in zip(("slm", "llm"), workers, strict=True):
            channel = await exits.enter_async_context(grpc.aio.insecure_channel(address, client_options()))
            streams.append(Stream(channel, role))
            exits.callback(streams[-1].close)
        for number in progress.track(range(-1, options.rounds), description="workers"):
            made = [await stream.feed(options.prompt_tokens, n) for n in options.lengths for stream in streams]
            fed += made if number >= 0 else []  # the first round warms up
        clients = {name: await exits.enter_async_context(AsyncClient(address)) for name, address in routers.items()}
        first = next(iter(clients.values()))
        asked = [(name, first, SYSTEMS[name]) for name in _ALONE]
        asked += [(name, client, SYSTEMS["replay"]) for name, client in clients.items()]
        systems = [Replayed(*each, traces, options.prompt_tokens) for each in asked]
        problems = numbered(len(traces))
        await ask(list(jobs(systems, problems)))
        answers: list[Record] = []
        for _ in progress.track(range(options.answers), description="the whole stack"):
            answers += await ask(list(jobs(systems, problems)))
            for system in systems:
                await system.forget()
    return fed, answers


def rows_of_workers(fed: Sequence[Row]) -> list[Row]:
    """Medians by role and length."""
    medians = pd.DataFrame(fed).groupby(["role", "tokens"]).median().sort_index(ascending=[False, True])
    return [{str(name): value for name, value in row.items()} for row in medians.reset_index().to_dict("records")]


def rows_of_stack(answers: Sequence[Record], lengths: Sequence[int]) -> list[Row]:
    """What going to the LLM and back adds to the tokens' own time, the median of the rounds."""
    made = []
    for index, length in enumerate(lengths):
        by_system: dict[str, list[Record]] = {}
        for answer in answers:
            if answer.problem == index:
                by_system.setdefault(answer.system, []).append(answer)
        slm, llm = (by_system[name] for name in _ALONE)
        ahead = by_system["run-ahead"]
        kept, lost = (sum(answer.count(f"run_ahead_{what}") for answer in ahead) for what in ("tokens", "discarded"))
        made.append(
            {
                "tokens": length,
                "n": len(slm),
                **{name: _added(by_system[name], slm, llm, "client_ms") for name in ROUTERS},
                "outside": _added(by_system[next(iter(ROUTERS))], slm, llm, "outside_ms"),
                "ahead_kept": kept / (kept + lost) if kept + lost else 0.0,
                "slm_token_ms": median(_token_ms(answer, "client_ms") for answer in slm),
                "llm_token_ms": median(_token_ms(answer, "client_ms") for answer in llm),
            }
        )
    return made


def _added(routed: Sequence[Record], slm: Sequence[Record], llm: Sequence[Record], clock: Clock) -> float:
    """Milliseconds of two switches, over what the models alone took in the same round."""
    return median(
        2 * switch_ms(ours, _token_ms(of_slm, clock), _token_ms(of_llm, clock), clock)
        for ours, of_slm, of_llm in zip(routed, slm, llm, strict=True)
    )


def _token_ms(answer: Record, clock: Clock) -> float:
    return float(getattr(answer, clock) / answer.num_tokens)
