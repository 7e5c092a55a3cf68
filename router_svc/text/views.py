"""A session as one model reads it: its own prompts by its own template, in its own ids.

What is kept of a session (the trajectory) has each answer's tokens once. Each worker holds what its model reads, and
positions on a worker count that. A view is a function of the trajectory alone, so any router makes the same one.

    trajectory   [prompt of the LLM | answer, ids of the LLM | next prompt ...
    LLM's view   the same array, unless its template drops something of earlier answers
    SLM's view   [prompt of the SLM | answer, its own ids    | next prompt ...
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol

from router_svc.trajectory.types import Model


class View(Protocol):
    """What the worker of one model is to hold; only the answer that is being written changes it."""

    tokens: array[int]  # in the model's own ids

    def begin_segment(self, writer: Model) -> None:
        """Takes note that `writer` writes from here on."""

    def keep(self, writer: Model, tokens: Sequence[int]) -> None:
        """Takes tokens of the answer, in the answer's ids, that `writer` wrote."""

    def refresh(self) -> int | None:
        """Brings `tokens` up to date. Returns the first position whose token has changed; None: they only grew."""

    def to_own(self, tokens: Sequence[int]) -> array[int]:
        """The model's ids for ids of the answer; those without a counterpart are left out."""

    def to_answer(self, tokens: Sequence[int]) -> list[int]:
        """Ids of the answer for the model's own."""
