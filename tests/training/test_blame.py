"""Whose token makes an answer wrong: along right lines of either style, up to the first character that leaves both."""

from __future__ import annotations

import random

import pytest

from evals.latency import Run
from evals.tasks.data import Problem
from evals.tasks.tiny.domain import OPEN
from evals.tasks.tiny.domains import DOMAINS
from rstitch.client.events import Consultation
from training.head.rollouts.types import Rollout
from training.head.studies.blame import blamed, first_wrong


@pytest.mark.parametrize("name", ["words", "programs"])
def test_right_answers_of_any_mixture_of_styles_are_right(name: str) -> None:
    domain, rng = DOMAINS[name], random.Random(3)
    for problem in domain.generator.problems("dev", 20, 0):
        styles = [rng.choice(["short", "verbose"]) for _ in problem.steps]
        lines = [domain.line(step, style) for step, style in zip(problem.steps, styles, strict=True)]
        text = "".join([OPEN, *lines, domain.closing(problem)])
        assert first_wrong(text, domain, problem) == (None, styles)
        for at in (len(OPEN), len(text) // 2, len(text) - 1):
            broken = text[:at] + "#" + text[at + 1 :]
            assert first_wrong(broken, domain, problem)[0] == at
        assert first_wrong(text[:-3], domain, problem)[0] == len(text) - 3, "it ended too early"
        assert first_wrong(f"{text}!", domain, problem)[0] == len(text), "it went on"


def test_a_token_is_whose_run_it_is_in_and_the_heads_if_it_was_asked() -> None:
    runs = (Run("slm", 2, True), Run("llm", 1, False), Run("slm", 2, False))
    asked = (Consultation(10 + 2, b"", 0.5, 0), Consultation(10 + 3, b"", 0.5, 0))
    rollout = Rollout(Problem(0, "0", "", ""), "abcdefghij", False, 1.0, 5, 1, runs, asked)
    ends = [2, 4, 6, 8, 10]
    assert [blamed(rollout, 10, ends, at) for at in (0, 3, 4, 6, 7, 8)] == [
        "unasked", "unasked", "llm", "stayed", "stayed", "unasked",
    ]  # fmt: skip
    assert blamed(rollout, 10, ends, 10) == "unasked", "the end that came too early is the last one's"
