"""`rstitch plan check`: what is predicted beside what is measured, of the pair that runs here at three loads.

Starts a stack of one worker each. What steps cost is fitted first: in CPU time, on answers by three policies at several
loads, for a machine that others use, too; or in time (`--costs latency`), as `rstitch latency` does. Then Poisson
arrivals at shares of the predicted saturation and closed loops, in turn. Everything shares the machine's cores: how
many were to be had is measured under the closed loops.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median, pstdev, quantiles
from typing import Annotated, Literal

import typer
from rich.console import Console

from evals.asking.ask import Job, ask
from evals.asking.load import Load
from evals.asking.record import Record
from evals.asking.stack_options import StackOptions, StackThreads
from evals.asking.stacks import Flags, local_stack
from evals.asking.systems import Served, Terms
from evals.asking.values import JsonFile, counts, rates
from evals.figures.provenance import ROOT, line, provenance
from evals.figures.report import Columns, Row, markdown_table, replace_section, terminal_table
from evals.latency.pair import fit_pair
from evals.plan.costs import Spending, Spent, fit_steps
from evals.plan.fleet import Beside, Fleet, Model
from evals.plan.load import ROLES, Answers, Role
from evals.plan.metering import processes_of
from evals.plan.models import measured
from evals.tasks import task as tasks
from evals.tasks.data import load_data
from evals.tasks.tiny.arithmetic import problems as questions_of
from rstitch.cli.progress import start, stopped_by_signals
from rstitch.client.aio import AsyncClient
from rstitch.client.types import LlmOnly, Policy, SlmOnly, Threshold
from rstitch.errors import invalid
from rstitch.local.stack import LocalStack

PAGE, SECTION = ROOT / "docs" / "planning.md", "plan-check"
_MEASURE_MS = 8000
_MANY = 16  # sessions at which the CPU of a token is measured: steps are filled, and cores are full
_ROWS, _KV_TOKENS = 512, 100_000
_COLUMNS: Columns = {
    "load": "{load}",
    "n": "{n}",
    "cores": "{cores:.2f}",
    "predicted answers/s": "{predicted_rate:.1f}",
    "measured answers/s": "{rate:.1f}",
    "predicted CPU ms an answer": "{predicted_cpu_ms:.0f}",
    "measured CPU ms": "{cpu_ms:.0f}",
    "predicted p50 ms": "{predicted_p50_ms:.0f}",
    "measured p50 ms": "{p50_ms:.0f}",
    "p50 ratio": "{ratio_p50:.2f}",
    "predicted p95 ms": "{predicted_p95_ms:.0f}",
    "measured p95 ms": "{p95_ms:.0f}",
    "p95 ratio": "{ratio_p95:.2f}",
}


@dataclass(frozen=True, kw_only=True)
class Options(StackOptions):
    """The options of `rstitch plan check`."""

    threads: StackThreads = 1
    costs: Annotated[Literal["cpu", "latency"], typer.Option(help="What steps cost: in CPU time, or in time.")] = "cpu"
    tau: Annotated[float, typer.Option(help="Of the threshold that routes.")] = 0.02
    shares: Annotated[Sequence[float], typer.Option(parser=rates, metavar="X,...", help="Of the saturation.")] = (
        0.3, 0.6, 0.9,
    )  # fmt: skip
    sessions: Annotated[Sequence[int], counts("Of closed loops.")] = (16, 64)
    n: Annotated[int, typer.Option(min=8, help="Answers of each load and round.")] = 128
    rounds: Annotated[int, typer.Option(min=1, help="All loads in turn, so often.")] = 2
    pilot: Annotated[int, typer.Option(min=2, help="Answers of each load that costs are fitted on, at least.")] = 64
    repeats: Annotated[int, typer.Option(min=1, help="Of each cell of the latency model.")] = 5
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 400
    seed: Annotated[int, typer.Option(help="Of arrivals.")] = 0
    json: JsonFile = None
    write: Annotated[bool, typer.Option("--write", help="The table of docs/planning.md.")] = False


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a pair before it is loaded."""

    models: Mapping[Role, Model]
    answers: Answers
    beside: Beside

    def fleet(self, cores: float) -> Fleet:
        """One worker each on a machine of so many cores."""
        return Fleet(self.models, {"slm": 1, "llm": 1}, self.answers, replace(self.beside, cores=cores))


def run(options: Options) -> int:
    """Starts the stack, measures, prints. Returns the exit code."""
    if any(share >= 1 for share in options.shares):
        raise invalid("--shares", "no answer ends at the saturation or beyond.", "Give shares below 1, such as 0.9.")
    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    with stopped_by_signals(), ExitStack() as held:
        # Time to measure more shapes of steps than a start takes; and questions that come again are computed again.
        stack = local_stack(options, defaults=Flags(worker=[f"--measure-ms={_MEASURE_MS}", "--prefix-cache=off"]))
        start(stack, console)
        held.callback(stack.stop)
        found = asyncio.run(compare(options, stack, console))
    facts = provenance()
    console.print(terminal_table("predicted and measured", _COLUMNS, found["rows"]))
    console.print(found["told"])
    console.print(line(facts), style="dim")
    if options.json:
        options.json.write_text(json.dumps(found | {"facts": facts}, indent=1) + "\n")
    if options.write:
        _write(found, facts, PAGE)
    return 0


def _write(found: Row, facts: dict[str, str], page: Path) -> None:
    text = "\n\n".join([markdown_table(_COLUMNS, found["rows"]), found["told"], line(facts)])
    replace_section(page, SECTION, text)


async def compare(options: Options, stack: LocalStack, console: Console) -> Row:
    """Measures a running stack and predicts it. Returns rows of loads, a sentence of what was known, and that.

    Raises RstitchError if the service is lost or refuses.
    """
    task, spending = tasks.load("tiny"), Spending(processes_of(stack), stack.worker_addresses)
    problems = load_data(task, split="dev", n=options.n).problems
    async with AsyncClient(stack.router_address) as client:

        async def under(load: Load, n: int, policy: Policy, block: int = 0) -> Spent:
            system = Served("asked", client, policy, Terms.of(task, options.max_new_tokens))
            jobs = [Job(system, problems[number % len(problems)]) for number in range(n)]

            async def asked() -> list[Record]:
                return await ask(jobs, load, block=block, seed=options.seed)

            spent = await spending.over(asked)
            await system.forget()
            if failed := next((record.error for record in spent.records if record.error), ""):
                raise invalid("--max-new-tokens", failed, "Ask for what the router allows.")
            return spent

        routed = Threshold(options.tau)
        for policy in (routed, LlmOnly(), SlmOnly()):
            await under(Load(4), 16, policy)  # warms up
        pilot = [await under(Load(count), max(options.pilot, 2 * count), routed) for count in (1, 4, _MANY)]
        if options.costs == "latency":
            models, beside = await _by_latency(options, stack, pilot[-1])
        else:
            alone: tuple[Policy, ...] = (LlmOnly(), SlmOnly())
            others = [
                await under(Load(count), max(options.pilot, 2 * count), policy)
                for policy in alone
                for count in (1, _MANY)
            ]
            models, beside = _by_cpu([*pilot, *others], pilot[-1])
        known = Known(models, answers_of([record for spent in pilot for record in spent.records]), beside)
        cores = pilot[-1].cores
        most = known.fleet(cores).saturation_of_all
        loads = {f"{count} sessions": Load(count) for count in options.sessions}
        loads |= {f"{share:.0%} of {most:.1f}/s": Load(rate=share * most) for share in options.shares}
        taken: dict[str, list[Spent]] = {name: [] for name in loads}
        for number in range(options.rounds):
            for name, load in loads.items():
                taken[name].append(await under(load, options.n, routed, number))
                console.print(f"round {number + 1}: {name}")
    # Under arrivals idle cores are no sign of how many there would have been.
    full = [spent.cores for name, load in loads.items() if not load.rate for spent in taken[name]]
    rows = [_row(known, name, loads[name], taken[name], fmean(full)) for name in loads]
    return {"rows": rows, "told": _told(known, most, cores), "known": _plain(known)}


def _by_cpu(runs: Sequence[Spent], full: Spent) -> tuple[dict[Role, Model], Beside]:
    """A worker's own CPU is in its steps; a token takes that of router, Redis and client beside it."""
    models = {role: Model(fit_steps(role, runs), _ROWS, _KV_TOKENS) for role in ROLES}
    others = sum(cpu_s for name, cpu_s in full.cpu_s.items() if name not in ("router", "slm worker", "llm worker"))
    router_us, other_us = 1e6 * full.cpu_s["router"] / full.tokens, 1e6 * others / full.tokens
    return models, Beside(router_us=router_us, worker_us=other_us)


async def _by_latency(options: Options, stack: LocalStack, full: Spent) -> tuple[dict[Role, Model], Beside]:
    questions = [problem.question for problem in questions_of("train", 4, options.seed)]
    latency = await fit_pair(
        stack.router_address, questions, max_new_tokens=options.max_new_tokens, repeats=options.repeats
    )
    models: dict[Role, Model] = {"slm": measured(latency.slm), "llm": measured(latency.llm)}
    _, beside = _by_cpu([full], full)
    if serving := latency.serving:
        token_ms = serving.token_ms + serving.beside_ms
        beside = replace(beside, answer_ms=serving.answer_ms, switch_ms=serving.call_ms, token_ms=token_ms)
    return models, beside


def answers_of(records: Sequence[Record]) -> Answers:
    """What answers were like. Raises RstitchError if one model wrote all of them."""
    tokens = [record.num_tokens for record in records]
    mean = fmean(tokens)
    by_llm = sum(record.count("llm_tokens") for record in records)
    switches = sum(record.count("switches") for record in records)
    if not 0 < by_llm < sum(tokens):
        raise invalid("--tau", "one model wrote all of the answers.", "Give a tau at which both write.")
    prompt = fmean(record.count("prompt_tokens") for record in records)
    seen = fmean(record.count("catch_up_tokens") for record in records)  # by both, prompts included
    return Answers(
        tokens=mean,
        cv=pstdev(tokens, mean) / mean,
        prompt_tokens=prompt,
        llm_share=by_llm / sum(tokens),
        switches=100 * switches / sum(tokens),
        unseen_tokens=min(mean, max(0.0, 2 * prompt + mean - seen)),
    )


def _row(known: Known, name: str, load: Load, taken: Sequence[Spent], full: float) -> Row:
    latencies = [record.client_ms for spent in taken for record in spent.records]
    took_s = sum(spent.took_s for spent in taken)
    cores = full if load.rate else sum(spent.cores * spent.took_s for spent in taken) / took_s
    fleet = known.fleet(cores)
    state = fleet.at(load.rate) if load.rate else fleet.among(load.num_sessions)
    p50, p95 = (1000 * state.latency.quantile_s(share) for share in (0.5, 0.95))
    row: Row = {
        "load": name,
        "n": len(latencies),
        "cores": cores,
        "predicted_rate": state.rate,
        "rate": len(latencies) / took_s,
        "cpu_ms": fmean(spent.cpu_ms for spent in taken),
        "p50_ms": median(latencies),
        "p95_ms": quantiles(latencies, n=20)[18],
    }
    if p95 == math.inf:  # there were fewer cores than this load takes
        return row
    predicted_cpu_ms = 1000 * fleet.cores_used(state) / state.rate
    row |= {"predicted_cpu_ms": predicted_cpu_ms, "predicted_p50_ms": p50, "predicted_p95_ms": p95}
    return row | {"ratio_p50": row["p50_ms"] / p50, "ratio_p95": row["p95_ms"] / p95}


def _told(known: Known, most: float, cores: float) -> str:
    answers, beside, fleet = known.answers, known.beside, known.fleet(0)
    apart = min(fleet.saturation(role) for role in fleet.taking_part)
    return (
        f"An answer has {answers.tokens:.0f} tokens (deviation {answers.cv:.2f} of that), {answers.llm_share:.1%} by "
        f"the LLM, {answers.switches:.1f} switches in 100, a prompt of {answers.prompt_tokens:.0f}. A token takes "
        f"{beside.router_us:.0f} us of a core in the router and {beside.worker_us:.0f} in Redis and client. On the "
        f"{cores:.2f} cores that were to be had the pair saturates at {most:.1f} answers/s; with cores of its own for "
        f"each worker it would at {apart:.1f}."
    )


def _plain(known: Known) -> Row:
    steps = {role: str(known.models[role].steps) for role in ROLES}
    return {"answers": asdict(known.answers), "beside": asdict(known.beside), "steps": steps}
