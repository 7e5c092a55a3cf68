"""What makes the tiny models different: domain, size, style and schedule. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from evals.tasks.tiny.domain import Style
from training.tiny.tokenizer import MAX_LENGTH


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model's shape and training run. A `short` writer is an SLM, a `verbose` one an LLM."""

    name: str  # of the folder in models/
    own: Style
    hidden_size: int
    num_layers: int
    intermediate_size: int
    num_heads: int
    learning_rate: float  # the highest; `schedule` gives the share of it
    schedule: tuple[tuple[int, float], ...]  # (step, share), straight lines between; the last step ends the run
    domain: str = "words"
    begin: str | None = None  # the model of this shape in models/ whose weights the run begins with; None: random ones
    mixed: bool = True  # chains of mixed styles; False: one's own style alone, which cannot be stitched
    batch_tokens: int = 4_096
    practice_from: int | None = None  # the step from which hard additions and subtractions are frequent
    practice_hard: float = 0.3
    weight_decay: float = 0.02
    average: float = 0.995  # of the exponential moving average of the weights, which is what is exported
    seed: int = 1

    @property
    def num_steps(self) -> int:
        return self.schedule[-1][0]

    def rate(self, step: int) -> float:
        for (start, low), (end, high) in pairwise(self.schedule):
            if step <= end:
                return self.learning_rate * (low + (high - low) * (step - start) / (end - start))
        return 0.0

    def model_config(self, vocab_size: int) -> dict[str, Any]:
        return {
            "vocab_size": vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_heads,
            "max_position_embeddings": MAX_LENGTH,
            "tie_word_embeddings": True,
            "initializer_range": 0.04,
        }


# The knot at 3,900 is no art: the run was cut short there, and this is what it did. The second rise is the practice.
_LLM_SCHEDULE = ((-1, 0.0), (99, 1.0), (3_300, 1.0), (3_900, 0.727), (4_500, 0.0), (4_530, 0.4), (4_850, 0.0))


def _plain(peak_until: int, steps: int) -> tuple[tuple[int, float], ...]:
    """Up in a hundred steps, flat, and down to nothing."""
    return ((-1, 0.0), (99, 1.0), (peak_until, 1.0), (steps, 0.0))


_ALL = (
    Recipe("tiny-slm", "short", 96, 2, 256, 2, 3e-3, _plain(1_200, 2_000), seed=11),
    Recipe("tiny-llm", "verbose", 192, 6, 512, 3, 2e-3, _LLM_SCHEDULE, practice_from=4_500, seed=22),
    # Other SLMs for tiny-llm: a worse one, and one that was never taught the LLM's style.
    Recipe("tiny-slm-xs", "short", 64, 2, 176, 2, 3e-3, _plain(900, 1_500), seed=31),
    Recipe("tiny-slm-unmixed", "short", 96, 2, 256, 2, 3e-3, _plain(900, 1_500), mixed=False, seed=33),
    # The second domain's pair begins where the first one's ended: calculating need not be learned again.
    Recipe("tiny-programs-slm", "short", 96, 2, 256, 2, 3e-3, _plain(1_300, 2_200), "programs", "tiny-slm", seed=41),
    Recipe("tiny-programs-llm", "verbose", 192, 6, 512, 3, 2e-3, _plain(1_900, 3_000), "programs", "tiny-llm", seed=42),
)
RECIPES = {recipe.name: recipe for recipe in _ALL}
PARTNERS = {  # the LLM that an SLM is measured with
    "tiny-slm": "tiny-llm",
    "tiny-slm-xs": "tiny-llm",
    "tiny-slm-unmixed": "tiny-llm",
    "tiny-programs-slm": "tiny-programs-llm",
}
