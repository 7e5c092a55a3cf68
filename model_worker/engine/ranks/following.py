"""The life of a rank other than 0: it makes its runner as rank 0 does, then computes what that one tells."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from model_worker.engine.forward.loader import LoadedModel
from model_worker.engine.forward.parity import parity_tokens, reference_logits
from model_worker.engine.ranks.group import Ranks
from model_worker.engine.ranks.runner import FollowingRunner
from model_worker.engine.ranks.telling import unpacked
from model_worker.engine.types import Limits


def follow(loaded: LoadedModel, limits: Limits, ranks: Ranks) -> NoReturn:
    """Computes one step after another; does not return.

    Raises UnsupportedModel if rank 0's engine is refused, RanksLost if rank 0 is gone, and whatever a step raises:
    this rank is of no use then, and the worker ends with it.
    """
    # Rank 0 has the model's own logits computed before its runner is made, to compare them with its steps.
    reference_logits(loaded, parity_tokens(loaded, limits))
    runner = FollowingRunner(loaded, replace(limits, num_states=0), ranks)
    while True:
        runner.follow(unpacked(ranks.hear()))
