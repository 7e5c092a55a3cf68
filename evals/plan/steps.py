"""What a step of a worker takes, by how many rows decode in it, other tokens beside them, and how long contexts are.

Measured (`rstitch latency`, whose file also has what the worker measured at its start), or by the roofline: reading the
weights and the caches once, or computing, whichever takes longer. It knows no load and no queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from evals.latency.formulas import ModelLatency
from evals.plan.cards import Card
from model_worker.engine.bookkeeping.cost_model import CostModel

if TYPE_CHECKING:
    from evals.fits.sizing import Sized

CONTEXT = 32  # tokens before each row in the steps that workers measure at their start
# Of what a card's maker says, and of the host in each step: assumptions, where nothing was measured.
BANDWIDTH_SHARE, OPS_SHARE, OVERHEAD_MS = 0.7, 0.5, 0.2


class Steps(Protocol):
    """What steps of one model take on its cards."""

    def step_s(self, rows: int, other_tokens: float, context: float) -> float:
        """Seconds of a step of so many decode rows, whose contexts are so long on average, and other tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Roofline:
    """A model on cards that share it evenly, of which nothing was measured.

    Mixtures of experts count as if every token met all of them: an upper bound.
    """

    sized: Sized
    weight_bytes: int
    card: Card
    num_cards: int = 1
    bandwidth_share: float = BANDWIDTH_SHARE
    ops_share: float = OPS_SHARE
    overhead_ms: float = OVERHEAD_MS

    def step_s(self, rows: int, other_tokens: float, context: float) -> float:
        kept = rows * self.sized.session_bytes(round(context))
        reading = (self.weight_bytes + kept) / (self.card.bandwidth_gb_s * 1e9 * self.bandwidth_share)
        computing = 2 * self.sized.parameters * (rows + other_tokens) / (self.card.tera_ops * 1e12 * self.ops_share)
        return self.overhead_ms / 1000 + max(reading, computing) / self.num_cards


class Measured:
    """A model whose steps were measured: shapes by its worker at the start, one row by `rstitch latency`.

    The second, taken later and by the clock that counts, says how long the step of one row is; the first how steps
    grow. Raises ValueError where shapes were not measured.
    """

    def __init__(self, latency: ModelLatency) -> None:
        shapes = [tuple(shape) for shape in latency.facts.get("step_costs", ())]
        decode = {rows: us for rows, tokens, us in shapes if tokens == 1}
        extend = {tokens: us for _, tokens, us in shapes if tokens > 1}
        if not (decode and extend):
            raise ValueError("the latency model says nothing of steps with several rows")
        self._costs = CostModel(decode, extend, {})
        self._per_context_s = latency.decode_coefficients.c / 1000
        self._scale = float(latency.decode(CONTEXT)) / 1000 / self._costs.step_us(1)

    def step_s(self, rows: int, other_tokens: float, context: float) -> float:
        longer = rows * max(0.0, context - CONTEXT) * self._per_context_s
        return self._scale * self._costs.step_us(rows, round(other_tokens)) + longer


@dataclass(frozen=True, slots=True)
class Stretched:
    """Steps that take longer than alone, as on cores that others need, too."""

    steps: Steps
    factor: float

    def step_s(self, rows: int, other_tokens: float, context: float) -> float:
        return self.factor * self.steps.step_s(rows, other_tokens, context)
