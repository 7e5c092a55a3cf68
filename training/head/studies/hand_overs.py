"""Which hand-overs change an answer: a search over what an oracle could have decided. It knows no engine.

A *script* decides for one answer: at its k-th consultation (from 0) the LLM is called or not. Everything is greedy, so
the answer is a function of its script, and up to the first consultation that two scripts decide differently they agree.

Of a question that the SLM alone answers wrong are tried, in this order:

1. every single hand-over, all the consultations of the SLM's own answer: so it is exact whether one is enough;
2. if none is: all hand-overs, less every one that can be left out, in turn from the first on. What remains is enough,
   and each of them is needed given the ones before; two are the fewest, of more there may be better scripts;
3. if more than two remain: pairs, at most so many. So a bound on the fewest is exact up to two, unless the pairs
   were too many to try.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Script:
    """Decides at each consultation: `others_call` says what happens at those that are not `chosen`."""

    chosen: frozenset[int] = frozenset()
    others_call: bool = False

    def calls(self, number: int) -> bool:
        """Says whether the LLM writes the position of consultation `number`."""
        return (number in self.chosen) != self.others_call


STAY, CALL = Script(), Script(others_call=True)


@dataclass(frozen=True, slots=True)
class Path:
    """What came of a script: the answer, how often the head was asked and the LLM called."""

    right: bool
    latency_ms: float
    num_asked: int
    num_calls: int


@dataclass(frozen=True, slots=True)
class Found:
    """What an oracle makes of one question.

    Attributes:
        alone: the SLM's own answer.
        always: the answer with all hand-overs.
        best: with the fewest hand-overs that are known to make it right, of these the fastest; None: it is never right.
        is_exact: whether it is known that no fewer do.
        num_single: single hand-overs that make it right.
    """

    alone: Path
    always: Path
    best: Path | None
    is_exact: bool
    num_single: int = 0

    @property
    def extra_ms(self) -> float:
        """What the oracle's hand-overs cost beside the SLM's own answer, in milliseconds."""
        assert self.best is not None
        return self.best.latency_ms - self.alone.latency_ms


# Answers of scripts to questions by their number, in order.
Run = Callable[[Sequence[tuple[int, Script]]], Sequence[Path]]
_Search = Generator[list[Script], Sequence[Path], Found]


def search(num_questions: int, run: Run, max_pairs: int, on_found: Callable[[], None] = lambda: None) -> list[Found]:
    """Searches all questions at once, so that many answers are written together.

    Args:
        max_pairs: of hand-overs that are tried for one question.
    """
    searches = {number: _search(max_pairs) for number in range(num_questions)}
    wanted = {number: next(each) for number, each in searches.items()}
    found: dict[int, Found] = {}
    while wanted:
        paths = iter(run([(number, script) for number, scripts in wanted.items() for script in scripts]))
        after: dict[int, list[Script]] = {}
        for number, scripts in wanted.items():
            try:
                after[number] = searches[number].send([next(paths) for _ in scripts])
            except StopIteration as stopped:
                found[number] = stopped.value
                on_found()
        wanted = after
    return [found[number] for number in range(num_questions)]


def _search(max_pairs: int) -> _Search:
    """One question: yields the scripts that it wants answered."""
    alone, always = yield [STAY, CALL]
    if alone.right:
        return Found(alone, always, alone, is_exact=True)
    singles = yield [Script(frozenset({number})) for number in range(alone.num_asked)]
    right = [path for path in singles if path.right]
    if right:
        return Found(alone, always, _fastest(right), is_exact=True, num_single=len(right))
    best = yield from _thinned(always) if always.right else _nothing()
    if best is not None and best.num_calls <= 2:
        return Found(alone, always, best, is_exact=True)
    pairs = [
        Script(frozenset({first, second}))
        for first, path in enumerate(singles)
        for second in range(first + 1, path.num_asked)
    ]
    tried = (yield pairs[:max_pairs]) if pairs else []
    right = [path for path in tried if path.right]
    complete = len(pairs) <= max_pairs
    if right:
        return Found(alone, always, _fastest(right), is_exact=True)
    return Found(alone, always, best, is_exact=complete and best is not None and best.num_calls == 3)


def _thinned(always: Path) -> Generator[list[Script], Sequence[Path], Path | None]:
    """Leaves out hand-overs in turn, as long as the answer stays right."""
    best, left_out, number = always, frozenset[int](), 0
    while number < best.num_asked:
        (path,) = yield [Script(left_out | {number}, others_call=True)]
        if path.right:
            best, left_out = path, left_out | {number}
        number += 1
    return best


def _nothing() -> Generator[list[Script], Sequence[Path], Path | None]:
    return None
    yield []


def _fastest(paths: Sequence[Path]) -> Path:
    return min(paths, key=lambda path: (path.num_calls, path.latency_ms))
