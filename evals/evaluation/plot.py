"""`rstitch eval plot`: accuracy over latency and over the LLM's share, and token entropies by model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evals.asking.run_file import Run
from evals.evaluation.modelled import rows_of
from evals.evaluation.report import RunFiles
from evals.figures import plots
from evals.figures.families import member_of
from evals.options import at_most_one, many
from rstitch.client.specs import parse
from rstitch.client.types import Signal, Threshold

_MAX_PANELS = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `rstitch eval plot`."""

    files: RunFiles
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Gets frontier.png and entropy.png.")]
    latency_model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of rstitch latency: its latencies instead.")
    ] = None
    no_times: Annotated[bool, typer.Option("--no-times", help="Accuracy over the LLM's share alone.")] = False
    title: Annotated[str | None, typer.Option(help="Of the plots.", show_default="task, pair and n")] = None
    name: Annotated[str, typer.Option(help="What the names of the files begin with.")] = ""
    systems: Annotated[
        list[str],
        typer.Option(metavar="POLICY...", help="Whose entropies.", show_default="the models alone and a threshold"),
    ] = many()


def run(options: Options) -> int:
    """Draws the plots. Returns the exit code."""
    at_most_one({"--latency-model": options.latency_model, "--no-times": options.no_times})
    found, rows = rows_of(options.files, options.latency_model)
    facts = found.configuration
    title = options.title or (
        f"{facts['task']}: SLM {facts.get('slm')}, LLM {facts.get('llm')}, n = {max(row['n'] for row in rows)}, "
        f"{facts['concurrency']} at a time"
    )
    console = Console(highlight=False)
    path = options.out / f"{options.name}frontier.png"
    measured: plots.Latency | None = None if options.no_times else "latency_ms"
    plots.frontier(rows, title, path, "modelled_ms" if options.latency_model else measured)
    console.print(f"written: {path}", soft_wrap=True)
    systems = options.systems or _telling(found)
    found.require(systems)
    by_model = {system: by for system in systems if (by := entropies_by_model(found, system))}
    if not by_model:
        console.print("no entropies: the run kept no traces")
        return 0
    path = options.out / f"{options.name}entropy.png"
    plots.entropies(by_model, {system: tau for system in by_model if (tau := _tau(system)) is not None}, title, path)
    console.print(f"written: {path}", soft_wrap=True)
    return 0


def entropies_by_model(run: Run, system: str) -> dict[str, list[float]]:
    """The entropies of its tokens, by who wrote them; empty if no traces were kept."""
    found: dict[str, list[float]] = {}
    for record in run.of(system):
        for model, entropy in zip(record.models, record.entropies, strict=True):
            found.setdefault(model, []).append(entropy)
    return dict(sorted(found.items(), reverse=True))


def _telling(run: Run) -> list[str]:
    """The models alone, and the threshold that is nearest to the paper's 0.02."""
    alone = [system for system in ("slm_only", "llm_only") if system in run.systems]
    taus = {system: tau for system in run.systems if (tau := _tau(system)) is not None}
    nearest = sorted(taus, key=lambda system: abs(taus[system] - 0.02))
    return (alone + nearest)[:_MAX_PANELS] or run.systems[:_MAX_PANELS]


def _tau(system: str) -> float | None:
    """The bound on entropy of a plain threshold."""
    if member_of(system).family != "entropy":
        return None
    policy = parse(system).policy
    return policy.tau if isinstance(policy, Threshold) and policy.signal is Signal.UNSPECIFIED else None
