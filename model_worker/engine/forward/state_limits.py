"""What steps are for a model whose layers keep states, and what they cannot be. It knows no model."""

from __future__ import annotations

from dataclasses import replace

from model_worker.engine.bookkeeping.states import LEAST_STATES
from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.types import Limits

# Which calls a layer with states gets depends on where each row begins and ends: no captured step has that shape.
WHY_NOT = ", not captured or compiled, as layers keep states"


def limits_with_states(name: str, limits: Limits) -> Limits:
    """Turns off what "auto" leaves open. Raises UnsupportedModel, by `name`, for what was asked for and cannot be."""
    asked = {
        "--graphs on": limits.graphs == "on",
        "--compile on": limits.compile == "on",
        "--batch-invariant": limits.batch_invariant,
        f"--prefix-cache {limits.prefix_cache}": limits.prefix_cache != "off",
    }
    for flag, is_asked in asked.items():
        if is_asked:
            raise UnsupportedModel(f"{name}: {flag} is not for models whose layers keep states; start without it")
    if limits.num_states < LEAST_STATES:
        raise UnsupportedModel(f"{name}: a session needs up to {LEAST_STATES} states; give --num-states more")
    return replace(limits, graphs="off", compile="off")
