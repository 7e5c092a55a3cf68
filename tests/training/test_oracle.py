"""The oracle's search, on toy answers whose truth is known: which hand-overs make an answer right."""

from __future__ import annotations

from collections.abc import Sequence

from training.head.hand_overs import CALL, STAY, Found, Path, Script, search


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
