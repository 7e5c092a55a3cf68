"""Measures at the start what a step costs, by stepping an engine that nobody uses yet."""

from __future__ import annotations

import itertools
import time
from statistics import median

from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.engine import Engine
from model_worker.engine.types import Returns, RunRequest

_CONTEXT = 32  # tokens before each row
_ROUNDS = 8
_DECODE_ROWS = (1, 2, 4, 8, 16, 32, 64)
_LONG_ROWS = (2, 4, 8, 16, 64, 256)

# Decode rows in a step, and the tokens of one longer row (0: there is none).
Shape = tuple[int, int]
# Measured whatever it takes: without a point in each direction there is nothing to bound steps by.
_ESSENTIAL: tuple[Shape, ...] = ((1, 0), (8, 0), (1, 64), (0, 64))


def measure_steps(engine: Engine, budget_s: float, shallow: bool = False) -> CostModel | None:
    """Times steps of each shape in turn, round after round: a busy moment of the machine falls on all shapes alike.

    Nothing is left behind, neither sessions nor counts. With `shallow` the steps are those of the SLM in a model with
    shared layers. Returns None without time, or without room for a decode row.
    """
    until = time.perf_counter() + budget_s
    rows = _Rows(engine, shallow)
    times: dict[Shape, list[float]] = {}
    shapes = rows.shapes() if budget_s > 0 else []
    for shape in itertools.chain.from_iterable([shapes] * _ROUNDS):
        if time.perf_counter() > until and (shape not in _ESSENTIAL or shape in times):
            break
        times.setdefault(shape, []).append(rows.step_us(shape))
    rows.close()
    engine.counters.reset()
    # The first step of a shape is its warm-up, where there is another.
    typical = {shape: median(samples[1:] or samples) for shape, samples in times.items()}
    if (1, 0) not in typical:
        return None
    return CostModel(
        decode={rows: us for (rows, long), us in typical.items() if not long},
        extend={long: us for (rows, long), us in typical.items() if not rows},
        ride={long: us - typical[1, 0] for (rows, long), us in typical.items() if rows and long},
    )


def _states_of(shape: Shape) -> int:
    """Returns how many states the sessions of a shape have at most, with that of the context and those of the row."""
    rows, tokens = shape
    return 2 * rows + (4 if tokens else 1)


class _Rows:
    """Sessions of `_CONTEXT` tokens that compute the tokens after them again and again.

    They take no more pages than there are: half for decode rows, half for the longer one.
    """

    def __init__(self, engine: Engine, shallow: bool) -> None:
        self._engine = engine
        self._shallow = shallow
        self._num_steps = 0
        limits = engine.limits
        num_pages = limits.num_window_pages or limits.num_pages
        fitting = min(_CONTEXT, limits.context_length // 2, num_pages * limits.page_size // 4)
        self._context = max(1, fitting)
        self._most_rows = num_pages // 2 // -(-(self._context + 1) // limits.page_size)
        self._most_tokens = min(limits.context_length, num_pages // 2 * limits.page_size) - self._context
        self._fed: set[str] = set()

    def shapes(self) -> list[Shape]:
        """Returns the shapes that there is room for, the essential ones first."""
        shapes = [(rows, 0) for rows in _DECODE_ROWS if rows <= self._most_rows]
        shapes += [(rows, tokens) for tokens in _LONG_ROWS if tokens <= self._most_tokens for rows in (0, 1)]
        fitting = [shape for shape in shapes if sum(shape) <= self._engine.limits.max_batch_tokens]
        if num_states := self._engine.limits.num_states:
            fitting = [shape for shape in fitting if _states_of(shape) <= num_states]
        return sorted(fitting, key=lambda shape: shape not in _ESSENTIAL)

    def step_us(self, shape: Shape) -> float:
        """Runs one step of a shape; returns its time."""
        rows, tokens = shape
        lengths = {f"measure-{index}": 1 for index in range(rows)}
        if self._engine.limits.num_states:  # of which others would lose those that they come back to
            self._close(self._fed - lengths.keys() - ({"measure-long"} if tokens else set()))
        if tokens:
            lengths["measure-long"] = tokens
            if self._engine.limits.num_window_pages and "measure-long" in self._fed:
                # A session does not come back from so far with a window's keys.
                self._close({"measure-long"})
        for name in lengths.keys() - self._fed:
            self._submit(name, 0, self._tokens(self._context))
            self._fed.add(name)
        while not self._engine.is_idle:
            self._engine.step()
        for name, length in lengths.items():
            self._submit(name, self._context, self._tokens(length, self._num_steps))
        self._num_steps += 1
        begin = time.perf_counter()
        self._engine.step()
        end = time.perf_counter()
        assert self._engine.is_idle, "a shape is one step"
        return (end - begin) * 1e6

    def close(self) -> None:
        self._close(set(self._fed))

    def _close(self, names: set[str]) -> None:
        for name in names:
            self._engine.close_session(name)
        self._fed -= names

    def _submit(self, name: str, position: int, tokens: list[int]) -> None:
        self._engine.submit(
            RunRequest(name, position, tokens, returns=Returns(), shallow=self._shallow, cache_salt=None)
        )

    def _tokens(self, count: int, shift: int = 0) -> list[int]:
        # Each step shifts them: tokens that are held already might not be computed again.
        return [(7 * (index + shift) + 3) % self._engine.limits.vocab_size for index in range(count)]
