"""Whether a head's P(the SLM's token is wrong) is what it says, and the correction that makes it so.

`python -m training.head.warm_start.calibration [FILE ...]` prints the reliability of heads on reference chains that
they have not seen. The correction is Platt's (1999): log-odds are multiplied and moved by two numbers found on
held-out states. Both fit into the last layer, so a head's file stays what it is. It changes no order, so no recall. Of
a calibrated head the price is in odds: at price x the LLM is called where the odds that the SLM is wrong are x times
those of price 1.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from evals.asking.values import choice
from evals.figures.report import Columns, Row, terminal_table
from evals.tasks.tiny.domains import DOMAINS
from rstitch.local.part import ROOT
from rstitch.service.head import Head
from training.commands import run
from training.head.mlp import Policy
from training.head.warm_start.chain_states import Chains, chain_states
from training.head.warm_start.states import States

_COLUMNS: Columns = {
    "P(wrong) says": "{low:.1p} to {high:.1p}",
    "states": "{n}",
    "it says on average": "{said:.1p}",
    "wrong": "{wrong:.1p}",
}
_SLM = str(ROOT / "models/tiny-slm")
_SEED = 1_002  # of the problems; heads are trained with small ones
_MAX_STEPS = 100


@dataclass(frozen=True, slots=True)
class Bin:
    """States with a similar P(wrong): what it is at least, at most and on average, and the share that was wrong."""

    n: int
    low: float
    high: float
    said: float
    wrong: float

    @property
    def row(self) -> Row:
        return {name: getattr(self, name) for name in self.__slots__}


def log_odds(policy: Policy, states: States) -> Tensor:
    """Computes the log-odds that the LLM is called, float32 [n]."""
    with torch.no_grad():
        log_p = torch.cat([policy(part) for part in states.inputs.split(8_192)])
    return log_p[:, 1] - log_p[:, 0]


def reliability(odds: Tensor, wrong: Tensor, num_bins: int = 10) -> list[Bin]:
    """Makes bins of as many states each, from the least likely to be wrong to the most.

    Args:
        odds: log-odds of P(wrong), [n].
        wrong: 0 or 1, or a probability, [n].
    """
    said = odds.double().sigmoid()
    order = said.argsort()
    return [
        Bin(len(part), float(said[part[0]]), float(said[part[-1]]), float(said[part].mean()), float(wrong[part].mean()))
        for part in order.tensor_split(num_bins)
        if len(part)
    ]


def expected_error(bins: list[Bin]) -> float:
    """Computes the expected calibration error (ECE): by how much P(wrong) is off, on average over states."""
    return sum(each.n * abs(each.said - each.wrong) for each in bins) / sum(each.n for each in bins)


def platt(odds: Tensor, wrong: Tensor) -> tuple[float, float]:
    """Finds the scale (over 0) and the shift of the log-odds that are likeliest, given what was wrong.

    Raises: ValueError if all or none were wrong: then no shift is the likeliest.
    """
    if not 0 < float(wrong.mean()) < 1:
        raise ValueError("to calibrate takes states of both kinds, right and wrong ones")
    x, y = odds.double(), wrong.double()
    parameters = torch.tensor([0.0, 0.0], dtype=torch.float64, requires_grad=True)  # log of the scale, and the shift
    optimizer = torch.optim.LBFGS([parameters], max_iter=_MAX_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = binary_cross_entropy_with_logits(parameters[0].exp() * x + parameters[1], y)
        value.backward()
        return value

    optimizer.step(loss)
    scale, shift = parameters.detach().tolist()
    return math.exp(scale), shift


def correct(policy: Policy, scale: float, shift: float) -> None:
    """Writes a correction of the log-odds into the last layer."""
    last = policy.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.mul_(scale)
        last.bias.mul_(scale)
        last.bias[1] += shift


def calibrate(policy: Policy, held_out: States) -> tuple[float, float]:
    """Corrects a policy by states that it was not fitted on. Returns its calibration error before and after."""
    before = log_odds(policy, held_out)
    correct(policy, *platt(before, held_out.wrong))
    after = log_odds(policy, held_out)
    first, second = (expected_error(reliability(odds, held_out.wrong)) for odds in (before, after))
    return first, second


def odds_of(head: Head, states: States) -> Tensor:
    """Computes the log-odds of a served head, float32 [n]; its features must be those of the states."""
    size = head.facts.hidden_size
    rows = states.inputs.numpy()
    return torch.tensor(
        [
            float(np.subtract(*head.logits(row[:size].tobytes(), int(row[size]), row[size + 1 :].tolist())[::-1]))
            for row in rows
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table for each head; returns the exit code."""
    return run(_calibration, "python -m training.head.warm_start.calibration", __doc__, arguments)


def _calibration(
    files: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="Heads.", show_default="models/heads/tiny/head.safetensors")
    ] = None,
    slm: Annotated[str, typer.Option(help="Folder or hub id.", show_default="tiny-slm")] = _SLM,
    domain: Annotated[str, choice(DOMAINS, "Of the chains.")] = "words",
    num_chains: Annotated[int, typer.Option(help="Reference chains.")] = 5_000,
) -> None:
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for file in files or [ROOT / "models/heads/tiny/head.safetensors"]:
        facts = (head := Head.from_bytes(file.read_bytes())).facts
        chains = Chains(slm, domain, facts.tau, num_chains, _SEED, facts.features)
        states = chain_states(chains)
        odds = odds_of(head, states)
        scale, shift = platt(odds, states.wrong)
        bins, raw = (reliability(each, states.wrong) for each in (scale * odds + shift, odds))
        title = (
            f"{file.parent.name}: log-odds x {scale:.2f} {shift:+.2f} are those of P(wrong), off by "
            f"{expected_error(bins):.2%} on average ({expected_error(raw):.2%} as is)"
        )
        console.print(terminal_table(title, _COLUMNS, [each.row for each in bins]))


if __name__ == "__main__":
    sys.exit(main())
