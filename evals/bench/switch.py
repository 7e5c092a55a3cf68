"""`bench switch`: what a switch costs by the number of tokens that the other model has not seen.

At the worker: a warm Decode stream is sent the tokens and asked for one more, all at once or after a background run has
taken all but the last. In the whole stack, as a user sees it: answers in which the SLM writes so many tokens and the
LLM one, again and again (see `replay_router`), less what their tokens take when one model writes alone. Routers that
differ in their flags share the workers and take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import transformers
from rich.console import Console
from rich.progress import Progress

from evals.asking.flags import positive, positives
from evals.bench import page
from evals.bench.replay_stack import Measured, add_pair_arguments, ask, replay_stack, shape_name
from evals.bench.shapes import SHAPES, shape_or_folder
from evals.bench.traces import Author, Trace, trace_of
from evals.figures.progress import progress_bar
from evals.figures.provenance import ROOT, line, provenance
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
_MAX_TURNS = 16  # segments of the SLM in one answer
_TOKENS = 300  # of an answer, about


@dataclass(frozen=True, slots=True)
class Fed:
    """One run on a worker: `num_tokens` fed, one decoded. Times in milliseconds.

    Attributes:
        before: whether a background run had fed all but the last.
        run_ms: from the request to its finish, as the client sees it; `forward_ms` of it in the model.
    """

    role: str
    num_tokens: int
    before: bool
    run_ms: float
    forward_ms: float


class Stream:
    """A warm Decode stream of one session that holds `prefix`."""

    def __init__(self, channel: grpc.aio.Channel, role: str) -> None:
        self.role = role
        self._session_id = f"bench-{uuid.uuid4().hex}"
        self._call: Any = worker_pb2_grpc.WorkerServiceStub(channel).Decode()

    async def run(self, position: int, tokens: Sequence[int], max_tokens: int) -> tuple[float, float]:
        """Milliseconds from the request to the finish, and in the forwards."""
        request = worker_pb2.DecodeRequest(
            session_id=self._session_id, position=position, tokens=tokens, max_tokens=max_tokens
        )
        begin = time.perf_counter()
        await self._call.write(request)
        while True:
            reply = await self._call.read()
            assert reply is not grpc.aio.EOF, "the worker ended the stream"
            if reply.HasField("finish"):
                return 1000 * (time.perf_counter() - begin), reply.finish.timing.forward_us / 1000

    def close(self) -> None:
        """Ends the call."""
        self._call.cancel()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `bench switch`."""
    names = ", ".join(SHAPES)
    models = ROOT / "models"
    for role, whom in (("slm", "the SLM"), ("llm", "the LLM")):
        parser.add_argument(
            f"--{role}-shape",
            type=shape_or_folder,
            default=str(models / f"tiny-{role}"),
            help=f"of {whom}: {names}, or a model folder (default: the bundled one)",
        )
    parser.add_argument("--lengths", type=positives, default=[1, 4, 16, 64, 256], help="default 1,4,16,64,256")
    parser.add_argument("--prompt-tokens", type=positive, default=64, help="tokens that both hold before (default 64)")
    parser.add_argument("--rounds", type=positive, default=20, help="of every kind (default 20)")
    parser.add_argument("--answers", type=positive, default=5, help="rounds of the whole stack (default 5)")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--write", action="store_true", help="also write the tables into docs/performance.md")
    add_pair_arguments(parser)


def run(options: argparse.Namespace) -> int:
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
    worker_rows, stack_rows = rows_of_workers(fed), rows_of_stack(answers, options.lengths)
    facts = provenance()
    name = " with ".join(shape_name(shape) for shape in shapes)
    console.print(terminal_table(f"{name}: on a warm stream, ms", _WORKER, worker_rows))
    console.print(terminal_table("in the whole stack: to the LLM and back, ms", _STACK, stack_rows))
    console.print(_LEGEND, style="dim")
    console.print(line(facts), style="dim")
    if options.json is not None:
        made = {"provenance": facts, "pair": name, "workers": worker_rows, "stack": stack_rows}
        options.json.write_text(json.dumps(made, indent=1) + "\n")
    if options.write:
        tables = [markdown_table(_WORKER, worker_rows), markdown_table(_STACK, stack_rows)]
        page.write("switch", "\n\n".join([f"{name}.", *tables, f"{_LEGEND} {line(facts)}"]))
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
    options: argparse.Namespace,
    progress: Progress,
) -> tuple[list[Fed], dict[tuple[int, str], list[Measured]]]:
    fed: list[Fed] = []
    answers: dict[tuple[int, str], list[Measured]] = {}
    async with AsyncExitStack() as exits:
        streams = []
        for role, address in zip(("slm", "llm"), workers, strict=True):
            channel = await exits.enter_async_context(grpc.aio.insecure_channel(address, client_options()))
            streams.append(Stream(channel, role))
            exits.callback(streams[-1].close)
        for number in progress.track(range(-1, options.rounds), description="workers"):
            made = [
                await _feed(stream, options.prompt_tokens, length, before)
                for length in options.lengths
                for stream in streams
                for before in (False, True)
            ]
            fed += made if number >= 0 else []  # the first round warms up
        clients = {name: await exits.enter_async_context(AsyncClient(address)) for name, address in routers.items()}
        for number in progress.track(range(-1, options.answers), description="the whole stack"):
            for key, answer in [item async for item in _round(clients, traces, options.prompt_tokens, number)]:
                if number >= 0:
                    answers.setdefault(key, []).append(answer)
    return fed, answers


async def _feed(stream: Stream, num_prefix: int, length: int, before: bool) -> Fed:
    """From the prefix on, `length` tokens are fed and one decoded; timed is the run that decodes."""
    tokens = [100 + index % 100 for index in range(length)]
    await stream.run(0, [100 + index % 50 for index in range(num_prefix)], 0)
    position = num_prefix
    if before and length > 1:
        await stream.run(position, tokens[:-1], 0)
        position, tokens = position + length - 1, tokens[-1:]
    run_ms, forward_ms = await stream.run(position, tokens, 1)
    return Fed(stream.role, length, before, run_ms, forward_ms)


async def _round(clients: dict[str, AsyncClient], traces: Sequence[Trace], num_prompt_tokens: int, number: int) -> Any:
    """Every trace by every router, and as many tokens by each model alone, one after the other."""
    first = next(iter(clients.values()))
    kinds = [("slm_only", "slm_only", first), ("llm_only", "llm_only", first)]
    kinds += [(name, "replay", client) for name, client in clients.items()]
    for index, trace in enumerate(traces):
        for kind, system, client in kinds if number % 2 else kinds[::-1]:
            answer = await ask(client, system, index, trace.num_tokens, num_prompt_tokens, seed=number)
            await client.delete_trajectory(answer.session_id)
            yield (index, kind), answer


def rows_of_workers(fed: Sequence[Fed]) -> list[Row]:
    """Medians by length and role."""
    made = []
    for role in ("slm", "llm"):
        for length in sorted({run.num_tokens for run in fed}):
            once, after = (
                [run for run in fed if (run.role, run.num_tokens, run.before) == (role, length, before)]
                for before in (False, True)
            )
            made.append(
                {
                    "role": role,
                    "tokens": length,
                    "n": len(once),
                    "at_once_ms": median(run.run_ms for run in once),
                    "at_once_forward_ms": median(run.forward_ms for run in once),
                    "after_ms": median(run.run_ms for run in after),
                    "after_forward_ms": median(run.forward_ms for run in after),
                    "saved_ms": median(a.run_ms - b.run_ms for a, b in zip(once, after, strict=True)),
                }
            )
    return made


def rows_of_stack(answers: dict[tuple[int, str], list[Measured]], lengths: Sequence[int]) -> list[Row]:
    """What going to the LLM and back adds to the tokens' own time, the median of the rounds."""
    made = []
    for index, length in enumerate(lengths):
        slm, llm = answers[index, "slm_only"], answers[index, "llm_only"]
        row: Row = {"tokens": length, "n": len(slm)}
        for name in ROUTERS:
            row[name] = median(
                _added(answer, a.latency_ms / a.num_tokens, b.latency_ms / b.num_tokens, answer.latency_ms)
                for answer, a, b in zip(answers[index, name], slm, llm, strict=True)
            )
        for name in ROUTERS:
            row[f"{name}, outside"] = median(
                _added(answer, a.outside_ms / a.num_tokens, b.outside_ms / b.num_tokens, answer.outside_ms)
                for answer, a, b in zip(answers[index, name], slm, llm, strict=True)
            )
        ahead = answers[index, "run-ahead"]
        written = sum(a.num_run_ahead_tokens + a.num_run_ahead_discarded for a in ahead)
        row["ahead_kept"] = sum(a.num_run_ahead_tokens for a in ahead) / written if written else 0.0
        row["slm_token_ms"] = median(a.latency_ms / a.num_tokens for a in slm)
        row["llm_token_ms"] = median(b.latency_ms / b.num_tokens for b in llm)
        made.append(row)
    return made


def _added(answer: Measured, slm_token_ms: float, llm_token_ms: float, total_ms: float) -> float:
    tokens_ms = answer.num_slm_tokens * slm_token_ms + answer.num_llm_tokens * llm_token_ms
    return (total_ms - tokens_ms) / (answer.num_switches / 2)


def _ms(name: str) -> Any:
    return lambda row: f"{row[name]:.3f}"


_WORKER: Columns = {
    "role": lambda row: row["role"],
    "tokens": lambda row: str(row["tokens"]),
    "at once": _ms("at_once_ms"),
    "its forward": _ms("at_once_forward_ms"),
    "after catch-up": _ms("after_ms"),
    "forward": _ms("after_forward_ms"),
    "saved": _ms("saved_ms"),
}
_STACK: Columns = {
    "tokens": lambda row: str(row["tokens"]),
    "a token: SLM": _ms("slm_token_ms"),
    "LLM": _ms("llm_token_ms"),
    "background": _ms("background catch-up"),
    "at switch": _ms("at the switch"),
    "run-ahead": _ms("run-ahead"),
    "kept": lambda row: f"{row['ahead_kept']:.0%}",
    "outside": _ms("background catch-up, outside"),
}
_LEGEND = (
    "tokens: not seen by the model that takes over; at once: fed and one token decoded in one run; after catch-up: all "
    "but the last were fed before. In the stack: what two switches add to the tokens' own time (the discarded "
    "proposal, the catch-up, the exchange) with background catch-up, without, and with run-ahead on top; kept: of the "
    "tokens written ahead; outside: of background's, what is not in a forward."
)
