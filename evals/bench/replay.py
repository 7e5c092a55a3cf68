"""`bench replay`: real costs at real sizes without real weights; routing follows traces, not entropies.

Client, router, Redis, wire and workers are the real ones (see `replay_router`), the weights are random. Answers of
llm_only and of the traces have the same number of tokens and are asked in turn, in closed loops of so many sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import transformers
from rich.console import Console
from rich.progress import track

from evals.bench import page
from evals.bench.load import closed_loop
from evals.bench.replay_router import THRESHOLD, session_id
from evals.bench.shapes import SHAPES, Served, make_pair
from evals.bench.stacks import Flags, add_flag_arguments
from evals.bench.timing import ratio
from evals.bench.traces import Trace, read, save, synthetic, trace_of
from evals.provenance import line, provenance
from evals.report import Columns, markdown_table, terminal_table
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Policy, SlmOnly, Source, Threshold, Usage
from rstitch.parts import default_threads
from rstitch.stack import LocalStack

SYSTEMS: dict[str, Policy] = {"llm_only": LlmOnly(), "slm_only": SlmOnly(), "replay": Threshold(THRESHOLD)}
_PAGE_SIZE = 16


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
class Measured:
    """One answer. Times in milliseconds.

    Attributes:
        num_sessions: of its closed loop.
        wall_ms: of the whole loop that it was part of.
        parts_us: as the router's breakdown.
    """

    system: str
    num_sessions: int
    block: int
    wall_ms: float
    latency_ms: float
    total_ms: float
    num_slm_tokens: int
    num_llm_tokens: int
    num_switches: int
    num_catch_up_tokens: int
    num_run_ahead_tokens: int
    parts_us: dict[str, int]

    @property
    def num_tokens(self) -> int:
        """Of the answer."""
        return self.num_slm_tokens + self.num_llm_tokens

    @property
    def outside_ms(self) -> float:
        """What is neither model's forward."""
        return self.total_ms - (self.parts_us["slm_forward_us"] + self.parts_us["llm_forward_us"]) / 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `bench replay`."""
    names = ", ".join(SHAPES)
    parser.add_argument("--slm-shape", default="tiny-8m", help=f"{names}, or a model folder (default tiny-8m)")
    parser.add_argument(
        "--llm-shape", nargs="+", default=["tiny-50m"], help="the same for the LLM; each in turn (default tiny-50m)"
    )
    parser.add_argument("--device", default="cpu", help="of both models (default cpu)")
    parser.add_argument("--slm-device", help="of the SLM alone")
    parser.add_argument("--llm-device", help="of the LLM alone")
    parser.add_argument("--dtype", help="default: float32 on CPU, bfloat16 on CUDA")
    parser.add_argument("--threads", type=int, default=default_threads(), help="CPU threads of each model")
    parser.add_argument("--record", type=Path, metavar="FILE", help="record traces of the bundled pair into FILE, end")
    parser.add_argument("--tau", type=float, default=0.02, help="for --record (default 0.02)")
    parser.add_argument("--traces", type=Path, metavar="FILE", help="follow these instead of drawn ones")
    parser.add_argument("--num-traces", type=int, default=16, help="to record or draw (default 16)")
    parser.add_argument("--llm-share", type=float, default=0.15, help="of drawn traces (default 0.15)")
    parser.add_argument("--segment-length", type=float, default=4, help="mean LLM segment of drawn traces (default 4)")
    parser.add_argument("--tokens", type=int, default=400, help="of drawn traces (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="of drawn traces")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="default 64")
    parser.add_argument("--concurrency", type=_numbers, default=[1, 4, 16], help="sessions (default 1,4,16)")
    parser.add_argument("--rounds", type=int, default=3, help="loops of each system and concurrency (default 3)")
    parser.add_argument("--answers", type=int, default=1, help="by each session in a loop (default 1)")
    parser.add_argument("--json", type=Path, help="also write all answers to this file")
    parser.add_argument("--write", action="store_true", help="also write the table into docs/performance.md")
    add_flag_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Measures and prints; or records."""
    console = Console()
    transformers.logging.disable_progress_bar()
    if options.record is not None:
        traces = asyncio.run(record(options.num_traces, options.tau, console))
        save(traces, options.record)
        share = sum(t.num_llm_tokens for t in traces) / sum(t.num_tokens for t in traces)
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


def _measured_pair(
    options: argparse.Namespace, llm_shape: str, traces: Sequence[Trace], console: Console
) -> dict[str, Any]:
    """One pair on a stack of its own, measured and printed."""
    with tempfile.TemporaryDirectory(prefix="rstitch-replay-") as folder:
        pair = make_pair(options.slm_shape, llm_shape, Path(folder))
        trace_file = Path(folder) / "traces.jsonl"
        save(traces, trace_file)
        stack = _stack(options, pair, trace_file, traces)
        with console.status("starting the stack"):
            stack.start()
        try:
            answers = asyncio.run(measure(stack.router_address, traces, options, console))
        finally:
            stack.stop()
    name = f"{_name(options.slm_shape)} with {_name(llm_shape)}"
    figures, spent = rows(answers), outside(answers)
    notes = []
    if spent:
        notes.append(
            f"Outside the forwards, one session: {spent['slm_token_ms']:.3f} ms a token of the SLM, "
            f"{spent['llm_token_ms']:.3f} ms of the LLM, {spent['switch_ms']:.3f} ms a switch more."
        )
        for system in SYSTEMS:
            told = ", ".join(f"{part.replace('_', ' ')} {ms:.3f}" for part, ms in parts(answers, system).items())
            notes.append(f"A token of {system}, in ms: {told}.")
    console.print(terminal_table(name, _COLUMNS, figures))
    for note in notes:
        console.print(note)
    return {
        "name": name,
        "rows": figures,
        "outside": spent,
        "notes": notes,
        "answers": [asdict(answer) for answer in answers],
    }


async def record(num: int, tau: float, console: Console) -> list[Trace]:
    """Traces of real answers of the bundled pair to problems of its dev split."""
    from training.tiny.task import problems

    made = []
    with console.status("starting the stack"):
        stack = LocalStack()
        stack.start()
    try:
        async with AsyncClient(stack.router_address) as client:
            for problem in track(problems("dev", num), "recording", console=console):
                answer = await client.answer(
                    chat=[{"role": "user", "content": problem.question}], policy=Threshold(tau)
                )
                trajectory = await client.trajectory(answer.session_id)
                written = [s for s in trajectory.segments if s.source is not Source.PROMPT]
                made.append(trace_of(("slm" if s.source is Source.SLM else "llm", len(s.tokens)) for s in written))
    finally:
        stack.stop()
    return made


async def measure(
    address: str, traces: Sequence[Trace], options: argparse.Namespace, console: Console
) -> list[Measured]:
    """Every system under every concurrency, in turn; the order turns around with every round."""
    blocks = [
        (num, index, name)
        for num in options.concurrency
        for index in range(options.rounds)
        for name in (reversed(SYSTEMS) if index % 2 else SYSTEMS)
    ]
    measured: list[Measured] = []
    async with AsyncClient(address) as client:
        for name in SYSTEMS:  # every path warm, every shape of a batch seen
            await _loop(client, name, traces, max(options.concurrency), 0, options.prompt_tokens, 1)
        for num, index, name in track(blocks, "measuring", console=console):
            measured += await _loop(client, name, traces, num, index, options.prompt_tokens, options.answers)
    return measured


async def _loop(
    client: AsyncClient,
    system: str,
    traces: Sequence[Trace],
    num_sessions: int,
    block: int,
    num_prompt_tokens: int,
    answers_each: int,
) -> list[Measured]:
    """One closed loop. Every system gets the same prompts and lengths in the same block."""
    asked: list[str] = []

    async def ask(number: int) -> Usage:
        index = (block * num_sessions + number) % len(traces)
        rng = random.Random(number)
        session = session_id(index, num_prompt_tokens) if system == "replay" else uuid.uuid4().hex
        asked.append(session)
        answer = await client.answer(
            tokens=[rng.randrange(100, 256) for _ in range(num_prompt_tokens)],
            policy=SYSTEMS[system],
            max_new_tokens=traces[index].num_tokens,
            session_id=session,
        )
        return answer.finished.usage

    done = await closed_loop(ask, range(num_sessions * answers_each), num_sessions)
    wall_s = max(timed.end_s for timed in done) - min(timed.start_s for timed in done)
    for session in asked:
        await client.delete_trajectory(session)
    return [
        Measured(
            system=system,
            num_sessions=num_sessions,
            block=block,
            wall_ms=1000 * wall_s,
            latency_ms=1000 * (timed.end_s - timed.start_s),
            total_ms=timed.reply.total_time_us / 1000,
            num_slm_tokens=timed.reply.num_slm_tokens,
            num_llm_tokens=timed.reply.num_llm_tokens,
            num_switches=timed.reply.num_switches,
            num_catch_up_tokens=timed.reply.num_catch_up_tokens,
            num_run_ahead_tokens=timed.reply.num_run_ahead_tokens,
            parts_us=asdict(timed.reply.breakdown),
        )
        for timed in done
    ]


def rows(answers: Sequence[Measured]) -> list[dict[str, Any]]:
    """Figures of each system at each concurrency, beside llm_only's of the same blocks."""
    made = []
    rates: dict[tuple[str, int], float] = {}
    for num in sorted({a.num_sessions for a in answers}):
        base = _blocks([a for a in answers if a.num_sessions == num and a.system == "llm_only"])
        for system in SYSTEMS:
            chosen = [a for a in answers if a.num_sessions == num and a.system == system]
            blocks = _blocks(chosen)
            rates[system, num] = median(rate for rate, _ in blocks)
            first = min(n for name, n in rates if name == system)
            made.append(
                {
                    "sessions": num,
                    "system": system,
                    "n": len(chosen),
                    "tokens": sum(a.num_tokens for a in chosen) / len(chosen),
                    "llm_share": sum(a.num_llm_tokens for a in chosen) / sum(a.num_tokens for a in chosen),
                    "switches": sum(a.num_switches for a in chosen) / len(chosen),
                    "token_ms": median(a.latency_ms / a.num_tokens for a in chosen),
                    "tokens_per_s": rates[system, num],
                    "speed_up": asdict(ratio([ms for _, ms in base], [ms for _, ms in blocks])),
                    "throughput_ratio": asdict(ratio([rate for rate, _ in blocks], [rate for rate, _ in base])),
                    "scaling": rates[system, num] / rates[system, first],
                }
            )
    return made


def _blocks(answers: Sequence[Measured]) -> list[tuple[float, float]]:
    """Per closed loop: tokens a second, and the median milliseconds per token."""
    numbers = sorted({a.block for a in answers})
    loops = [[a for a in answers if a.block == number] for number in numbers]
    return [
        (1000 * sum(a.num_tokens for a in loop) / loop[0].wall_ms, median(a.latency_ms / a.num_tokens for a in loop))
        for loop in loops
    ]


def outside(answers: Sequence[Measured]) -> dict[str, float]:
    """Milliseconds outside the forwards at one session: per token of each model alone, and what a switch adds.

    What an answer costs once is in its tokens.
    """
    alone = [a for a in answers if a.num_sessions == 1]
    if not alone:
        return {}
    slm, llm = (
        median(a.outside_ms / a.num_tokens for a in alone if a.system == system) for system in ("slm_only", "llm_only")
    )
    switch = median(
        (a.outside_ms - a.num_slm_tokens * slm - a.num_llm_tokens * llm) / a.num_switches
        for a in alone
        if a.num_switches
    )
    return {"slm_token_ms": slm, "llm_token_ms": llm, "switch_ms": switch}


def parts(answers: Sequence[Measured], system: str) -> dict[str, float]:
    """Where a token's time goes at one session, in milliseconds, as the router's breakdown has it."""
    alone = [a for a in answers if a.num_sessions == 1 and a.system == system]
    tokens = sum(a.num_tokens for a in alone)
    names = list(alone[0].parts_us) if alone else []
    return {name.removesuffix("_us"): sum(a.parts_us[name] for a in alone) / 1000 / tokens for name in names}


def _name(shape: str) -> str:
    return shape if shape in SHAPES else Path(shape).name


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
    return [
        synthetic(options.llm_share, options.segment_length, options.tokens, options.seed + index)
        for index in range(options.num_traces)
    ]


def _stack(
    options: argparse.Namespace, pair: tuple[Served, Served], trace_file: Path, traces: Sequence[Trace]
) -> LocalStack:
    """With as many pages in both models as the most sessions need: both may be on one GPU."""
    context = options.prompt_tokens + max(trace.num_tokens for trace in traces) + _PAGE_SIZE
    num_pages = (max(options.concurrency) + 1) * math.ceil(context / _PAGE_SIZE)
    sizes = ["--page-size", str(_PAGE_SIZE), "--num-pages", str(num_pages), "--context-length", str(context)]
    flags = Flags.of(options)
    slm, llm = pair
    return LocalStack(
        slm_model=str(slm.folder),
        llm_model=str(llm.folder),
        device=options.device,
        slm_device=options.slm_device,
        llm_device=options.llm_device,
        dtype=options.dtype,
        threads=options.threads,
        worker_args=[*sizes, *flags.worker],
        slm_args=[*slm.worker_args(), *flags.slm],
        llm_args=[*llm.worker_args(), *flags.llm],
        router_args=["--traces", str(trace_file), *flags.router],
        router_module="evals.bench.replay_router",
        timeout_s=900,
    )


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
