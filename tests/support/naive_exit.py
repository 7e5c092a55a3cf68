"""Early exit over toy models, written naively, and the check that an answer ended so."""

from __future__ import annotations

import math
from typing import Any

import pytest

from router_svc.text.tokenizer import Tokenizer
from tests.support.asking import Answer
from tests.support.toy import STOP, ToyModel, make_tokenizer_files

TOKENIZER = Tokenizer(make_tokenizer_files())
PROMPT = [7, 8, 9]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]
EXITS: list[dict[str, Any]] = [
    {"threshold": 0.45, "boundaries": LETTERS[:8], "prompt": "=>", "end": "z", "max_trial_tokens": 6},
    {"threshold": 0.6, "boundaries": LETTERS[:16], "prompt": "</think>", "end": "0"},
    {"threshold": 0.55, "boundaries": ["an", "e", "the", "q"], "prompt": ".", "end": "a", "max_trial_tokens": 1},
    {"threshold": 1.0, "boundaries": LETTERS[:4], "prompt": "x", "end": "y", "max_trial_tokens": 3},
    {"threshold": 1e-9, "boundaries": ["a", "b"], "prompt": "1234567890", "end": "c"},
]


class Naive:
    """Early exit over toy models: `naive` asks it after each token."""

    def __init__(self, asked: dict[str, Any], start: int = len(PROMPT), marker: str = "</think>") -> None:
        self.asked, self.start, self.marker = asked, start, marker
        self.prompt = list(TOKENIZER.encode(asked["prompt"], begins=False))
        self.taken: tuple[int, float] | None = None
        self.num_trials = self.num_tokens = 0

    def __call__(self, tokens: list[int], model: ToyModel, room: int) -> list[tuple[int, bool]]:
        text = TOKENIZER.spelled(tokens[-1:])
        thinking = self.taken is None and self.marker not in TOKENIZER.spelled(tokens[self.start :])
        most = min(self.asked.get("max_trial_tokens") or 32, room - len(self.prompt))
        if not thinking or most < 1 or not any(boundary in text for boundary in self.asked["boundaries"]):
            return []
        trial: list[int] = []
        probabilities = []
        while len(trial) < most and not (
            trial and (trial[-1] == STOP or self.asked["end"] in TOKENIZER.spelled(trial[-1:]))
        ):
            prefix = [*tokens, *self.prompt, *trial]
            probabilities.append(math.exp(model.logprob(prefix)))
            trial.append(model.token(prefix))
        self.num_trials += 1
        self.num_tokens += len(self.prompt) + len(trial)
        confidence = sum(probabilities) / len(probabilities)
        if confidence <= self.asked["threshold"]:
            return []
        self.taken = len(tokens), confidence
        return [(token, False) for token in self.prompt] + [(token, True) for token in trial]


def check_exit(answer: Answer, oracle: Naive) -> None:
    """What finished says of the exit."""
    taken = answer.finished.early_exit if answer.finished.HasField("early_exit") else None
    assert (taken is None) == (oracle.taken is None)
    if taken is not None and oracle.taken is not None:
        assert taken.position == oracle.taken[0]
        assert taken.confidence == pytest.approx(oracle.taken[1])
        first = taken.position - answer.position
        assert answer.entropies[first : first + len(oracle.prompt)] == [0.0] * len(oracle.prompt)
