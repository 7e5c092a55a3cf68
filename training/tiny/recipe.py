"""What makes the two tiny models different: their sizes, styles and schedules. Values only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
    num_steps: int
    learning_rate: float
    batch_tokens: int = 4_096
    warmup_steps: int = 100
    decay_share: float = 0.4  # the last part of the run, over which the learning rate falls to zero
    weight_decay: float = 0.02
    average: float = 0.995  # of the exponential moving average of the weights, which is what is exported
    seed: int = 1

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


RECIPES = {
    "slm": Recipe("slm", "short", 96, 2, 256, 2, num_steps=2_000, learning_rate=3e-3, seed=11),
    "llm": Recipe("llm", "verbose", 192, 6, 512, 3, num_steps=5_500, learning_rate=2e-3, seed=22),
}
