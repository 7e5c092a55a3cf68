"""`rstitch plan simulate --workers 1000 --routers 12`: a fleet, event by event, placed by the routers' own code.

Workers step and announce themselves each second; routers read that twice a second and count what they placed since;
conversations have turns, and some workers die or are drained. Beside it the closed form, other ways to place, and what
a decision costs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Annotated

import typer
from rich.console import Console

from evals.asking.values import some_of
from evals.figures.provenance import line, provenance
from evals.figures.report import Columns, Row, terminal_table
from evals.plan.finite import finite
from evals.plan.fleet import Fleet, State
from evals.plan.models import beside_of, models_of
from evals.plan.options import PlanOptions
from evals.plan.simulation.fleet import Plan, Seen, Simulation
from evals.plan.simulation.router import WAYS, Way
from evals.plan.simulation.speed import speeds
from rstitch.errors import invalid

_SPREAD: Columns = {
    "placed by": "{way}",
    "role": "{role}",
    "sessions of a worker": "{mean:.2f}",
    "most over mean": "{most_over_mean:.2f}",
    "most ever": "{most}",
    "least": "{least:.1f}",
    "deviation over mean": "{cv:.3f}",
}
_ANSWERS: Columns = {
    "placed by": "{way}",
    "answers": "{answers}",
    "p50 s": "{p50_s:sig}",
    "p95 s": "{p95_s:sig}",
    "moved: overloaded": "{overloaded}",
    "died": "{died}",
    "drained": "{drained}",
    "tokens computed anew": "{recomputed:,}",
    "events": "{events:,}",
    "took s": "{took_s:.0f}",
}
_SPEEDS: Columns = {
    "workers": "{workers}",
    "place, decisions/s": "{place:,.0f}",
    "all alike": "{alike:,.0f}",
    "with candidates made": "{made:,.0f}",
    "is_overloaded": "{overloaded:,.0f}",
}


@dataclass(frozen=True, kw_only=True)
class Options(PlanOptions):
    """The options of `rstitch plan simulate`."""

    workers: Annotated[int, typer.Option(min=1, help="Of each role.")] = 1000
    slm_workers: Annotated[int | None, typer.Option(min=1, help="Of the SLM alone.", show_default="--workers")] = None
    llm_workers: Annotated[int | None, typer.Option(min=1, help="Of the LLM alone.", show_default="--workers")] = None
    routers: Annotated[int, typer.Option(min=1, help="That each place their sessions.")] = 12
    rate: Annotated[float | None, typer.Option(help="Answers a second.", show_default="as --load says")] = None
    load: Annotated[float, typer.Option(min=0.001, max=0.99, help="Without --rate: of the saturation.")] = 0.5
    turns: Annotated[float, typer.Option(min=1, help="Of a conversation, on average.")] = 3.0
    think_s: Annotated[float, typer.Option(min=0.001, help="Between two of them, on average.")] = 10.0
    deaths: Annotated[float, typer.Option(min=0, help="An hour of each worker.")] = 0.0
    drains: Annotated[float, typer.Option(min=0, help="An hour of each worker.")] = 0.0
    back_s: Annotated[float, typer.Option(min=0.1, help="Until it is back.")] = 30.0
    begin_s: Annotated[float, typer.Option(min=0, help="Simulated before anything counts.")] = 60.0
    seconds: Annotated[float, typer.Option(min=1, help="Simulated after that.")] = 60.0
    ways: Annotated[
        Sequence[str], typer.Option(parser=some_of(WAYS), metavar="WAY,...", help=f"Of {', '.join(WAYS)}.")
    ] = WAYS
    seed: Annotated[int, typer.Option(help="The same seed, the same events.")] = 0
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False


def run(options: Options) -> int:
    """Simulates each way in turn, prints. Returns the exit code."""
    fleet, rate = _fleet(options)
    state = fleet.at(rate)
    found: Row = {"rate": rate, "closed_form": _closed(state), "spread": [], "answers": [], "speeds": list(speeds())}
    for way in options.ways:
        plan = _plan(options, fleet, rate, way)
        began = time.perf_counter()
        seen = Simulation(plan).run()
        found["answers"].append(_answers_row(way, seen, time.perf_counter() - began))
        found["spread"] += [_spread_row(way, role, seen) for role in fleet.taking_part]
    found["facts"] = provenance()
    if options.json:
        json.dump(finite(found), sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    _tell(found, state, options, Console(width=None if sys.stdout.isatty() else 140, highlight=False))
    return 0


def _fleet(options: Options) -> tuple[Fleet, float]:
    if options.cores:
        raise invalid("--cores", "cores that all share are not simulated.", "Leave it out.")
    if options.rate is not None and not options.rate > 0:
        raise invalid("--rate", f"{options.rate:g} answers a second are no load.", "Give more than 0.")
    numbers = {"slm": options.slm_workers or options.workers, "llm": options.llm_workers or options.workers}
    fleet = Fleet(
        models_of(options), {"slm": numbers["slm"], "llm": numbers["llm"]}, options.answers, beside_of(options)
    )
    most = fleet.saturation_of_all
    rate = options.rate or options.load * most
    if rate >= most:
        what = f"{rate:g} answers a second are more than the {most:.3g} at which these workers saturate."
        raise invalid("--rate", what, "Give less, or more --workers.")
    return fleet, rate


def _plan(options: Options, fleet: Fleet, rate: float, way: str) -> Plan:
    known: dict[str, Way] = {each: each for each in WAYS}
    return Plan(
        fleet, rate, options.routers, known[way], options.turns, options.think_s, options.deaths, options.drains,
        options.back_s, options.begin_s, options.begin_s + options.seconds, options.seed,
    )  # fmt: skip


def _closed(state: State) -> Row:
    loads = {f"{role}_load": loaded.load for role, loaded in state.workers.items()}
    return {"p50_s": state.latency.quantile_s(0.5), "p95_s": state.latency.quantile_s(0.95), **loads}


def _answers_row(way: str, seen: Seen, took_s: float) -> Row:
    parts = quantiles(seen.latencies, n=20) if len(seen.latencies) > 1 else [float("nan")] * 19
    return {
        "way": way,
        "answers": len(seen.latencies),
        "p50_s": parts[9],
        "p95_s": parts[18],
        **seen.moved,
        "recomputed": seen.recomputed,
        "placed": seen.num_placed,
        "deaths": seen.num_deaths,
        "drains": seen.num_drains,
        "events": seen.num_events,
        "took_s": took_s,
    }


def _spread_row(way: str, role: str, seen: Seen) -> Row:
    looks = next(looks for name, looks in seen.spread.items() if name == role)
    return {
        "way": way,
        "role": role,
        "mean": fmean(look.mean for look in looks),
        "most_over_mean": fmean(look.most_over_mean for look in looks),
        "most": max(look.most for look in looks),
        "least": fmean(look.least for look in looks),
        "cv": fmean(look.cv for look in looks),
    }


def _tell(found: Row, state: State, options: Options, console: Console) -> None:
    closed = found["closed_form"]
    loads = ", ".join(f"{role.upper()} {loaded.load:.0%}" for role, loaded in state.workers.items())
    console.print(
        f"{found['rate']:.4g} answers/s ({loads}) by {options.routers} routers. By the closed form an answer takes "
        f"{closed['p50_s']:.3g} s, 95% within {closed['p95_s']:.3g} s."
    )
    console.print(terminal_table("answers", _ANSWERS, found["answers"]))
    console.print(terminal_table("sessions bound to a worker, mean over the seconds", _SPREAD, found["spread"]))
    console.print(terminal_table("decisions a second", _SPEEDS, found["speeds"]))
    console.print(line(found["facts"]), style="dim")
