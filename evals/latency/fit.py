"""Least squares for the two formulas, and for what serving adds.

Residuals are relative, so that calls of a millisecond count as much as calls of a hundred, and coefficients are not
negative (Lawson and Hanson's NNLS): no call is modelled to take less with more tokens. Each cell of the grid is
represented by the median of its calls, which a busy machine moves least.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from evals.latency.formulas import Decode, Fit, ModelLatency, Prefill, Serving
from evals.latency.profile import TimedCall

Array = NDArray[np.float64]
_REWEIGHTED = 5  # times


def fit_model(calls: Sequence[TimedCall], facts: dict[str, Any]) -> ModelLatency:
    """Both formulas on the calls of one worker. Raises: ValueError if there are none of a kind."""
    prefills = [call for call in calls if not call.is_decode]
    decodes = [call for call in calls if call.is_decode]
    if not (prefills and decodes):
        raise ValueError("both prefills and decode steps are needed: give --inputs and --cached that fit the context")
    prefill, prefill_fit = _fit(prefills)
    decode, decode_fit = _fit(decodes)
    extent = {"max_inputs": max(c.num_inputs for c in prefills), "max_cached": max(c.num_cached for c in calls)}
    return ModelLatency(
        Prefill(*prefill), Decode(*decode), {"prefill": prefill_fit, "decode": decode_fit}, facts | extent
    )


def fit_serving(left_ms: Array, total_ms: Array, counts: Array) -> Serving:
    """What is left of measured answers after the models' steps.

    Args:
        left_ms: measured less modelled, [n].
        total_ms: measured, [n].
        counts: [n, 3]: how often a model began to write, steps, steps of answers by two models.
    """
    columns = np.column_stack([np.ones_like(left_ms), counts])
    steps = total_ms - left_ms
    start = np.array(relative_nnls(columns, left_ms, total_ms)) + 1e-6
    scale = 1 / np.maximum(np.linalg.norm(columns / total_ms[:, None], axis=0), 1e-12)
    # Logarithms, for a machine's noise multiplies. Beyond a tenth an error counts by its size, not its square: single
    # answers wait for what else the machine does.
    found = least_squares(
        lambda x: np.log((steps + columns @ x) / total_ms), start,
        bounds=(0, np.inf), x_scale=scale, loss="soft_l1", f_scale=0.1,
    )  # fmt: skip
    modelled = steps + columns @ found.x
    error = float(np.median(np.abs(modelled - total_ms) / total_ms))
    fit = Fit(len(left_ms), r_squared(total_ms, modelled), error)
    answer_ms, call_ms, token_ms, beside_ms = map(float, found.x)
    return Serving(answer_ms, call_ms, token_ms, beside_ms, fit)


def relative_nnls(columns: Array, measured: Array, scale: Array) -> list[float]:
    """Coefficients >= 0 that minimise the sum of ((columns @ x - measured) / scale)^2.

    Args:
        columns: [n, k]; measured, scale: [n], the latter > 0.
    """
    weighted = columns / scale[:, None]
    size = np.linalg.norm(weighted, axis=0)  # of each column: they differ by orders of magnitude
    size[size == 0] = 1.0
    solution, _ = nnls(weighted / size, measured / scale)
    return [float(value) for value in solution / size]


def _reweighted_nnls(columns: Array, measured: Array) -> list[float]:
    """The same with residuals relative to what is modelled, found by iteration.

    Relative to what is measured, a call that came out short by chance would weigh more than one that came out long, and
    the model would be too fast.
    """
    found = relative_nnls(columns, measured, measured)
    for _ in range(_REWEIGHTED):
        found = relative_nnls(columns, measured, np.maximum(columns @ np.array(found), 1e-9))
    return found


def r_squared(measured: Array, modelled: Array) -> float:
    """1 - residual over total sum of squares; 1 where nothing varies and nothing is left."""
    left, total = float(np.sum((measured - modelled) ** 2)), float(np.sum((measured - measured.mean()) ** 2))
    return 1 - left / total if total else float(left == 0)


def cell_medians(calls: Sequence[TimedCall]) -> Array:
    """[cells, 4]: tokens put in, tokens cached, median ms of a call, calls."""
    cells = defaultdict[tuple[int, float], list[float]](list)
    for call in calls:
        cells[call.num_inputs, call.mean_cached].append(call.call_ms)
    return np.array([[*key, median(times), len(times)] for key, times in sorted(cells.items())])


def _columns(n: Array, cached: Array) -> Array:
    """What the coefficients of the formula are multiplied with: that of a decode step where one token is put in."""
    kinds = [cached, np.ones_like(n)] if (n == 1).all() else [n * cached, n * n, n, np.ones_like(n)]
    return np.stack(kinds, axis=1)


def _fit(calls: Sequence[TimedCall]) -> tuple[list[float], Fit]:
    cells = cell_medians(calls)
    measured = cells[:, 2]
    columns = _columns(cells[:, 0], cells[:, 1])
    found = _reweighted_nnls(columns, measured)
    times = np.array([call.call_ms for call in calls])
    each = _columns(*np.array([[call.num_inputs, call.mean_cached] for call in calls]).T) @ np.array(found)
    error = float(np.median(np.abs(each - times) / times))
    return found, Fit(len(calls), r_squared(measured, columns @ np.array(found)), error)
