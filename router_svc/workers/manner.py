"""How all runs of one answer on one worker are, whoever asks for them. It knows no run."""

from __future__ import annotations

from dataclasses import dataclass

from router_svc.trajectory.types import Sampling
from router_svc.workers.runs import Grammar


@dataclass(frozen=True, slots=True)
class Manner:
    """How all runs of one session on one worker are: how tokens are drawn, and which can be none."""

    sampling: Sampling
    context_length: int
    position_offset: int = 0  # added to a position on the worker before its token is drawn
    masked_tokens: tuple[int, ...] = ()  # own ids of the model
    penalized_from: int = 0  # the position on the worker where the answer begins, if its tokens count
    top_logprobs: int = 0  # how many alternatives are to come with each token that may be kept
    stop_tokens: frozenset[int] = frozenset()  # of the answer, where a run names none; none: the model's own
    grammar: Grammar | None = None  # what the answer must be
