"""`rstitch eval plot`: accuracy over latency and over the LLM's share, and token entropies by model."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from evals.asking.run_file import Run
from evals.evaluation.modelled import rows_of
from evals.figures import plots
from evals.figures.families import member_of
from rstitch.client.specs import parse
from rstitch.client.types import Signal, Threshold

_MAX_PANELS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rstitch eval plot`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="of rstitch eval run")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="gets frontier.png and entropy.png")
    latency = parser.add_mutually_exclusive_group()
    latency.add_argument("--latency-model", type=Path, metavar="FILE", help="of rstitch latency: its latencies instead")
    latency.add_argument("--no-times", action="store_true", help="accuracy over the LLM's share alone")
    parser.add_argument("--title", help="of the plots (default: task, pair and n)")
    parser.add_argument("--name", default="", help="what the names of the files begin with")
    parser.add_argument(
        "--systems", nargs="+", metavar="POLICY", help="whose entropies (default: the models alone and a threshold)"
    )


def run(options: argparse.Namespace) -> int:
    """Draws the plots. Returns the exit code."""
    found, rows = rows_of(options)
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
