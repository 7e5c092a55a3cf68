"""Bias, penalties and min_p: each token is the naive choice's, on every path, with drafts and without."""

from __future__ import annotations

import gc
import weakref
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from model_worker.engine.bookkeeping import token_counts
from model_worker.engine.bookkeeping.signals import rounded
from model_worker.engine.bookkeeping.token_counts import Counted, TokenCounts
from model_worker.engine.engine import Engine
from model_worker.engine.errors import InvalidRun
from model_worker.engine.forward import attention_varlen, sampling
from model_worker.engine.forward.inversion import GROUP, draw
from model_worker.engine.forward.shaping import shaped
from model_worker.engine.types import GREEDY, RunRequest, Sampling, TokenKept
from rstitch.limits import MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY
from tests.support.engines import make_engine
from tests.support.pairs import VOCAB_SIZE
from tests.support.shaped import choose
from tests.support.varlen import naive_varlen_attn

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50, 51], [5, 250, 17, 130]]
LENGTH = 16
NO_STOP = frozenset([VOCAB_SIZE])
PATHS: dict[str, dict[str, Any]] = {
    "native": {"attention": "native"},
    "block tables": {"attention": "varlen"},
    "graphs": {"attention": "varlen", "graphs": "on"},
}
WAYS = {
    "min_p": Sampling(1.2, seed=3, min_p=0.2),
    "min_p among others": Sampling(1.5, 0.9, 12, 4, min_p=0.05),
    "bias": Sampling(logit_bias=((5, 50.0), (8, -100.0), (200, 3.5))),
    "drawn with a bias": Sampling(0.9, seed=9, logit_bias=((5, 4.0), (17, -3.0))),
    "presence": Sampling(presence_penalty=2.0),
    "frequency": Sampling(0.7, seed=6, frequency_penalty=-2.0),
    "repetition": Sampling(repetition_penalty=1.5),
    "all": Sampling(1.1, 0.95, 40, 7, 0, 0.01, ((9, 2.0),), 1.0, 0.5, 1.3),
}


def kept(engine: Engine, requests: list[RunRequest]) -> list[list[TokenKept]]:
    found: dict[int, list[TokenKept]] = {engine.submit(request): [] for request in requests}
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TokenKept):
                found[event.run_id].append(event)
    engine.check_integrity()
    return list(found.values())


def counted(tokens: Sequence[int]) -> Counted:
    return TokenCounts(0).until(array("I", tokens), len(tokens))


def check(model: Any, prompt: list[int], events: list[TokenKept], how: Sampling) -> None:
    """Tokens are the naive choice's; what is told of them is the model's own."""
    assert events
    answer = [event.token for event in events]
    with torch.inference_mode():
        whole = model(torch.tensor([[*prompt, *answer]])).logits[0, :, :VOCAB_SIZE]
    for index, event in enumerate(events):
        position = len(prompt) + index
        logits = whole[position - 1]
        begins = how.penalized_from - len(prompt)
        assert event.token == choose(logits.tolist(), answer[max(begins, 0) : index], position, how)
        assert event.logprob == pytest.approx(float(logits.log_softmax(-1)[event.token]), abs=1e-6)
        p = logits.softmax(-1)
        entropy = float(torch.special.entr(p).sum()) / torch.tensor(float(VOCAB_SIZE)).log().item()
        assert event.entropy == pytest.approx(rounded(entropy), abs=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_each_token_is_the_naive_choice(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side, and beside one that asks for nothing; then drafts of the same, and wrong ones."""
    monkeypatch.setattr(attention_varlen, "varlen_attn", naive_varlen_attn)
    engine, model = make_engine(**PATHS[path])
    asks = [(prompt, how) for prompt, how in zip(PROMPTS * 2, WAYS.values(), strict=True)]
    asks = [(prompt, _from(how, len(prompt))) for prompt, how in asks] + [(PROMPTS[0], GREEDY)]
    requests = [RunRequest(f"s{index}", 0, prompt, how, LENGTH, NO_STOP) for index, (prompt, how) in enumerate(asks)]
    found = kept(engine, requests)
    for (prompt, how), events in zip(asks, found, strict=True):
        check(model, prompt, events, how)
    for (prompt, how), events in zip(asks, found, strict=True):
        for num in (6, 3):
            draft = [*(event.token for event in events[:num]), 299, 5]
            (verified,) = kept(engine, [RunRequest("d", 0, prompt, how, LENGTH, NO_STOP, draft=draft)])
            assert [event.token for event in verified] == [event.token for event in events[: num + 1]]
            engine.close_session("d")
        # Taken up in the middle, by another run: the answer still begins where it began.
        half = [*prompt, *(event.token for event in events[:5])]
        (rest,) = kept(engine, [RunRequest("h", 0, half, how, LENGTH - 5, NO_STOP)])
        assert [event.token for event in rest] == [event.token for event in events[5:]]
        engine.close_session("h")


def _from(how: Sampling, start: int) -> Sampling:
    values = [getattr(how, name) for name in Sampling.__slots__]
    return Sampling(*values[:-1], start)


def test_a_shape_that_says_nothing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise AssertionError("somebody reshaped logits")

    monkeypatch.setattr(sampling, "shaped", fail)
    engine, _ = make_engine()
    plain, drawn = Sampling(penalized_from=3), Sampling(1.0, seed=4)
    found = kept(
        engine, [RunRequest(f"{i}", 0, PROMPTS[0], how, LENGTH, NO_STOP) for i, how in enumerate((plain, drawn))]
    )
    assert all(len(events) == LENGTH for events in found)


@pytest.mark.parametrize("min_p", [1e-6, 0.001, 0.05, 0.5, 1.0])
def test_min_p_is_the_same_however_few_are_sorted(min_p: float) -> None:
    torch.manual_seed(3)
    logits = torch.randn(40, 5000, dtype=torch.float64) * 2
    logits[:4] = 0.5  # all alike
    hows = [Sampling(1.3, top_p=0.5 + index / 80, min_p=min_p) for index in range(40)]
    draws = [index / 40 for index in range(40)]
    whole = draw(logits, range(40), hows, draws, 0)
    for first in (1, 8, 64, 2048):
        tokens, logprobs = draw(logits, range(40), hows, draws, first)
        assert tokens == whole[0]
        assert logprobs == pytest.approx(whole[1])
    for row, token in enumerate(whole[0]):
        assert logits[row, token] >= logits[row].max() + 1.3 * torch.tensor(min_p).double().log() - 1e-9


@pytest.mark.parametrize("penalty", [MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_at_its_bounds_a_repetition_penalty_writes_nothing_masked(penalty: float, temperature: float) -> None:
    engine, _ = make_engine()
    masked = tuple(range(0, VOCAB_SIZE, 2))
    how = Sampling(temperature, seed=2, repetition_penalty=penalty)  # looks at the prompt, which has masked tokens
    request = RunRequest("s", 0, [*range(40)], how, LENGTH, NO_STOP, masked_tokens=masked)
    (events,) = kept(engine, [request])
    assert len(events) == LENGTH
    assert not {event.token for event in events} & {*masked}


def test_logits_stay_finite_at_the_bounds_of_a_repetition_penalty() -> None:
    logits = torch.tensor([[1e30, -1e30, 0.0, 3.0, -torch.inf]])
    for penalty in (MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY):
        made = shaped(logits, [0], [Sampling(repetition_penalty=penalty)], [counted(range(5))])
        assert made[0].isfinite().tolist() == [True] * 4 + [False]
        assert made[0, 4] == -torch.inf


def test_a_bias_of_no_token_is_refused() -> None:
    engine, _ = make_engine()
    with pytest.raises(InvalidRun) as refused:
        engine.submit(RunRequest("s", 0, [5], Sampling(logit_bias=((VOCAB_SIZE, 1.0),)), 1))
    assert refused.value.field == "sampling.logit_bias"


def test_rows_are_reshaped_a_group_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def noted(logits: torch.Tensor, rows: Sequence[int], *others: Any) -> torch.Tensor:
        sizes.append(len(rows))
        return shaped(logits, rows, *others)

    monkeypatch.setattr(sampling, "shaped", noted)
    logits = torch.randn(40, 50, generator=torch.Generator().manual_seed(1))
    hows = [Sampling(index % 2, seed=index, frequency_penalty=1.0) for index in range(35)]
    rows, answers = [*range(39, 4, -1)], [[index, index, 7] for index in range(35)]
    made = sampling.choose(
        lambda: sampling.measure_on_host(logits), logits, rows, hows, range(35), lambda index: counted(answers[index])
    )()
    assert made.tokens == [
        choose(logits[row].tolist(), answer, index, how)
        for index, (row, answer, how) in enumerate(zip(rows, answers, hows, strict=True))
    ]
    exact = logits.log_softmax(-1)
    told = [float(exact[row, token]) for row, token in zip(rows, made.tokens, strict=True)]
    assert made.logprobs == pytest.approx(told, abs=1e-6)
    assert max(sizes) == GROUP
    assert sum(sizes) == 35


def test_counts_are_those_of_the_answer_however_it_grew() -> None:
    """Token by token, several at once, with drafts that are dropped, from within and behind what there is."""
    generator = torch.Generator().manual_seed(2)
    for start in (0, 5, 60):
        counts, tokens = TokenCounts(start), array("I", [3, 4, 5, 3])
        for step in range(60):
            tokens.extend(torch.randint(0, 12, (1 + step % 3,), generator=generator).tolist())
            held = len(tokens)
            tokens.extend([7, 7, 3])  # a draft: each place of it is asked for, then it is dropped
            for end in range(held, (held + 4) if step % 4 == 0 else held + 1):
                found = counts.until(tokens, end)
                assert dict(zip(*found, strict=True)) == Counter(tokens[start:end])
            before = [*found.counts]
            del tokens[held:]
            counts.until(tokens, held)
            assert [*found.counts] == before, "what was told does not change"


def test_a_run_counts_its_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a token costs does not grow with the answer: no token is counted twice within a run, beside others."""
    counted_tokens = 0

    def count(tokens: Sequence[int]) -> Counter[int]:
        nonlocal counted_tokens
        counted_tokens += len(tokens)
        return Counter(tokens)

    monkeypatch.setattr(token_counts, "Counter", count)
    engine, _ = make_engine()
    how = Sampling(frequency_penalty=1.0, penalized_from=2)
    requests = [RunRequest(f"s{index}", 0, PROMPTS[0], how, LENGTH, NO_STOP) for index in range(2)]
    assert all(len(events) == LENGTH for events in kept(engine, requests))
    assert counted_tokens == 2 * (len(PROMPTS[0]) - 2 + LENGTH - 1)


def test_shaped_rows_are_kept_only_until_they_are_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a row has to be sorted after all: it is shaped once more, and gives the token of the naive choice."""
    made: list[weakref.ref[torch.Tensor]] = []

    def noted(*arguments: Any) -> torch.Tensor:
        rows = shaped(*arguments)
        made.append(weakref.ref(rows))
        return rows

    monkeypatch.setattr(sampling, "shaped", noted)
    logits = torch.zeros(1, 5000)  # all alike: the first 2048 do not decide
    how, answer = Sampling(1.0, seed=3, min_p=0.5, frequency_penalty=1.0), [4, 4, 9]
    later = sampling.choose(
        lambda: sampling.measure_on_host(logits), logits, [0], [how], [3], lambda index: counted(answer)
    )
    gc.collect()
    assert [row() for row in made] == [None]
    assert later().tokens == [choose(logits[0].tolist(), answer, 3, how)]
    assert len(made) == 2
