"""The oracle: its search on toy answers whose truth is known, its frontier, its answers by the tiny pair."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from evals.latency import Decode, LatencyModel, ModelLatency, Prefill
from rstitch.local.part import bundled_model
from training.head.studies.hand_overs import CALL, STAY, Found, Path, Script, search
from training.head.studies.oracle import Figures, best_tau, fastest_within, frontier
from training.head.studies.recall import share_found, share_missed
from training.head.studies.scripted import Scripted
from training.head.warm_start.states import States


class Toy:
    """Questions with so many consultations; an answer is right if all of some hand-overs happen.

    A call at consultation k leaves the numbering of those after it alone. Each call costs 10 ms, the rest 100 ms.
    """

    def __init__(self, questions: Sequence[tuple[int, Sequence[frozenset[int]]]]) -> None:
        self.questions = questions
        self.num_answers = 0
        self.num_batches = 0

    def run(self, scripts: Sequence[tuple[int, Script]]) -> list[Path]:
        self.num_answers += len(scripts)
        self.num_batches += 1
        return [self._path(*each) for each in scripts]

    def _path(self, number: int, script: Script) -> Path:
        num_asked, enough = self.questions[number]
        called = {each for each in range(num_asked) if script.calls(each)}
        return Path(any(need <= called for need in enough), 100 + 10 * len(called), num_asked, len(called))

    def found(self, max_pairs: int = 100) -> list[Found]:
        return search(len(self.questions), self.run, max_pairs)


def need(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


def test_scripts_decide_by_number() -> None:
    assert [STAY.calls(0), CALL.calls(0)] == [False, True]
    assert [Script(need(1)).calls(number) for number in range(3)] == [False, True, False]
    assert [Script(need(1), others_call=True).calls(number) for number in range(3)] == [True, False, True]


def test_the_fewest_hand_overs_are_found() -> None:
    toy = Toy([
        (3, [need()]),  # right without
        (4, [need(2), need(3)]),  # one of two does
        (5, [need(0, 3), need(1, 2, 4)]),  # two do, and so do three others
        (5, [need(1, 2, 4)]),  # three
        (6, []),  # nothing does
    ])  # fmt: skip
    alone, one, two, three, never = toy.found()
    assert (alone.best, alone.num_single) == (alone.alone, 0)
    assert (one.best and one.best.num_calls, one.num_single, one.extra_ms) == (1, 2, 10)
    assert (two.best and two.best.num_calls, two.is_exact) == (2, True)
    assert (three.best and three.best.num_calls, three.is_exact) == (3, True)
    assert (never.best, never.is_exact) == (None, False)
    assert toy.num_batches < 15, "all questions are searched together"


def test_a_bound_on_the_pairs_makes_the_answer_a_bound() -> None:
    # Thinned from the first on, {1, 2, 4} remains; the pair that is enough is the last of all.
    question = (6, [need(4, 5), need(0, 1, 2)])
    (exact,), (bound,) = Toy([question]).found(), Toy([question]).found(max_pairs=3)
    assert exact.best is not None
    assert bound.best is not None
    assert (exact.best.num_calls, exact.is_exact) == (2, True)
    assert bound.is_exact == (bound.best.num_calls <= 2)
    assert bound.best.right


def test_two_hand_overs_without_which_all_would_be_wrong() -> None:
    """All hand-overs spoil it, two are enough: only pairs can find that."""

    class Spoiled(Toy):
        def _path(self, number: int, script: Script) -> Path:
            path = super()._path(number, script)
            return path if path.num_calls < 3 else Path(False, path.latency_ms, path.num_asked, path.num_calls)

    (found,) = Spoiled([(4, [need(1, 3)])]).found()
    assert not found.always.right
    assert found.best is not None
    assert (found.best.num_calls, found.is_exact) == (2, True)


def test_the_frontier_helps_the_cheapest_first() -> None:
    def path(right: bool, ms: float, calls: int = 0) -> Path:
        return Path(right, ms, 4, calls)

    alone, wrong = path(True, 100.0), path(False, 100.0)
    found = [
        Found(alone, alone, alone, is_exact=True),
        Found(wrong, wrong, path(True, 130.0, 3), is_exact=False),
        Found(wrong, wrong, path(True, 110.0, 1), is_exact=True, num_single=1),
        Found(wrong, wrong, None, is_exact=False),
    ]
    half, most = (frontier(found, accuracy, "oracle") for accuracy in (0.5, 0.75))
    assert half == Figures("oracle", 0.5, 0.25, 102.5)
    assert most == Figures("oracle", 0.75, 1.0, 110.0)
    assert frontier(found, 1.0, "oracle") is None, "one is never right"


def test_the_best_tau_is_the_most_accurate_and_then_the_fastest() -> None:
    rows = [Figures("a", 0.9, 1, 80.0), Figures("b", 0.95, 2, 90.0), Figures("c", 0.95, 3, 95.0)]
    assert best_tau(rows).name == "b"
    within = fastest_within(rows, 0.9)
    assert within is not None
    assert within.name == "a"
    assert fastest_within(rows, 0.99) is None


def test_an_answer_with_an_error_that_is_not_found_is_missed() -> None:
    states = States(torch.zeros(5, 3), torch.tensor([1.0, 0, 1, 1, 0]), torch.tensor([0, 0, 1, 1, 3]), 4)
    score = torch.tensor([5.0, 4, 3, 2, 1])
    assert [share_missed(score, states, calls) for calls in (0, 1, 3, 4, 9)] == [0.5, 0.25, 0.25, 0.0, 0.0]
    assert share_found(score, states.wrong, 3) == pytest.approx(2 / 3)


def test_scripts_decide_answers_of_the_pair() -> None:
    """To call always is `threshold`, to stay always the SLM alone, above a gate that does not matter then."""
    torch.set_num_threads(1)
    cost = ModelLatency(Prefill(0, 0, 0.0, 1.0), Decode(0, 1.0))
    models = bundled_model("tiny-slm"), bundled_model("tiny-llm")
    with Scripted(models, "tiny", "dev", 3, LatencyModel(cost, cost)) as asked:
        numbers = range(3)
        stayed, called, first = (
            asked.run([(number, script) for number in numbers], 0.01) for script in (STAY, CALL, Script(need(0)))
        )
        by_tau = asked.threshold(0.01)
        above = asked.threshold(1.0)
    assert [path.num_calls for path in stayed] == [0, 0, 0]
    assert sum(path.num_asked for path in stayed) > 2, "or it tests nothing"
    assert [(path.right, path.latency_ms, path.num_calls) for path in called] == [
        (path.right, path.latency_ms, path.num_calls) for path in by_tau
    ]
    assert all(path.num_asked == path.num_calls for path in called)
    assert [path.num_calls for path in first] == [min(1, path.num_asked) for path in stayed]
    assert [path.right for path in stayed] == [path.right for path in above]
