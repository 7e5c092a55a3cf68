"""The most probable tokens beside each one written: the model's own, on every path, and never looked for in vain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from model_worker.engine.engine import Engine
from model_worker.engine.forward import alternatives, attention_varlen, outcome
from model_worker.engine.forward.alternatives import most_probable
from model_worker.engine.types import Handoff, RunRequest, Sampling, TokenKept
from tests.support.engines import make_engine, run_all
from tests.support.pairs import VOCAB_SIZE
from tests.support.varlen import naive_varlen_attn

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50], [5, 250, 17, 130]]
LENGTH = 8
NO_STOP = frozenset([VOCAB_SIZE])
PATHS: dict[str, dict[str, Any]] = {
    "native": {"attention": "native"},
    "gathered": {"attention": "gather"},
    "block tables": {"attention": "varlen"},
    "graphs": {"attention": "varlen", "graphs": "on"},
    "batch-invariant": {"batch_invariant": True},
}
DRAWN = Sampling(1.1, top_p=0.9, top_k=20, seed=5)


def expected(model: Any, tokens: Sequence[int], num: int, masked: Sequence[int] = ()) -> list[tuple[int, float]]:
    """Sorted as a whole, by one forward over all tokens."""
    with torch.inference_mode():
        logits = model(torch.tensor([list(tokens)])).logits[0, -1, :VOCAB_SIZE].clone()
        logits[list(masked)] = -torch.inf
    logprobs, ids = logits.log_softmax(-1).sort(descending=True, stable=True)
    return list(zip(ids.tolist(), logprobs.tolist(), strict=True))[:num]


def kept(engine: Engine, requests: list[RunRequest]) -> list[list[TokenKept]]:
    found: dict[int, list[TokenKept]] = {engine.submit(request): [] for request in requests}
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TokenKept):
                found[event.run_id].append(event)
    engine.check_integrity()
    return list(found.values())


def check(model: Any, prompt: list[int], events: list[TokenKept], num: int, masked: Sequence[int] = ()) -> None:
    for index, event in enumerate(events):
        told = event.alternatives
        assert told is not None
        naive = expected(model, [*prompt, *(before.token for before in events[:index])], VOCAB_SIZE, masked)
        assert [token for token, _ in told] == [token for token, _ in naive[:num]]
        assert [value for _, value in told] == pytest.approx([value for _, value in naive[:num]], abs=1e-6)
        assert event.logprob == pytest.approx(dict(naive)[event.token], abs=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_they_are_the_models_own(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beside rows that ask for none, for other numbers, with masks and drafts, greedy and drawn."""
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)
    engine, model = make_engine(max_batch_tokens=24, **PATHS[path])
    masked = (11, 12, 13, 40)
    asks: list[dict[str, Any]] = [
        {"top_logprobs": 3},
        {"top_logprobs": 20, "sampling": DRAWN},
        {"top_logprobs": 0},
        {"top_logprobs": 5, "masked_tokens": masked, "sampling": DRAWN},
    ]
    requests = [
        RunRequest(f"s{index}", 0, prompt, max_tokens=LENGTH, stop_tokens=NO_STOP, **fields)
        for index, (prompt, fields) in enumerate(zip(PROMPTS, asks, strict=True))
    ]
    found = kept(engine, requests)
    for prompt, events, request in zip(PROMPTS, found, requests, strict=True):
        if request.top_logprobs:
            check(model, prompt, events, request.top_logprobs, request.masked_tokens)
        else:
            assert [event.alternatives for event in events] == [None] * LENGTH
    # A draft: what agrees of it, and the token after, have what they have without one.
    for prompt, events, request in zip(PROMPTS[:2], found, requests, strict=False):
        draft = [*(event.token for event in events[:4]), 299]
        again = RunRequest(
            "draft", 0, prompt, request.sampling, LENGTH, NO_STOP, draft=draft, top_logprobs=request.top_logprobs
        )
        (verified,) = kept(engine, [again])
        assert [event.token for event in verified] == [event.token for event in events[:5]]
        check(model, prompt, verified, request.top_logprobs)
        engine.close_session("draft")


def test_a_proposal_has_them_too() -> None:
    engine, model = make_engine()
    request = RunRequest("s", 0, PROMPTS[0], max_tokens=4, handoff=Handoff(above=-1.0), top_logprobs=4)
    (result,) = run_all(engine, [request])
    assert result.finished is not None
    assert result.finished.proposal is not None
    told = result.finished.proposal.alternatives
    assert told is not None
    assert [token for token, _ in told] == [token for token, _ in expected(model, PROMPTS[0], 4)]


def test_nothing_is_computed_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise AssertionError("somebody looked")

    monkeypatch.setattr(outcome, "most_probable", fail)
    engine, _ = make_engine()
    (events,) = kept(engine, [RunRequest("s", 0, PROMPTS[0], max_tokens=LENGTH, stop_tokens=NO_STOP)])
    assert len(events) == LENGTH


def test_equals_come_by_id_and_what_has_no_probability_not_at_all() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.5, 2.0, -torch.inf], [0.0] * 6, [-torch.inf] * 4 + [3.0, 4.0]])
    for num, ids in ((1, [[1], [0], [5]]), (2, [[1, 2], [0, 1], [5, 4]]), (4, [[1, 2, 4, 0], [0, 1, 2, 3], [5, 4]])):
        found = most_probable(logits, [0, 1, 2], [num] * 3)()
        assert [[token for token, _ in row] for row in found] == ids
    whole = most_probable(logits, [2, 0], [6, 20])()
    assert [[token for token, _ in row] for row in whole] == [[5, 4], [1, 2, 4, 0, 3]]
    own = logits[0].log_softmax(-1).tolist()
    assert whole[1] == tuple((token, own[token]) for token in (1, 2, 4, 0, 3))
    assert alternatives.most_probable(logits, [1], [1])() == [((0, pytest.approx(-1.791759)),)]


def test_of_many_rows_each_has_its_own() -> None:
    logits = torch.randn(30, 40, generator=torch.Generator().manual_seed(2))
    rows, counts = [*range(29, 2, -1)], [1 + index % 5 for index in range(27)]
    found = most_probable(logits, rows, counts)()
    order = logits.sort(descending=True, stable=True).indices
    assert [[token for token, _ in row] for row in found] == [
        order[row, :num].tolist() for row, num in zip(rows, counts, strict=True)
    ]
