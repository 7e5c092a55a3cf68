"""Every policy over toy models, written naively, and the check that an answer is that."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from router_svc.policies.kinds import Random
from rstitch.head import Head
from rstitch.v1 import router_pb2
from tests.support.asking import Answer
from tests.support.toy import STOP, ToyModel

NUM_TOKENS = 50
SIGNALS = {"entropy": 1, "confidence": 2, "margin": 3, "entropy_window": 4}


def naive(
    models: dict[str, ToyModel],
    prompt: Sequence[int],
    policy: dict[str, Any],
    budget: dict[str, Any],
    seed: int = 0,
    exits: Callable[[list[int], ToyModel, int], list[tuple[int, bool]]] | None = None,
    head: Head | None = None,
) -> tuple[list[int], list[str], bool]:
    """Tokens, authors, and whether the budget stopped it. One loop for all policies, with no cache and no run.

    `exits`: of the tokens, who has the pen, and how many tokens that model may add: those of an early exit, each with
    whether it was chosen by the model. `head`: of `learned`.
    """
    tokens, authors, entropies, switches = list(prompt), [], [], 0
    added: list[tuple[int, bool]] = []
    kind, fields = next(iter(policy.items()))
    stops, limit = budget.get("then") == 2, budget.get("llm_tokens")
    tau = 1 - fields["threshold"] if kind == "confidence" else fields.get("tau")
    back = fields.get("tau_return", tau)

    def open_to_llm(active: str) -> bool:
        left = limit is None or authors.count("llm") < limit
        return left and (active == "llm" or switches + 2 <= budget.get("max_switches", 10**9))

    def coin() -> str:
        return Random(fields.get("slm_probability", 0), seed).author(len(tokens)).label

    def value(model: ToyModel) -> float:
        if kind == "learned" or (kind == "threshold" and fields.get("signal", 1) < 2):
            return model.entropy(tokens)
        if kind == "threshold" and fields["signal"] == 4:
            last = [*entropies, model.entropy(tokens)][-fields["window"] :]
            return sum(last) / len(last)
        return model.doubt(tokens)

    def leaves(model: ToyModel) -> bool:
        if tau is None or value(model) <= tau:
            return False
        return head is None or head.wants_llm(model.hidden_state(tokens), len(tokens))

    active = {"llm_only": "llm", "random": coin()}.get(kind, "slm")
    if active == "llm" and (limit == 0 or (kind == "random" and budget.get("max_switches") == 0)):
        active = "slm"
    while len(authors) < NUM_TOKENS:
        model, early = models[active], bool(added)
        token, chosen = added.pop(0) if added else (model.token(tokens), True)
        if not early and active == "slm" and leaves(model):
            if open_to_llm("slm"):
                active, switches = "llm", switches + 1
                continue
            if stops:
                return tokens[len(prompt) :], authors, True
        sure = tau is not None and value(model) <= back
        entropies.append(model.entropy(tokens) if chosen else 0.0)
        tokens.append(token)
        authors.append(active)
        if added:
            continue
        if token == STOP or len(authors) == NUM_TOKENS:
            break
        wanted = {"random": coin(), "llm_only": "llm", "slm_only": "slm"}.get(kind, "llm" if active == "llm" else "slm")
        if active == "llm" and sure:
            wanted = "slm"
        if wanted == "llm" and not open_to_llm(active):
            if stops:
                return tokens[len(prompt) :], authors, True
            wanted = "slm"
        switches += wanted != active
        active = wanted
        if exits is not None:
            left = NUM_TOKENS - len(authors)
            if active == "llm" and limit is not None:
                left = min(left, limit - authors.count("llm"))
            added = exits(tokens, models[active], left)
    return tokens[len(prompt) :], authors, False


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


def check(answer: Answer, expected: tuple[list[int], list[str], bool]) -> None:
    assert answer.error is None
    tokens, authors, stopped = expected
    assert (answer.tokens, answer.authors) == (tokens, authors)
    assert (answer.finished.reason == router_pb2.FINISH_REASON_BUDGET) == stopped
    usage = answer.finished.usage
    assert usage.num_llm_tokens == authors.count("llm")
    assert usage.num_switches == len(answer.switches)
