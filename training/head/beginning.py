"""Where a head begins: its inputs normalised, and (unless DAPO is to be pure) with a warm start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from training.head.files import write_whole
from training.head.mlp import Policy
from training.head.pair import Pair
from training.head.progress import Screen
from training.head.recipe import Recipe
from training.head.states import States
from training.head.warm_start import fit, lean, readout_of

_FILE = "beginning.pt"


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
    if recipe.warm_answers:
        with screen.bar("warm start", recipe.warm_epochs) as advance:
            losses: list[float] = []

            def told(loss: float) -> None:
                losses.append(loss)
                advance()

            fit(policy, states, recipe.warm_epochs, recipe.warm_lr, recipe.seed, told)
        lean(policy, recipe.warm_error)
        words = f"warm start: {len(states.wrong):,} unsure tokens, loss {losses[-1]:.4f}"
        screen.say("warm_start", words, states=len(states.wrong), loss=losses[-1])
    state = {"hidden_size": policy.hidden_size, "policy": policy.state_dict()}
    write_whole(path, lambda file: torch.save(state, file))
    return policy


def _new(hidden_size: int, recipe: Recipe) -> Policy:
    torch.manual_seed(recipe.seed)
    return Policy(hidden_size, recipe.num_readout, recipe.hidden, recipe.start_llm, recipe.features)


def _num_others(recipe: Recipe) -> int:
    """Inputs beside the hidden state."""
    return Policy(0, 0, (), 0.5, recipe.features).num_given
