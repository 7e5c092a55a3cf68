"""What makes the two tiny models different: their sizes, styles and schedules. Values only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from training.tiny.chains import Style
from training.tiny.tokenizer import MAX_LENGTH


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model's shape and training run."""

    role: str
    own: Style
    hidden_size: int
    num_layers: int
    intermediate_size: int
    num_heads: int
    learning_rate: float  # the highest; `schedule` gives the share of it
    schedule: tuple[tuple[int, float], ...]  # (step, share), straight lines between; the last step ends the run
    batch_tokens: int = 4_096
    practice_from: int | None = None  # the step from which hard additions and subtractions are frequent
    practice_hard: float = 0.3
    weight_decay: float = 0.02
    average: float = 0.995  # of the exponential moving average of the weights, which is what is exported
    seed: int = 1

    @property
    def num_steps(self) -> int:
        """The length of the run."""
        return self.schedule[-1][0]

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        for (start, low), (end, high) in pairwise(self.schedule):
            if step <= end:
                return self.learning_rate * (low + (high - low) * (step - start) / (end - start))
        return 0.0

    def model_config(self, vocab_size: int) -> dict[str, Any]:
        """The arguments of a `LlamaConfig`."""
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

    def as_dict(self) -> dict[str, Any]:
        """For the model card and the checkpoint."""
        return asdict(self)


# The knot at 3,900 is no art: the run was cut short there, and this is what it did. The second rise is the practice.
LLM_SCHEDULE = ((-1, 0.0), (99, 1.0), (3_300, 1.0), (3_900, 0.727), (4_500, 0.0), (4_530, 0.4), (4_850, 0.0))

RECIPES = {
    "slm": Recipe("slm", "short", 96, 2, 256, 2, 3e-3, ((-1, 0.0), (99, 1.0), (1_200, 1.0), (2_000, 0.0)), seed=11),
    "llm": Recipe("llm", "verbose", 192, 6, 512, 3, 2e-3, LLM_SCHEDULE, practice_from=4_500, seed=22),
}
