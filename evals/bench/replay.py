"""`bench replay`: real costs at real sizes without real weights; routing follows traces, not entropies.

Client, router, Redis, wire and workers are the real ones (see `replay_router`), the weights are random. Answers of
llm_only, slm_only and of the traces have the same number of tokens and are asked in turn, in closed loops of so many
sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import pandas as pd
import transformers
import typer
from rich.console import Console
from rich.progress import Progress

from evals.asking.ask import Job, ask, without_trace
from evals.asking.load import Load
from evals.asking.record import Record
from evals.asking.stack_options import PlaceOptions
from evals.asking.systems import Served, Terms
from evals.asking.values import counts
from evals.bench import page
from evals.bench.outside import outside_ms
from evals.bench.replay_stack import SYSTEMS, Replayed, numbered, replay_stack, shape_name
from evals.bench.shapes import SHAPES, shape_or_folder
from evals.bench.traces import Trace, read, save, synthetic, trace_of
from evals.figures.answers import places
from evals.figures.progress import progress_bar
from evals.figures.ratio import ratio
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from evals.options import many
from evals.tasks.data import load_data
from evals.tasks.task import load
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Threshold
from rstitch.errors import invalid
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


def _trace_file(text: str) -> Path:
    path = Path(text)
    try:
        read(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    return path


@dataclass(frozen=True, kw_only=True)
class Options(PlaceOptions, page.PageOptions):
    """The options of `bench replay`."""

    slm_shape: Annotated[
        str,
        typer.Option(parser=shape_or_folder, metavar="NAME|DIR", help=f"{', '.join(SHAPES)}, or a model folder."),
    ] = "tiny-8m"
    llm_shape: Annotated[
        list[str],
        typer.Option(parser=shape_or_folder, metavar="NAME|DIR...", help="The same for the LLM; each in turn."),
    ] = many("tiny-50m")
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record traces of the bundled pair into FILE, end.")
    ] = None
    tau: Annotated[float, typer.Option(help="For --record.")] = 0.02
    traces: Annotated[
        Path | None,
        typer.Option(parser=_trace_file, metavar="FILE", help="Follow these.", show_default="drawn ones"),
    ] = None
    num_traces: Annotated[int, typer.Option(min=1, help="To record or draw.")] = 16
    llm_share: Annotated[float, typer.Option(help="Of drawn traces.")] = 0.15
    segment_length: Annotated[float, typer.Option(help="Mean LLM segment of drawn traces.")] = 4
    tokens: Annotated[int, typer.Option(min=1, help="Of drawn traces.")] = 400
    seed: Annotated[int, typer.Option(help="Of drawn traces.")] = 0
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of a question.")] = 64
    concurrency: Annotated[Sequence[int], counts("Sessions.")] = (1, 4, 16)
    rounds: Annotated[int, typer.Option(min=1, help="Loops of each system and concurrency.")] = 3
    answers: Annotated[int, typer.Option(min=1, help="By each session in a loop.")] = 1


def run(options: Options) -> int:
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


def _measured_pair(options: Options, llm_shape: str, traces: Sequence[Trace], console: Console) -> dict[str, Any]:
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


async def measure(address: str, traces: Sequence[Trace], options: Options, progress: Progress) -> list[Record]:
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


def _source(options: Options) -> str:
    if options.traces is not None:
        return f"Traces: {options.traces.name}."
    length, drawn = f"{options.segment_length:g}", f"{options.tokens} tokens, seed {options.seed}"
    return f"Traces drawn: {options.llm_share:.0%} LLM tokens in segments of {length}, {drawn}."


def _traces(options: Options) -> list[Trace]:
    if options.traces is not None:
        return read(options.traces)
    try:
        return [
            synthetic(options.llm_share, options.segment_length, options.tokens, options.seed + index)
            for index in range(options.num_traces)
        ]
    except ValueError as error:
        raise invalid("--llm-share", f"{error}.", "Draw traces that an answer can have.") from None
