"""What a warm start is worth by width, data and features: `python -m training.head.studies.sweep`.

One thing is varied at a time. Each head is fitted on reference chains of the train split and looked at on others of it:
its loss, and the share of the SLM's wrong tokens that it finds with so many calls of the LLM an answer, which says what
its policy can reach. A sweep that was stopped goes on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch.nn.functional import binary_cross_entropy_with_logits

from evals.asking.values import choice
from evals.figures.progress import progress_bar
from evals.figures.provenance import line, provenance
from evals.figures.report import Columns, Row, markdown_table, replace_section, terminal_table
from rstitch.local.part import ROOT
from training.commands import run
from training.head.mlp import Policy
from training.head.studies.recall import share_found
from training.head.warm_start.calibration import expected_error, log_odds, platt, reliability
from training.head.warm_start.chain_states import Chains, chain_states
from training.head.warm_start.fitting import fit
from training.head.warm_start.readout import readout_of
from training.head.warm_start.states import States

FEATURES = ("entropy", "recent", "segment", "spent")
PAGE = ROOT / "docs/head_limits.md"
_WORK = Path(".cache/sweep")
_HELD_OUT_SEED = 1_001
_SEED = 1
_LR = 2e-3
_DOMAINS = {"words": ("tiny-slm", 0.01, (0.6, 1.0)), "programs": ("tiny-programs-slm", 0.002, (3.0, 5.0))}


@dataclass(frozen=True, slots=True)
class Tried:
    """One head to be fitted."""

    hidden: tuple[int, ...]
    num_chains: int
    features: tuple[str, ...]
    num_readout: int = 64
    epochs: int = 8


@dataclass(frozen=True, slots=True)
class Data:
    """What heads are fitted on and looked at with; both have all of `FEATURES`."""

    slm: str
    fitted_on: States
    held_out: States
    calls: tuple[float, ...]  # of the LLM an answer, at which recall is told


def grid(num_chains: int) -> list[Tried]:
    """Varies one thing at a time around the widths of the bundled head with all features."""
    centre = Tried((512, 256, 128), num_chains, FEATURES)
    return [
        replace(centre, features=()),
        *(replace(centre, features=(name,)) for name in FEATURES),
        centre,
        replace(centre, num_readout=0),
        replace(centre, hidden=(64, 32)),
        replace(centre, hidden=(192, 96)),
        replace(centre, hidden=(1024, 512)),
        *(replace(centre, num_chains=num_chains // part) for part in (8, 4, 2)),
    ]


def measured(tried: Tried, data: Data) -> Row:
    """Fits a head and looks at it."""
    began = time.process_time()
    seen, _ = data.fitted_on.shown(FEATURES, tried.features).split(tried.num_chains)
    held_out = data.held_out.shown(FEATURES, tried.features)
    hidden_size = data.held_out.shown(FEATURES, ()).inputs.shape[1] - 1
    torch.manual_seed(_SEED)
    policy = Policy(hidden_size, tried.num_readout, tried.hidden, 0.5, tried.features)
    if tried.num_readout:
        policy.readout.copy_(readout_of(data.slm, seen, tried.num_readout))
    policy.normalise(seen.inputs)
    fit(policy, seen, tried.epochs, _LR, _SEED, lambda loss: None)
    odds = log_odds(policy, held_out)
    scale, shift = platt(odds, held_out.wrong)
    found = {f"{calls:g}": share_found(odds, held_out.wrong, calls * held_out.num_answers) for calls in data.calls}
    return {
        "states": len(seen),
        "loss": float(binary_cross_entropy_with_logits(odds, held_out.wrong)),
        "calibrated_loss": float(binary_cross_entropy_with_logits(scale * odds + shift, held_out.wrong)),
        "ece": expected_error(reliability(odds, held_out.wrong)),
        "found": found,
        "seconds": time.process_time() - began,
    }


def columns(calls: tuple[float, ...]) -> Columns:
    """Makes the columns of the table that a sweep ends with."""
    return {
        "width": "{width}",
        "chains": "{num_chains:,}",
        "features": "{shown}",
        "readout": "{num_readout}",
        "loss": "{loss:.4f}",
        "calibrated": "{calibrated_loss:.4f}",
        "ECE": "{ece:.1p}",
        **{f"found, {each:g} calls": partial(_found, f"{each:g}") for each in calls},
        "CPU s": "{seconds:.0f}",
    }


def _found(calls: str, row: Row) -> str:
    return f"{100 * row['found'][calls]:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fits what was not fitted before, prints the table, and writes it if asked; returns the exit code."""
    return run(_sweep, "python -m training.head.studies.sweep", __doc__, arguments)


def _sweep(
    domain: Annotated[str, choice(_DOMAINS, "Reference chains.")] = "words",
    num_chains: Annotated[int, typer.Option(help="At most to fit on.")] = 20_000,
    num_held_out: Annotated[int, typer.Option(help="To look with.")] = 10_000,
    work: Annotated[Path, typer.Option(help="States and results.")] = _WORK,
    write: Annotated[bool, typer.Option("--write", help=f"Into {PAGE.relative_to(ROOT)}.")] = False,
) -> None:
    torch.set_num_threads(1)
    name, tau, calls = _DOMAINS[domain]
    slm = str(ROOT / "models" / name)
    console = Console(width=None if sys.stdout.isatty() else 160)
    log = work / f"{domain}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(each) for each in log.read_text().splitlines()] if log.exists() else []
    rows: list[Row] = []
    with progress_bar(console) as progress:
        chains = Chains(slm, domain, tau, num_chains, _SEED, FEATURES)
        held_out = replace(chains, num_chains=num_held_out, seed=_HELD_OUT_SEED)
        fitted_on, looked_at = (
            chain_states(each, work / f"{domain}-{each.seed}")
            for each in progress.track((chains, held_out), description="reference chains")
        )
        data = Data(slm, fitted_on, looked_at, calls)
        for tried in progress.track(grid(num_chains), description="heads"):
            made_of = json.loads(
                json.dumps(asdict(tried) | {"held_out": num_held_out, "tau": tau, "lines": chains.lines})
            )
            row = next((row for row in done if row["made_of"] == made_of), None)
            if row is None:
                row = {"made_of": made_of, **measured(tried, data)}
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            width = " x ".join(map(str, tried.hidden))
            rows.append(row | made_of | {"width": width, "shown": ", ".join(tried.features) or "none"})
    wrong = float(data.held_out.wrong.sum()) / data.held_out.num_answers
    title = f"{domain}: heads of a warm start on {num_held_out:,} chains that none has seen"
    console.print(terminal_table(title, columns(calls), rows))
    if write:
        told = (
            f"% of the SLM's wrong tokens ({wrong:.2f} an answer, entropy above {tau:g}) found with so many calls of "
            f"the LLM an answer. {title[0].upper()}{title[1:]}, 8 passes each. {line(provenance())}"
        )
        replace_section(PAGE, f"sweep-{domain}", f"{markdown_table(columns(calls), rows)}\n\n{told}")


if __name__ == "__main__":
    sys.exit(main())
