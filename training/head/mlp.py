"""The head as torch trains it, and as the file that is served. It knows no rollouts.

Its inputs are those of `rstitch.service.head`, in that order: hidden state, context length, features, and what is read
out, which it computes from the hidden state itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from rstitch.client.events import Consultation
from rstitch.service.head import MIN_LOG_P, NUM_TOP, Array, Head, HeadFacts, num_inputs
from rstitch.service.head_features import known_scales, num_numbers

_LEAST_STD = 1e-2  # of an input


class Policy(nn.Module):
    """A softmax over {SLM, LLM}: ReLU layers on normalised (hidden state, context length, features, what is read out).

    Args:
        hidden_size: of the SLM.
        num_readout: rows of the readout, see `rstitch.service.head`; 0: none.
        hidden: sizes of the layers between.
        start_llm: P(LLM) that it starts with, whatever the input: R-Stitch+ begins near the threshold rule.
        features: names of `rstitch.service.head_features`.
    """

    mean: Tensor
    std: Tensor
    readout: Tensor

    def __init__(
        self, hidden_size: int, num_readout: int, hidden: Sequence[int], start_llm: float, features: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.features = tuple(features)
        self.hidden_size = hidden_size
        width = num_inputs(hidden_size, has_readout=num_readout > 0, features=self.features)
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
        """Log-probabilities [n, 2] of (SLM, LLM) for inputs [n, num_given]."""
        x = (self._read(inputs) - self.mean) / self.std
        for index, layer in enumerate(self.layers):
            x = layer(torch.relu(x) if index else x)
        return torch.log_softmax(x, dim=-1)

    @property
    def num_given(self) -> int:
        """Counts the numbers of an input: hidden state, context length, features."""
        return self.hidden_size + 1 + num_numbers(self.features)

    @torch.no_grad()
    def normalise(self, inputs: Tensor) -> None:
        """Takes mean and std from examples [n, num_given], but for features of a known range; the readout must be set.

        What hardly differs in the examples may differ in answers: no std is below a floor.
        """
        x = self._read(inputs)
        self.mean.copy_(x.mean(dim=0))
        self.std.copy_((x.std(dim=0, correction=int(len(x) > 1)) + 1e-6).clamp_min(_LEAST_STD))
        for index, (mean, std) in known_scales(self.features).items():
            place = self.hidden_size + 1 + index
            self.mean[place], self.std[place] = mean, std

    def to_head(self, facts: HeadFacts) -> Head:
        """Makes the file that is served, shown this policy's features whatever `facts` says of them."""
        layers = [(_array(layer.weight), _array(layer.bias)) for layer in self.layers if isinstance(layer, nn.Linear)]
        readout = _array(self.readout) if len(self.readout) else None
        return Head(replace(facts, features=self.features), _array(self.mean), _array(self.std), layers, readout)

    def _read(self, inputs: Tensor) -> Tensor:
        if not len(self.readout):
            return inputs
        log_p = torch.log_softmax(inputs[:, : self.hidden_size] @ self.readout.T, dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1, keepdim=True)
        top = log_p.topk(NUM_TOP, dim=-1).values.clamp_min(MIN_LOG_P)
        return torch.cat([inputs, top, entropy, entropy.clamp_min(1e-6).log()], dim=1)


def inputs_of(consultations: Sequence[Consultation]) -> Tensor:
    """Makes what a policy sees of what its head was asked, float32 [n, hidden_size + 1 + num_features].

    The hidden states are those of the wire, in half precision; the head itself saw them in single precision.
    """
    if not consultations:
        raise ValueError("there are no consultations, and so nothing that says how wide they are")
    hidden = np.stack([np.frombuffer(asked.hidden_state, "<f2") for asked in consultations]).astype(np.float32)
    others = np.array([(asked.context_length, *asked.features) for asked in consultations], np.float32)
    return torch.from_numpy(np.concatenate([hidden, others], axis=1))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float32)
