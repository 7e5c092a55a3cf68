"""`bench replay`: real costs at real sizes without real weights; routing follows traces, not entropies.

Client, router, Redis, wire and workers are the real ones (see `replay_router`), the weights are random. Answers of
llm_only, slm_only and of the traces have the same number of tokens and are asked in turn, in closed loops of so many
sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import transformers
from rich.console import Console
from rich.progress import Progress

from evals.asking.flags import positive, positives
from evals.asking.load import closed_loop
from evals.bench import page
from evals.bench.replay_stack import SYSTEMS, Measured, add_pair_arguments, ask, replay_stack, shape_name
from evals.bench.shapes import SHAPES, shape_or_folder
from evals.bench.traces import Trace, read, save, synthetic, trace_of
from evals.figures.progress import progress_bar
from evals.figures.provenance import line, provenance
from evals.figures.ratio import ratio
from evals.figures.report import Columns, Row, markdown_table, terminal_table
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Source, Threshold
from rstitch.local.stack import LocalStack

_COLUMNS: Columns = {
    "": lambda row: row["system"],
    "n": lambda row: str(row["sessions"]),
    "LLM": lambda row: f"{row['llm_share']:.0%}",
    "switches": lambda row: f"{row['switches']:.1f}",
    "ms/token": lambda row: f"{row['token_ms']:.3f}",
    "tok/s": lambda row: f"{row['tokens_per_s']:.0f}",
    "faster": lambda row: f"{row['speed_up']['value']:.2f}",
    "tok/s ratio": lambda row: f"{row['throughput_ratio']['value']:.2f}",
    "over 1": lambda row: f"{row['scaling']:.2f}",
}
# A document is wider than a terminal.
_WIDE: Columns = {
    "system": _COLUMNS[""],
    "sessions": _COLUMNS["n"],
    "LLM share": lambda row: f"{row['llm_share']:.1%}",
    "switches": _COLUMNS["switches"],
    "ms/token p50": _COLUMNS["ms/token"],
    "tok/s": _COLUMNS["tok/s"],
    "speed-up per token": lambda row: "{value:.2f} [{low:.2f}, {high:.2f}]".format(**row["speed_up"]),
    "tok/s over llm_only's": lambda row: "{value:.2f} [{low:.2f}, {high:.2f}]".format(**row["throughput_ratio"]),
    "tok/s over 1 session's": _COLUMNS["over 1"],
}


@dataclass(frozen=True, slots=True)
class Loop:
    """One closed loop of one system."""

    system: str
    num_sessions: int
    wall_ms: float
    answers: list[Measured]

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of all sessions."""
        return 1000 * sum(answer.num_tokens for answer in self.answers) / self.wall_ms

    @property
    def token_ms(self) -> float:
        """Latency per token, the median answer's."""
        return median(answer.latency_ms / answer.num_tokens for answer in self.answers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `bench replay`."""
    names = ", ".join(SHAPES)
    parser.add_argument(
        "--slm-shape", type=shape_or_folder, default="tiny-8m", help=f"{names}, or a model folder (default tiny-8m)"
    )
    parser.add_argument(
        "--llm-shape",
        type=shape_or_folder,
        nargs="+",
        default=["tiny-50m"],
        help="the same for the LLM; each in turn (default tiny-50m)",
    )
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
    parser.add_argument("--json", type=Path, help="also write all answers to this file")
    parser.add_argument("--write", action="store_true", help="also write the table into docs/performance.md")
    add_pair_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Measures and prints; or records."""
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
    facts = provenance()
    console.print(line(facts), style="dim")
    if options.json is not None:
        options.json.write_text(json.dumps({"provenance": facts, "pairs": pairs}, indent=1) + "\n")
    if options.write:
        texts = [
            "\n\n".join([f"### {pair['name']}", markdown_table(_WIDE, pair["rows"]), *pair["notes"]]) for pair in pairs
        ]
        page.write("replay", "\n\n".join([*texts, f"{_source(options)} {line(facts)}"]))
    return 0


async def record(num: int, tau: float, console: Console) -> list[Trace]:
    """Traces of real answers of the bundled pair to problems of its dev split."""
    from evals.tasks.tiny.arithmetic import problems

    made = []
    with LocalStack() as stack, progress_bar(console) as progress:
        async with AsyncClient(stack.router_address) as client:
            for problem in progress.track(problems("dev", num), description="recording"):
                chat = [{"role": "user", "content": problem.question}]
                answer = await client.answer(chat=chat, policy=Threshold(tau))
                trajectory = await client.trajectory(answer.session_id)
                written = [segment for segment in trajectory.segments if segment.source is not Source.PROMPT]
                made.append(trace_of(("slm" if s.source is Source.SLM else "llm", len(s.tokens)) for s in written))
    return made


def _measured_pair(
    options: argparse.Namespace, llm_shape: str, traces: Sequence[Trace], console: Console
) -> dict[str, Any]:
    """One pair on a stack of its own, measured and printed."""
    shapes = (options.slm_shape, llm_shape)
    with (
        replay_stack(options, shapes, traces, options.prompt_tokens, max(options.concurrency), console) as stack,
        progress_bar(console) as progress,
    ):
        loops = asyncio.run(measure(stack.router_address, traces, options, progress))
    name = " with ".join(shape_name(shape) for shape in shapes)
    figures, spent = rows(loops), outside(loops)
    notes = []
    if spent:
        notes.append(
            f"Outside the forwards, one session: {spent['slm_token_ms']:.3f} ms a token of the SLM, "
            f"{spent['llm_token_ms']:.3f} ms of the LLM, {spent['switch_ms']:.3f} ms a switch more."
        )
        for system in SYSTEMS:
            told = ", ".join(f"{part.replace('_', ' ')} {ms:.3f}" for part, ms in parts(loops, system).items())
            notes.append(f"A token of {system}, in ms: {told}.")
    console.print(terminal_table(name, _COLUMNS, figures))
    for note in notes:
        console.print(note)
    return {
        "name": name,
        "rows": figures,
        "outside": spent,
        "notes": notes,
        "loops": [asdict(loop) for loop in loops],
    }


async def measure(address: str, traces: Sequence[Trace], options: argparse.Namespace, progress: Progress) -> list[Loop]:
    """Every system under every concurrency, in turn; the order turns around with every round."""
    planned = [
        (num, index, name)
        for num in options.concurrency
        for index in range(options.rounds)
        for name in (reversed(SYSTEMS) if index % 2 else SYSTEMS)
    ]
    made: list[Loop] = []
    async with AsyncClient(address) as client:
        for name in SYSTEMS:  # every path warm, every shape of a batch seen
            await _loop(client, name, traces, max(options.concurrency), 0, options.prompt_tokens, 1)
        for num, index, name in progress.track(planned, description="measuring"):
            made.append(await _loop(client, name, traces, num, index, options.prompt_tokens, options.answers))
    return made


async def _loop(
    client: AsyncClient,
    system: str,
    traces: Sequence[Trace],
    num_sessions: int,
    number: int,
    num_prompt_tokens: int,
    answers_each: int,
) -> Loop:
    """Every system gets the same prompts and lengths in its loop of the same number."""

    async def one(seed: int) -> Measured:
        index = (number * num_sessions + seed) % len(traces)
        return await ask(client, system, index, traces[index].num_tokens, num_prompt_tokens, seed)

    done = await closed_loop(one, range(num_sessions * answers_each), num_sessions)
    wall_s = max(timed.end_s for timed in done) - min(timed.start_s for timed in done)
    for timed in done:
        await client.delete_trajectory(timed.reply.session_id)
    return Loop(system, num_sessions, 1000 * wall_s, [timed.reply for timed in done])


def rows(loops: Sequence[Loop]) -> list[Row]:
    """Figures of each system at each concurrency, beside llm_only's of the same rounds."""
    made = []
    rates: dict[tuple[str, int], float] = {}
    for num in sorted({loop.num_sessions for loop in loops}):
        by_system = {
            name: [loop for loop in loops if (loop.system, loop.num_sessions) == (name, num)] for name in SYSTEMS
        }
        base = by_system["llm_only"]
        for system, chosen in by_system.items():
            answers = [answer for loop in chosen for answer in loop.answers]
            rates[system, num] = median(loop.tokens_per_s for loop in chosen)
            fewest = min(n for name, n in rates if name == system)
            num_tokens = sum(answer.num_tokens for answer in answers)
            made.append(
                {
                    "sessions": num,
                    "system": system,
                    "n": len(answers),
                    "tokens": num_tokens / len(answers),
                    "llm_share": sum(answer.num_llm_tokens for answer in answers) / num_tokens,
                    "switches": sum(answer.num_switches for answer in answers) / len(answers),
                    "token_ms": median(loop.token_ms for loop in chosen),
                    "tokens_per_s": rates[system, num],
                    "speed_up": asdict(ratio([a.token_ms for a in base], [b.token_ms for b in chosen])),
                    "throughput_ratio": asdict(ratio([a.tokens_per_s for a in chosen], [b.tokens_per_s for b in base])),
                    "scaling": rates[system, num] / rates[system, fewest],
                }
            )
    return made


def outside(loops: Sequence[Loop]) -> dict[str, float]:
    """Milliseconds outside the forwards at one session: per token of each model alone, and what a switch adds.

    What an answer costs once is in its tokens.
    """
    alone = {name: _alone(loops, name) for name in SYSTEMS}
    switched = [answer for answer in alone["replay"] if answer.num_switches]
    if not switched:
        return {}
    slm, llm = (median(a.outside_ms / a.num_tokens for a in alone[name]) for name in ("slm_only", "llm_only"))
    switch = median((a.outside_ms - a.num_slm_tokens * slm - a.num_llm_tokens * llm) / a.num_switches for a in switched)
    return {"slm_token_ms": slm, "llm_token_ms": llm, "switch_ms": switch}


def parts(loops: Sequence[Loop], system: str) -> dict[str, float]:
    """Where a token's time goes at one session, in milliseconds, as the router's breakdown has it."""
    alone = _alone(loops, system)
    tokens = sum(answer.num_tokens for answer in alone)
    names = list(alone[0].parts_us)
    return {name.removesuffix("_us"): sum(a.parts_us[name] for a in alone) / 1000 / tokens for name in names}


def _alone(loops: Sequence[Loop], system: str) -> list[Measured]:
    chosen = [loop for loop in loops if loop.num_sessions == 1 and loop.system == system]
    return [answer for loop in chosen for answer in loop.answers]


def _source(options: argparse.Namespace) -> str:
    if options.traces is not None:
        return f"Traces: {options.traces.name}."
    return (
        f"Traces drawn: {options.llm_share:.0%} LLM tokens in segments of {options.segment_length:g}, "
        f"{options.tokens} tokens, seed {options.seed}."
    )


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
