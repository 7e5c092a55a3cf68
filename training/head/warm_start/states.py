"""Unsure states of the SLM, and what is known of its token there: what warm start and calibration of a head learn of.

It knows neither where they come from (`chain_states`, `observed_states`) nor what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rstitch.service.head_features import NUM_RECENT, Situation, num_numbers


@dataclass(frozen=True, slots=True)
class States:
    """Unsure states, n of them, of some answers.

    Attributes:
        inputs: of the head, float32 [n, hidden_size + 1 + num_features]: hidden state, context length, features.
        wrong: whether the SLM's token is wrong, or with which probability, float32 [n].
        answers: the number of the answer that a state is of, int64 [n], in [0, num_answers).
        num_answers: all that were looked through, also those without an unsure state.
    """

    inputs: Tensor
    wrong: Tensor
    answers: Tensor
    num_answers: int

    def __len__(self) -> int:
        return len(self.wrong)

    @classmethod
    def joined(cls, parts: Sequence[States]) -> States:
        """Puts states of different answers together. Raises: ValueError if there are none, or of different widths."""
        if not parts or len({part.inputs.shape[1] for part in parts}) > 1:
            raise ValueError("states of one width, and at least some, can be put together")
        firsts = [0]
        for part in parts:
            firsts.append(firsts[-1] + part.num_answers)
        answers = torch.cat([part.answers + first for part, (first, _) in zip(parts, pairwise(firsts), strict=True)])
        return cls(
            torch.cat([part.inputs for part in parts]), torch.cat([part.wrong for part in parts]), answers, firsts[-1]
        )

    def shown(self, had: Sequence[str], wanted: Sequence[str]) -> States:
        """Gives the same states with some of the features that they have; both are names in the order of the inputs."""
        first = self.inputs.shape[1] - num_numbers(had)
        columns = list(range(first))
        for name in wanted:
            begin = first + num_numbers(had[: had.index(name)])
            columns += range(begin, begin + num_numbers([name]))
        return replace(self, inputs=self.inputs[:, columns])

    def split(self, num_answers: int) -> tuple[States, States]:
        """Gives the states of the first so many answers, and of the others."""
        first = self.answers < num_answers
        num_first = min(num_answers, self.num_answers)
        return (
            States(self.inputs[first], self.wrong[first], self.answers[first], num_first),
            States(self.inputs[~first], self.wrong[~first], self.answers[~first] - num_first,
                   self.num_answers - num_first),
        )  # fmt: skip


def situations(
    asked: Sequence[tuple[int, float]], entropies: Sequence[float], by_llm: Sequence[bool]
) -> list[Situation]:
    """Says how an answer stood where its head is asked, as one that is served sees it there.

    Args:
        asked: indices into the answer, ascending, each with the SLM's entropy there.
        entropies: of the answer's tokens, each of the model that wrote it.
        by_llm: whether the LLM wrote the token.
    """
    found: list[Situation] = []
    num_llm, began, seen = 0, 0, 0
    for place, entropy in asked:
        for index in range(seen, place):
            if by_llm[index]:
                num_llm, began = num_llm + 1, index + 1
        seen = place
        found.append(Situation(entropy, entropies[max(0, place - NUM_RECENT) : place], place - began, num_llm))
    return found


def kept(path: Path, made_of: dict[str, Any], make: Callable[[], States]) -> States:
    """Reads the states of these arguments from a file, or makes them and keeps them there for the next time."""
    if path.exists():
        found = torch.load(path, weights_only=True)
        if found["made_of"] == made_of:
            return States(found["inputs"], found["wrong"], found["answers"], found["num_answers"])
    states = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    fields = {name: getattr(states, name) for name in States.__slots__}
    torch.save({"made_of": made_of, **fields}, part)
    part.replace(path)
    return states
