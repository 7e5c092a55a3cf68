"""What a warm start is worth by width, data and features: `python -m training.head.studies.sweep`.

One thing is varied at a time. Each head is fitted on reference chains of the train split and looked at on others of it:
its loss, and the share of the SLM's wrong tokens that it finds with so many calls of the LLM an answer, which says what
its policy can reach. A sweep that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch.nn.functional import binary_cross_entropy_with_logits

from evals.figures.progress import progress_bar
from evals.figures.provenance import line, provenance
from evals.figures.report import Columns, Row, markdown_table, replace_section, terminal_table
from rstitch.local.part import ROOT
from training.head.mlp import Policy
from training.head.studies.recall import share_found
from training.head.warm_start.calibration import expected_error, log_odds, platt, reliability
from training.head.warm_start.chain_states import Chains, chain_states
from training.head.warm_start.fitting import fit
from training.head.warm_start.readout import readout_of
from training.head.warm_start.states import States

FEATURES = ("entropy", "recent", "segment", "spent")
PAGE = ROOT / "docs/head_limits.md"
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


def main() -> int:
    """Fits what was not fitted before, prints the table, and writes it if asked."""
    parser = argparse.ArgumentParser(prog="python -m training.head.studies.sweep", description=__doc__)
    parser.add_argument("--domain", choices=tuple(_DOMAINS), default="words", help="reference chains (default words)")
    parser.add_argument("--num-chains", type=int, default=20_000, help="at most to fit on (default 20,000)")
    parser.add_argument("--num-held-out", type=int, default=10_000, help="to look with (default 10,000)")
    parser.add_argument("--work", type=Path, default=Path(".cache/sweep"), help="states and results (.cache/sweep)")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name, tau, calls = _DOMAINS[options.domain]
    slm = str(ROOT / "models" / name)
    console = Console(width=None if sys.stdout.isatty() else 160)
    log = options.work / f"{options.domain}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(each) for each in log.read_text().splitlines()] if log.exists() else []
    rows: list[Row] = []
    with progress_bar(console) as progress:
        chains = Chains(slm, options.domain, tau, options.num_chains, _SEED, FEATURES)
        held_out = replace(chains, num_chains=options.num_held_out, seed=_HELD_OUT_SEED)
        fitted_on, looked_at = (
            chain_states(each, options.work / f"{options.domain}-{each.seed}")
            for each in progress.track((chains, held_out), description="reference chains")
        )
        data = Data(slm, fitted_on, looked_at, calls)
        for tried in progress.track(grid(options.num_chains), description="heads"):
            made_of = json.loads(
                json.dumps(asdict(tried) | {"held_out": options.num_held_out, "tau": tau, "lines": chains.lines})
            )
            row = next((row for row in done if row["made_of"] == made_of), None)
            if row is None:
                row = {"made_of": made_of, **measured(tried, data)}
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            width = " x ".join(map(str, tried.hidden))
            rows.append(row | made_of | {"width": width, "shown": ", ".join(tried.features) or "none"})
    wrong = float(data.held_out.wrong.sum()) / data.held_out.num_answers
    title = f"{options.domain}: heads of a warm start on {options.num_held_out:,} chains that none has seen"
    console.print(terminal_table(title, columns(calls), rows))
    if options.write:
        told = (
            f"% of the SLM's wrong tokens ({wrong:.2f} an answer, entropy above {tau:g}) found with so many calls of "
            f"the LLM an answer. {title[0].upper()}{title[1:]}, 8 passes each. {line(provenance())}"
        )
        replace_section(PAGE, f"sweep-{options.domain}", f"{markdown_table(columns(calls), rows)}\n\n{told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
