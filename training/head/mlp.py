"""The head as torch trains it, and as the file that is served. It knows no rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from rstitch.service.head import MIN_LOG_P, NUM_TOP, Array, Head, HeadFacts, num_inputs
from training.head.rollout import Consultation


class Policy(nn.Module):
    """A softmax over {SLM, LLM}: ReLU layers on normalised (hidden state, context length, what is read out).

    Args:
        hidden_size: of the SLM.
        num_readout: rows of the readout, see `rstitch.service.head`; 0: none.
        hidden: sizes of the layers between.
        start_llm: P(LLM) that it starts with, whatever the input: R-Stitch+ begins near the threshold rule.
    """

    mean: Tensor
    std: Tensor
    readout: Tensor

    def __init__(self, hidden_size: int, num_readout: int, hidden: Sequence[int], start_llm: float) -> None:
        super().__init__()
        width = num_inputs(hidden_size, has_readout=num_readout > 0)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.register_buffer("readout", torch.zeros(num_readout, hidden_size))
        sizes = [width, *hidden, 2]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([1 - start_llm, start_llm]).log())

    def forward(self, inputs: Tensor) -> Tensor:
        """Log-probabilities [n, 2] of (SLM, LLM) for inputs [n, hidden_size + 1]."""
        x = (self._features(inputs) - self.mean) / self.std
        for index, layer in enumerate(self.layers):
            x = layer(torch.relu(x) if index else x)
        return torch.log_softmax(x, dim=-1)

    def normalise(self, inputs: Tensor) -> None:
        """Takes mean and std from examples [n, hidden_size + 1]; the readout must be set."""
        features = self._features(inputs)
        self.mean.copy_(features.mean(dim=0))
        self.std.copy_(features.std(dim=0) + 1e-6)

    def _features(self, inputs: Tensor) -> Tensor:
        if not len(self.readout):
            return inputs
        log_p = torch.log_softmax(inputs[:, :-1] @ self.readout.T, dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1, keepdim=True)
        top = log_p.topk(NUM_TOP, dim=-1).values.clamp_min(MIN_LOG_P)
        return torch.cat([inputs, top, entropy, entropy.clamp_min(1e-6).log()], dim=1)

    def to_head(self, facts: HeadFacts) -> Head:
        layers = [(_array(layer.weight), _array(layer.bias)) for layer in self.layers if isinstance(layer, nn.Linear)]
        return Head(
            facts, _array(self.mean), _array(self.std), layers, _array(self.readout) if len(self.readout) else None
        )


def inputs_of(consultations: Sequence[Consultation]) -> Tensor:
    """What the policy sees, float32 [n, hidden_size + 1]."""
    hidden = np.stack([np.frombuffer(asked.hidden_state, "<f4") for asked in consultations])
    lengths = np.array([[asked.context_length] for asked in consultations], np.float32)
    return torch.from_numpy(np.concatenate([hidden, lengths], axis=1))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float32)
