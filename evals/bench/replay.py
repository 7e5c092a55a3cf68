"""`bench replay`: real costs at real sizes without real weights; routing follows traces, not entropies.

Client, router, Redis, wire and workers are the real ones (see `replay_router`), the weights are random. Answers of
llm_only, slm_only and of the traces have the same number of tokens and are asked in turn, in closed loops of so many
sessions.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import transformers
from rich.console import Console
from rich.progress import Progress

from evals.asking.ask import Job, ask, without_trace
from evals.asking.flags import positive, positives
from evals.asking.load import Load
from evals.asking.record import Record
from evals.asking.stacks import add_stack_arguments
from evals.asking.systems import Served, Terms
from evals.bench import page
from evals.bench.outside import outside_ms
from evals.bench.replay_stack import SYSTEMS, Replayed, numbered, replay_stack, shape_name
from evals.bench.shapes import SHAPES, shape_or_folder
from evals.bench.traces import Trace, read, save, synthetic, trace_of
from evals.figures.answers import places
from evals.figures.progress import progress_bar
from evals.figures.ratio import ratio
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from evals.tasks.data import load_data
from evals.tasks.task import load
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Threshold
from rstitch.local.stack import LocalStack

_COLUMNS: Columns = {
    "": "{system}",
    "n": "{sessions}",
    "LLM": "{llm_share:.0%}",
    "switches": "{switches:.1f}",
    "ms/token": "{token_ms:.3f}",
    "tok/s": "{tokens_per_s:.0f}",
    "faster": "{faster[value]:.2f}",
    "tok/s ratio": "{more[value]:.2f}",
    "over 1": "{scaling:.2f}",
}
# A document is wider than a terminal.
WIDE: Columns = {
    "system": "{system}",
    "sessions": "{sessions}",
    "LLM share": "{llm_share:.1%}",
    "switches": "{switches:.1f}",
    "ms/token p50": "{token_ms:.3f}",
    "tok/s": "{tokens_per_s:.0f}",
    "speed-up per token": "{faster[value]:.2f} [{faster[low]:.2f}, {faster[high]:.2f}]",
    "tok/s over llm_only's": "{more[value]:.2f} [{more[low]:.2f}, {more[high]:.2f}]",
    "tok/s over 1 session's": "{scaling:.2f}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `bench replay`."""
    # fmt: off
    parser.add_argument("--slm-shape", type=shape_or_folder, default="tiny-8m",
                        help=f"{', '.join(SHAPES)}, or a model folder (default tiny-8m)")
    parser.add_argument("--llm-shape", type=shape_or_folder, nargs="+", default=["tiny-50m"],
                        help="the same for the LLM; each in turn (default tiny-50m)")
    # fmt: on
    parser.add_argument("--record", type=Path, metavar="FILE", help="record traces of the bundled pair into FILE, end")
    parser.add_argument("--tau", type=float, default=0.02, help="for --record (default 0.02)")
    parser.add_argument("--traces", type=_trace_file, metavar="FILE", help="follow these instead of drawn ones")
    parser.add_argument("--num-traces", type=positive, default=16, help="to record or draw (default 16)")
    parser.add_argument("--llm-share", type=float, default=0.15, help="of drawn traces (default 0.15)")
    parser.add_argument("--segment-length", type=float, default=4, help="mean LLM segment of drawn traces (default 4)")
    parser.add_argument("--tokens", type=positive, default=400, help="of drawn traces (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="of drawn traces")
    parser.add_argument("--prompt-tokens", type=positive, default=64, help="default 64")
    parser.add_argument("--concurrency", type=positives, default=[1, 4, 16], help="sessions (default 1,4,16)")
    parser.add_argument("--rounds", type=positive, default=3, help="loops of each system and concurrency (default 3)")
    parser.add_argument("--answers", type=positive, default=1, help="by each session in a loop (default 1)")
    page.add_arguments(parser)
    add_stack_arguments(parser, models=False)


def run(options: argparse.Namespace) -> int:
    """Measures and prints, or records traces. Returns the exit code."""
    console = Console()
    transformers.logging.disable_progress_bar()
    if options.record is not None:
        traces = asyncio.run(record(options.num_traces, options.tau, console))
        save(traces, options.record)
        share = sum(trace.num_llm_tokens for trace in traces) / sum(trace.num_tokens for trace in traces)
        console.print(f"{len(traces)} traces, {share:.1%} LLM tokens: {options.record}")
        return 0
    traces = _traces(options)
    pairs = [_measured_pair(options, llm_shape, traces, console) for llm_shape in options.llm_shape]
    told: list[str] = []
    for pair in pairs:
        told += [f"### {pair['name']}", markdown_table(WIDE, pair["rows"]), *pair["notes"]]
    page.finish(options, "replay", {"pairs": pairs}, "\n\n".join([*told, _source(options)]), console)
    return 0


async def record(num: int, tau: float, console: Console) -> list[Trace]:
    """Traces of real answers of the bundled pair to problems of its dev split."""
    made = []
    with LocalStack() as stack, progress_bar(console) as progress:
        async with AsyncClient(stack.router_address) as client:
            system = Served("threshold", client, Threshold(tau), Terms.of(load("tiny")))
            problems = load_data(load("tiny"), split="dev", n=num).problems
            for problem in progress.track(problems, description="recording"):
                parts = (await system.answer(problem)).parts
                made.append(trace_of(("slm" if part.model == "slm" else "llm", part.num_tokens) for part in parts))
    return made


def _measured_pair(
    options: argparse.Namespace, llm_shape: str, traces: Sequence[Trace], console: Console
) -> dict[str, Any]:
    """Measures and prints one pair on a stack of its own."""
    shapes = (options.slm_shape, llm_shape)
    with (
        replay_stack(options, shapes, traces, options.prompt_tokens, max(options.concurrency), console) as stack,
        progress_bar(console) as progress,
    ):
        records = asyncio.run(measure(stack.router_address, traces, options, progress))
    name = " with ".join(shape_name(shape) for shape in shapes)
    alone = [record for record in records if record.load == Load(1).label]
    figures, spent, notes = rows(records, options.concurrency), outside_ms(alone), []
    if spent:
        notes.append(
            f"Outside the forwards, one session: {spent['slm_token_ms']:.3f} ms a token of the SLM, "
            f"{spent['llm_token_ms']:.3f} ms of the LLM, {spent['switch_ms']:.3f} ms a switch more."
        )
        for system in SYSTEMS:
            of_system = places([record for record in alone if record.system == system])
            told = ", ".join(f"{place.replace('_', ' ')} {ms:.3f}" for place, ms in of_system.items())
            notes.append(f"A token of {system}, in ms: {told}.")
    console.print(terminal_table(name, _COLUMNS, figures))
    for note in notes:
        console.print(note)
    answers = [asdict(record) for record in records]
    return {"name": name, "rows": figures, "outside": spent, "notes": notes, "records": answers}


async def measure(
    address: str, traces: Sequence[Trace], options: argparse.Namespace, progress: Progress
) -> list[Record]:
    """Every system under every concurrency, in turn; the order turns around with every round."""
    made: list[Record] = []
    async with AsyncClient(address) as client:
        systems = [Replayed(name, client, policy, traces, options.prompt_tokens) for name, policy in SYSTEMS.items()]
        for system in systems:  # every path warm, every shape of a batch seen
            most = max(options.concurrency)
            await ask([Job(system, problem) for problem in numbered(most)], Load(most))
        planned = [(num, index) for num in options.concurrency for index in range(options.rounds)]
        for num, index in progress.track(planned, description="measuring"):
            size = num * options.answers
            for system in systems[::-1] if index % 2 else systems:
                wanted = [Job(system, problem) for problem in numbered(size, index * size)]
                made += [without_trace(record) for record in await ask(wanted, Load(num), block=index)]
                await system.forget()
    return made


def rows(records: Sequence[Record], concurrency: Sequence[int]) -> list[Row]:
    """Figures of each system at each concurrency, beside llm_only's of the same rounds."""
    made: list[Row] = []
    fewest: dict[str, float] = {}
    for num in sorted(concurrency):
        loops = {
            name: _loops([r for r in records if (r.system, r.load) == (name, Load(num).label)]) for name in SYSTEMS
        }
        base = loops["llm_only"]
        for system, ours in loops.items():
            rate, total = median(ours["tokens_per_s"]), ours.sum()
            made.append(
                {
                    "sessions": num,
                    "system": system,
                    "n": int(total["n"]),
                    "tokens": float(total["tokens"] / total["n"]),
                    "llm_share": float(total["llm_tokens"] / total["tokens"]),
                    "switches": float(total["switches"] / total["n"]),
                    "token_ms": median(ours["token_ms"]),
                    "tokens_per_s": rate,
                    "faster": asdict(ratio(list(base["token_ms"]), list(ours["token_ms"]))),
                    "more": asdict(ratio(list(ours["tokens_per_s"]), list(base["tokens_per_s"]))),
                    "scaling": rate / fewest.setdefault(system, rate),
                }
            )
    return made


def _loops(records: Sequence[Record]) -> pd.DataFrame:
    """One line per closed loop: counts, the median answer's latency per token, tokens a second of all sessions."""
    answers = pd.DataFrame(
        {
            "loop": record.block,
            "n": 1,
            "tokens": record.num_tokens,
            "llm_tokens": record.count("llm_tokens"),
            "switches": record.count("switches"),
            "token_ms": record.client_ms / record.num_tokens,
            "end_ms": 1000 * record.start_s + record.client_ms,
        }
        for record in records
    ).groupby("loop")
    loops = answers[["n", "tokens", "llm_tokens", "switches"]].sum()
    loops["token_ms"] = answers["token_ms"].median()
    loops["tokens_per_s"] = 1000 * loops["tokens"] / answers["end_ms"].max()
    return loops


def _source(options: argparse.Namespace) -> str:
    if options.traces is not None:
        return f"Traces: {options.traces.name}."
    length, drawn = f"{options.segment_length:g}", f"{options.tokens} tokens, seed {options.seed}"
    return f"Traces drawn: {options.llm_share:.0%} LLM tokens in segments of {length}, {drawn}."


def _traces(options: argparse.Namespace) -> list[Trace]:
    if options.traces is not None:
        return read(options.traces)
    try:
        return [
            synthetic(options.llm_share, options.segment_length, options.tokens, options.seed + index)
            for index in range(options.num_traces)
        ]
    except ValueError as error:
        raise SystemExit(f"bench replay: {error}") from None


def _trace_file(text: str) -> Path:
    path = Path(text)
    try:
        read(path)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path
