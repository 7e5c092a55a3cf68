"""The two formulas of R-Stitch+ (arXiv 2507.17307) for one model, in milliseconds.

    T_prefill = a * N_inf * N_kv + b * N_inf^2 + c * N_inf + d        T_decode = c' * N_kv + d'

N_inf tokens are put in, N_kv are in the cache before. What a service adds (`Serving`) is kept apart. It knows
neither how calls are profiled nor which calls an answer makes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Role = Literal["slm", "llm"]
Milliseconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a formula describes the calls it was fitted on.

    Attributes:
        r2: of the medians of the grid's cells.
        median_error: median of |modelled - measured| / measured over single calls.
    """

    num_calls: int
    r2: float
    median_error: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """a in ms per (token put in x token cached), b per squared token put in, c per token put in, d per call."""

    a: float
    b: float
    c: float
    d: float


@dataclass(frozen=True, slots=True)
class Decode:
    """c in ms per token cached, d per step."""

    c: float
    d: float


@dataclass(frozen=True, slots=True)
class ModelLatency:
    """What calls of one model take. Arguments broadcast as in numpy; results in milliseconds.

    Attributes:
        facts: model, device, dtype, largest N_inf and N_kv profiled.
        fits: of the formulas, by name.
    """

    prefill_coefficients: Prefill
    decode_coefficients: Decode
    fits: dict[str, Fit] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def prefill(self, num_inputs: ArrayLike, num_cached: ArrayLike) -> Milliseconds:
        """T_prefill: `num_inputs` tokens put in after `num_cached`, which yields the next distribution."""
        k, n, cached = self.prefill_coefficients, np.asarray(num_inputs, float), np.asarray(num_cached, float)
        return np.asarray(k.a * n * cached + k.b * n * n + k.c * n + k.d)

    def decode(self, num_cached: ArrayLike) -> Milliseconds:
        """T_decode: one token put in after `num_cached`."""
        return np.asarray(self.decode_coefficients.c * np.asarray(num_cached, float) + self.decode_coefficients.d)

    def call(self, num_inputs: int, num_cached: int) -> float:
        """One call. A missing suffix of one token is a decode step: it is the same forward."""
        return float(self.decode(num_cached) if num_inputs == 1 else self.prefill(num_inputs, num_cached))

    def steps(self, num_steps: int, num_cached: int) -> float:
        """The sum of so many decode steps, the first after `num_cached`."""
        return num_steps * float(self.decode(num_cached + (num_steps - 1) / 2))

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.facts,
            "prefill": asdict(self.prefill_coefficients),
            "decode": asdict(self.decode_coefficients),
            "fits": {name: asdict(fit) for name, fit in self.fits.items()},
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Self:
        """From what the file has. Raises: KeyError or TypeError if it is something else."""
        facts = {key: value for key, value in plain.items() if key not in ("prefill", "decode", "fits")}
        fits = {name: Fit(**fit) for name, fit in plain.get("fits", {}).items()}
        return cls(Prefill(**plain["prefill"]), Decode(**plain["decode"]), fits, facts)


@dataclass(frozen=True, slots=True)
class Serving:
    """What an answer of the running service takes beside the models' steps, in milliseconds.

    Attributes:
        answer_ms: once.
        call_ms: for each time that a model begins to write (the wire there and back).
        token_ms: for each step (the thread and the loop that hand tokens on).
        beside_ms: more for each step of an answer by two models: the other is fed beside, on the same machine.
    """

    answer_ms: float = 0.0
    call_ms: float = 0.0
    token_ms: float = 0.0
    beside_ms: float = 0.0
    fit: Fit | None = None
