"""The head as torch trains it, and as the file that is served. It knows no rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from rstitch.head import Array, Head, HeadFacts
from training.router.rollout import Consultation


class Policy(nn.Module):
    """A softmax over {SLM, LLM}: ReLU layers on normalised (hidden state, context length).

    Args:
        mean, std: of the inputs, [hidden_size + 1].
        hidden: sizes of the layers between.
        start_llm: P(LLM) that it starts with, whatever the input: R-Stitch+ begins near the threshold rule.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, hidden: Sequence[int], start_llm: float) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        sizes = [len(mean), *hidden, 2]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([1 - start_llm, start_llm]).log())

    def forward(self, inputs: Tensor) -> Tensor:
        """Log-probabilities [n, 2] of (SLM, LLM) for inputs [n, hidden_size + 1]."""
        x = (inputs - self.mean) / self.std
        for index, layer in enumerate(self.layers):
            x = layer(torch.relu(x) if index else x)
        return torch.log_softmax(x, dim=-1)

    def to_head(self, facts: HeadFacts) -> Head:
        """The head that the system serves."""
        layers = [(_array(layer.weight), _array(layer.bias)) for layer in self.layers if isinstance(layer, nn.Linear)]
        return Head(facts, _array(self.mean), _array(self.std), layers)


def inputs_of(consultations: Sequence[Consultation]) -> Tensor:
    """What the policy sees, float32 [n, hidden_size + 1]."""
    hidden = np.stack([np.frombuffer(asked.hidden_state, "<f4") for asked in consultations])
    lengths = np.array([[asked.context_length] for asked in consultations], np.float32)
    return torch.from_numpy(np.concatenate([hidden, lengths], axis=1))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float32)
