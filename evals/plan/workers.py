"""`rstitch plan --slm SLM --llm LLM --rate R --llm-share S`: how many of each, and how long answers take at which load.

Closed form (docs/planning.md). Without numbers of workers the least are found that hold --max-load, --target-p95 and
the room of their caches.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evals.figures.report import Columns, Row, terminal_table
from evals.options import at_most_one
from evals.plan.finite import finite
from evals.plan.fleet import Fleet
from evals.plan.load import Role
from evals.plan.models import beside_of, models_of
from evals.plan.numbers import Chosen, Goal, least, least_among, processes, room_used
from evals.plan.options import PlanOptions
from rstitch.errors import invalid

_ROLES: Columns = {
    "role": "{role}",
    "workers": "{workers}",
    "load": "{load:.0%}",
    "rows": "{rows:.1f}",
    "ms a token": "{token_ms:.2f}",
    "saturates at answers/s": "{saturation:sig}",
    "sessions that fit": "{fit}",
    "room used": "{room:.0%}",
    "answer p50 s": "{p50_s:sig}",
    "p95 s": "{p95_s:sig}",
    "bound by": "{bound}",
}
_LOADS: Columns = {
    "of saturation": "{share:.0%}",
    "answers/s": "{rate:sig}",
    "under way": "{under_way:.1f}",
    "first token s": "{first_s:sig}",
    "answer p50 s": "{p50_s:sig}",
    "p95 s": "{p95_s:sig}",
    "SLM ms a token": "{slm_ms:.2f}",
    "LLM ms a token": "{llm_ms:.2f}",
}
SHARES = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_AROUND = (0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)  # times the workers of a role


@dataclass(frozen=True, kw_only=True)
class Options(PlanOptions):
    """The options of `rstitch plan`."""

    rate: Annotated[float | None, typer.Option(help="Answers a second that are asked for, at random times.")] = None
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Or sessions that each ask again when they are answered.")
    ] = None
    target_p95: Annotated[
        float | None, typer.Option(metavar="S", help="95% of answers are to take no longer.", show_default=False)
    ] = None
    max_load: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Of its saturation, of each worker, router and gateway.")
    ] = 0.7
    slm_workers: Annotated[int | None, typer.Option(min=1, help="So many, not the least.", show_default="least")] = None
    llm_workers: Annotated[int | None, typer.Option(min=1, help="So many, not the least.", show_default="least")] = None
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Latency over load.")] = None


def run(options: Options) -> int:
    """Computes, prints and draws. Returns the exit code."""
    _check(options)
    answers = options.answers
    models, beside = models_of(options), beside_of(options)
    fleet = Fleet(models, {"slm": 1, "llm": 1}, answers, beside)
    chosen = _chosen(fleet, options)
    rate, fleet = chosen.state.rate, chosen.fleet
    loads = list(_loads(fleet))
    found = {
        "rate": rate,
        "saturation": fleet.saturation_of_all,
        "workers": dict(fleet.numbers),
        "cards": sum(models[role].num_cards * count for role, count in fleet.numbers.items()),
        "bounds": dict(chosen.bounds),
        "routers": processes(rate * answers.tokens * beside.router_us / 1e6, options.max_load),
        "gateways": processes(rate * beside.gateway_ms / 1e3, options.max_load),
        "chosen": [_role_row(chosen, role, fleet.numbers) for role in fleet.taking_part],
        "around": [row for role in fleet.taking_part for row in _around(chosen, role)],
        "loads": loads,
    }
    if options.plot:
        from evals.plan.plots import plot_loads  # matplotlib

        plot_loads(fleet, rate, options.plot)
    if options.json:
        json.dump(finite(found), sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    _tell(found, chosen, Console(width=None if sys.stdout.isatty() else 140, highlight=False))
    return 0


def _check(options: Options) -> None:
    at_most_one({"--rate": options.rate, "--concurrency": options.concurrency})
    if options.rate is None and options.concurrency is None:
        raise invalid("--rate", "nothing says how much is asked.", "Give --rate answers a second, or --concurrency.")
    if options.rate is not None and not 0 < options.rate < math.inf:
        raise invalid("--rate", f"{options.rate:g} answers a second are no load.", "Give more than 0.")
    if options.target_p95 is not None and not 0 < options.target_p95 < math.inf:
        raise invalid("--target-p95", f"{options.target_p95:g} s are no time.", "Give more than 0.")
    if options.cores and options.rate is not None and not (options.slm_workers and options.llm_workers):
        what = "on one machine more workers are no more cores."
        raise invalid("--cores", what, "Give --slm-workers and --llm-workers, such as 1 and 1.")


def _chosen(fleet: Fleet, options: Options) -> Chosen:
    goal = Goal(options.max_load, options.target_p95)
    given: dict[Role, int | None] = {"slm": options.slm_workers, "llm": options.llm_workers}
    if options.cores or all(given[role] for role in fleet.taking_part):
        fleet = replace(fleet, numbers={role: given[role] or 1 for role in fleet.taking_part})
        state = fleet.at(options.rate) if options.rate else fleet.among(options.concurrency or 1)
        return Chosen(fleet, state, dict.fromkeys(fleet.taking_part, "given"))
    asked = options.concurrency or 1
    chosen = least(fleet, options.rate, goal) if options.rate else least_among(fleet, asked, goal)
    numbers = {role: given[role] or count for role, count in chosen.fleet.numbers.items()}
    if numbers == chosen.fleet.numbers:
        return chosen
    fleet = replace(fleet, numbers=numbers)
    bounds = {role: "given" if given[role] else chosen.bounds[role] for role in numbers}
    return Chosen(fleet, fleet.at(options.rate or chosen.state.rate), bounds)


def _role_row(chosen: Chosen, role: Role, numbers: Mapping[Role, int]) -> Row:
    fleet = replace(chosen.fleet, numbers=numbers)
    state = fleet.at(chosen.state.rate)
    loaded, latency = state.workers[role], state.latency
    return {
        "role": role,
        "workers": numbers[role],
        "load": loaded.load,
        "busy": loaded.busy,
        "rows": loaded.rows,
        "token_ms": 1000 * loaded.token_s,
        "saturation": fleet.saturation(role),
        "fit": fleet.sessions_that_fit(role),
        "room": room_used(fleet, state, role),
        "p50_s": latency.quantile_s(0.5),
        "p95_s": latency.quantile_s(0.95),
        "bound": chosen.bounds[role] if numbers == chosen.fleet.numbers else "",
    }


def _around(chosen: Chosen, role: Role) -> Iterator[Row]:
    """Fewer and more workers of one role, those of the other as chosen."""
    count = chosen.fleet.numbers[role]
    counts = {max(1, round(count * factor)) for factor in _AROUND} | {max(1, count - 1), count + 1}
    for number in sorted(counts):
        yield _role_row(chosen, role, {**chosen.fleet.numbers, role: number})


def _loads(fleet: Fleet) -> Iterator[Row]:
    most = fleet.saturation_of_all
    for share in SHARES:
        state = fleet.at(share * most)
        token_ms = {f"{role}_ms": 1000 * loaded.token_s for role, loaded in state.workers.items()}
        yield {
            "share": share,
            "rate": state.rate,
            "under_way": state.under_way,
            "first_s": state.latency.first_s,
            "p50_s": state.latency.quantile_s(0.5),
            "p95_s": state.latency.quantile_s(0.95),
            **token_ms,
        }


def _tell(found: Row, chosen: Chosen, console: Console) -> None:
    console.print(terminal_table("workers of each role, those of the other as chosen", _ROLES, found["around"]))
    console.print(terminal_table("the chosen fleet by load", _LOADS, found["loads"]))
    numbers = " and ".join(f"{count} {role.upper()}" for role, count in chosen.fleet.numbers.items())
    bounds = ", ".join(f"{role.upper()} by {bound}" for role, bound in found["bounds"].items())
    latency = chosen.state.latency
    console.print(
        f"{found['rate']:.3g} answers/s: {numbers} workers ({bounds}) on {found['cards']} cards, {found['routers']} "
        f"routers, {found['gateways']} gateways. An answer takes {latency.quantile_s(0.5):.3g} s, 95% within "
        f"{latency.quantile_s(0.95):.3g} s. It saturates at {found['saturation']:.3g} answers/s."
    )
    if chosen.state.stretch > 1:
        console.print(f"Steps take {chosen.state.stretch:.2f} times as long as alone, waiting for a core.")
