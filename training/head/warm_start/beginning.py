"""Where a head begins: its inputs normalised, and (unless DAPO is to be pure) with a warm start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from evals.figures.report import Row
from training.head.files import write_whole
from training.head.mlp import Policy
from training.head.pair import Pair
from training.head.progress import Screen
from training.head.recipe import Recipe
from training.head.warm_start.calibration import calibrate, log_odds, reliability
from training.head.warm_start.fitting import fit, lean
from training.head.warm_start.readout import readout_of
from training.head.warm_start.states import States

_FILE = "beginning.pt"
_HELD_OUT = 0.1  # of the warm start's answers, to calibrate by and to look at that with
_ENOUGH = 200  # states to calibrate by


def check_files(folder: Path, recipe: Recipe, pair: Pair, source: str) -> None:
    """Finds the SLM's files if a beginning needs them that is not made yet. Raises RstitchError if they are not here.

    Args:
        source: of the warm start's states.
    """
    if (recipe.num_readout or source == "chains") and not (folder / _FILE).exists():
        pair.slm_files(for_chains=source == "chains")


def begin(folder: Path, recipe: Recipe, pair: Pair, states_of: Callable[[], States], screen: Screen) -> Policy:
    """Makes the policy that DAPO begins with, of the states that `states_of` finds, or reads the one that was made."""
    path = folder / _FILE
    if path.exists():
        state = torch.load(path, weights_only=True)
        policy = _new(state["hidden_size"], recipe)
        policy.load_state_dict(state["policy"])
        return policy
    states = states_of()
    policy = _new(states.inputs.shape[1] - _num_others(recipe), recipe)
    if recipe.num_readout:
        policy.readout.copy_(readout_of(pair.slm_files(), states, recipe.num_readout))
    policy.normalise(states.inputs)
    rows: list[Row] = []
    if recipe.warm_answers != 0:
        with screen.bar("warm start", recipe.warm_epochs) as advance:
            losses: list[float] = []

            def told(loss: float) -> None:
                losses.append(loss)
                advance()

            fitted_on, held_out = states.split(round((1 - _HELD_OUT) * states.num_answers))
            fit(policy, fitted_on, recipe.warm_epochs, recipe.warm_lr, recipe.seed, told)
        rows = _calibrated(policy, held_out)
        lean(policy, recipe.warm_error)
        words = f"warm start: {len(fitted_on):,} unsure tokens, loss {losses[-1]:.4f}"
        screen.say("warm_start", words, states=len(fitted_on), loss=losses[-1])
    state = {"hidden_size": policy.hidden_size, "policy": policy.state_dict(), "calibration": rows}
    write_whole(path, lambda file: torch.save(state, file))
    return policy


def calibration_of(folder: Path) -> list[Row]:
    """Reads how P(wrong) of the warm start was calibrated: rows of n, low, high, said, wrong; none without one."""
    rows: list[Row] = torch.load(folder / _FILE, weights_only=True)["calibration"]
    return rows


def _calibrated(policy: Policy, held_out: States) -> list[Row]:
    """Calibrates by half of the states that were not fitted on, if they are enough; tells of the others."""
    corrected_by, looked_at = held_out.split(held_out.num_answers // 2)
    if min(len(corrected_by), len(looked_at)) < _ENOUGH or not 0 < float(corrected_by.wrong.mean()) < 1:
        return []
    calibrate(policy, corrected_by)
    return [each.row for each in reliability(log_odds(policy, looked_at), looked_at.wrong)]


def _new(hidden_size: int, recipe: Recipe) -> Policy:
    torch.manual_seed(recipe.seed)
    return Policy(hidden_size, recipe.num_readout, recipe.hidden, recipe.start_llm, recipe.features)


def _num_others(recipe: Recipe) -> int:
    """Inputs beside the hidden state."""
    return Policy(0, 0, (), 0.5, recipe.features).num_given
