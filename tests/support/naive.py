"""What the reference makes of a question to toy models, and the check that an answer is that.

It knows every policy, budget and early exit, and neither cache nor run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from evals.algorithm.reference import Answer as Written
from evals.algorithm.reference import Author, Authors, Budget, EarlyExit, Rule, stitch
from evals.algorithm.reference import Signal as SignalName
from evals.algorithm.reference import Threshold as Rising
from router_svc.policies.kinds import Random
from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.types import Model
from rstitch.service.head import Head
from rstitch.v1 import router_pb2
from tests.support.asking import Answer
from tests.support.toy import STOP, ToyModel, make_tokenizer_files

NUM_TOKENS = 50
SIGNALS: dict[SignalName, int] = {"entropy": 1, "confidence": 2, "margin": 3, "entropy_window": 4}
SIGNAL_NAMES = {number: name for name, number in SIGNALS.items()}
TOKENIZER = Tokenizer(make_tokenizer_files())
EXIT_MARKER = "</think>"
PROMPT = [7, 8, 9]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]
EXITS: list[dict[str, Any]] = [
    {"threshold": 0.45, "boundaries": LETTERS[:8], "prompt": "=>", "end": "z", "max_trial_tokens": 6},
    {"threshold": 0.6, "boundaries": LETTERS[:16], "prompt": "</think>", "end": "0"},
    {"threshold": 0.55, "boundaries": ["an", "e", "the", "q"], "prompt": ".", "end": "a", "max_trial_tokens": 1},
    {"threshold": 1.0, "boundaries": LETTERS[:4], "prompt": "x", "end": "y", "max_trial_tokens": 3},
    {"threshold": 1e-9, "boundaries": ["a", "b"], "prompt": "1234567890", "end": "c"},
]


def rule_of(
    policy: dict[str, Any],
    start: int,
    slm: ToyModel,
    max_switches: float = math.inf,
    seed: int = 0,
    head: Head | None = None,
) -> Rule:
    """The reference's rule for a policy, of an answer that begins at position `start`."""
    kind, fields = next(iter(policy.items()))

    def coin(position: int) -> Author:
        if position == start and max_switches == 0:
            return "slm"
        return "slm" if Random(fields["slm_probability"], seed).author(position) is Model.SLM else "llm"

    def wants_llm(tokens: Sequence[int]) -> bool:
        return head is not None and head.wants_llm(slm.hidden_state(tokens), len(tokens))

    rules: dict[str, Callable[[], Rule]] = {
        "threshold": lambda: Rising(
            fields["tau"], fields["tau_return"], SIGNAL_NAMES[fields["signal"]], fields.get("window", 0)
        ),
        "confidence": lambda: Rising(1 - fields["threshold"], signal="confidence"),
        "learned": lambda: Rising(fields["tau"], wants_llm=wants_llm),
        "random": lambda: Authors(coin),
        "llm_only": lambda: Authors(lambda position: "llm"),
        "slm_only": lambda: Authors(lambda position: "slm"),
    }
    return rules[kind]()


def naive(
    models: dict[str, ToyModel],
    prompt: Sequence[int],
    policy: dict[str, Any],
    budget: dict[str, Any],
    seed: int = 0,
    exit_: dict[str, Any] | None = None,
    head: Head | None = None,
) -> Written:
    """What the reference makes of a question; `head` is that of `learned`."""
    most = budget.get("max_switches", math.inf)
    return stitch(
        models["slm"],
        models["llm"],
        prompt,
        rule_of(policy, len(prompt), models["slm"], most, seed, head),
        max_new_tokens=NUM_TOKENS,
        stop_tokens={STOP},
        budget=Budget(budget.get("llm_tokens", math.inf), most, budget.get("then") == 2),
        early_exit=None if exit_ is None else early_exit_of(exit_),
    )


def early_exit_of(exit_: dict[str, Any]) -> EarlyExit:
    """The reference's, of a question's."""
    return EarlyExit(
        exit_["threshold"],
        tuple(exit_["boundaries"]),
        tuple(TOKENIZER.encode(exit_["prompt"], begins=False)),
        exit_["end"],
        exit_.get("max_trial_tokens", 32),
        EXIT_MARKER,
        TOKENIZER.spelled,
    )


def told(written: Written) -> tuple[list[int], list[str]]:
    """The answer's tokens, and who wrote each."""
    return [token.id for token in written.written], [token.model for token in written.written]


POLICIES: dict[str, dict[str, Any]] = {
    **{
        f"{name} {tau} {back}": {"threshold": {"tau": tau, "tau_return": back, "signal": number}}
        for (name, number), (tau, back) in itertools.product(
            list(SIGNALS.items())[:3], [(0.3, 0.3), (0.5, 0.1), (0.2, 0.9), (-1, -1), (1, 1)]
        )
    },
    **{
        f"window {window} {tau}": {"threshold": {"tau": tau, "tau_return": back, "signal": 4, "window": window}}
        for window, (tau, back) in itertools.product([1, 2, 5, 64], [(0.5, 0.5), (0.4, 0.6), (0.45, 0.3)])
    },
    **{f"confidence {t}": {"confidence": {"threshold": t}} for t in (0, 0.25, 0.7, 1)},
    **{f"random {p}": {"random": {"slm_probability": p, "seed": 5}} for p in (0, 0.3, 0.9, 1)},
    "llm": {"llm_only": {}},
    "slm": {"slm_only": {}},
}


def check(answer: Answer, expected: Written) -> None:
    assert answer.error is None
    assert (answer.tokens, answer.authors) == told(expected)
    assert (answer.finished.reason == router_pb2.FINISH_REASON_BUDGET) == expected.is_over_budget
    usage = answer.finished.usage
    assert usage.num_llm_tokens == expected.num_llm_tokens
    assert usage.num_switches == len(answer.switches)


def check_exit(answer: Answer, expected: Written, exit_: dict[str, Any]) -> None:
    """What finished says of the exit."""
    taken = answer.finished.early_exit if answer.finished.HasField("early_exit") else None
    assert (taken is None) == (expected.exited is None)
    if taken is not None and expected.exited is not None:
        assert taken.position == expected.exited[0]
        assert taken.confidence == pytest.approx(expected.exited[1])
        first, num = taken.position - answer.position, len(early_exit_of(exit_).prompt)
        assert answer.entropies[first : first + num] == [0.0] * num
