"""The head of R-Stitch+ (arXiv 2507.17307): a small MLP on (the SLM's hidden state, context length).

Where the SLM is unsure it is asked whether the LLM shall write the position. A head is one `safetensors` file: weights,
and in its metadata what it fits. Router and worker run it with this code, one row at a time, so that both decide alike,
alone and in a batch. numpy only; it knows no model, folder or wire.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

Array = NDArray[np.float32]

_KEY = "rstitch_head"
_FORMAT = 1
_VERSION_LENGTH = 12


class HeadFileError(Exception):
    """What was given is no head that this version can run; says why."""


@dataclass(frozen=True, slots=True)
class HeadFacts:
    """What a head fits and was trained for.

    Attributes:
        hidden_size: of the SLM.
        tokenizer_fingerprint: of the pair, as GetInfo names it; "": whatever the SLM's is.
        tau: the gate that it was trained with: it is asked where the SLM's entropy is above.
        slm, llm: the models it was trained for, for people.
    """

    hidden_size: int
    tokenizer_fingerprint: str
    tau: float
    slm: str = ""
    llm: str = ""


class Head:
    """An MLP with ReLU between its layers; immutable.

    Args:
        mean, std: of the inputs, float32 [hidden_size + 1]; the last is the context length.
        layers: (weight [out, in], bias [out]) from the input to the two logits (SLM, LLM).
    Raises: HeadFileError if the shapes do not fit one another.

    Attributes:
        facts: what it fits.
        data: the head as a file.
        version: of that file, by its content.
    """

    __slots__ = ("_layers", "_mean", "_scale", "data", "facts", "version")

    def __init__(self, facts: HeadFacts, mean: Array, std: Array, layers: list[tuple[Array, Array]]) -> None:
        _check(facts, mean, std, layers)
        self.facts = facts
        self._mean, self._scale = mean, 1 / std
        self._layers = tuple(layers)
        tensors = {"input.mean": mean, "input.std": std}
        for index, (weight, bias) in enumerate(layers):
            tensors |= {f"layers.{index}.weight": weight, f"layers.{index}.bias": bias}
        metadata = {_KEY: json.dumps({"format": _FORMAT, **asdict(facts)}, sort_keys=True)}
        self.data = save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata)
        self.version = version_of(self.data)

    @classmethod
    def from_bytes(cls, data: bytes) -> Head:
        """The inverse of `data`. Raises HeadFileError."""
        try:
            tensors = load(data)
            facts = _facts(data)
            layers = [
                (tensors[f"layers.{index}.weight"], tensors[f"layers.{index}.bias"])
                for index in range((len(tensors) - 2) // 2)
            ]
            head = cls(facts, tensors["input.mean"], tensors["input.std"], layers)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise HeadFileError(f"it is no head: {type(error).__name__}: {error}") from error
        head.data, head.version = data, version_of(data)  # the same numbers may be written in other ways
        return head

    @property
    def sizes(self) -> list[int]:
        """Of the input, the layers between and the output."""
        return [self.facts.hidden_size + 1, *(len(bias) for _, bias in self._layers)]

    @property
    def num_parameters(self) -> int:
        """Weights and biases."""
        return sum(weight.size + bias.size for weight, bias in self._layers)

    def logits(self, hidden_state: bytes, context_length: int) -> Array:
        """(SLM, LLM), [2].

        Args:
            hidden_state: float32 little-endian, [hidden_size].
            context_length: tokens before the position.
        Raises: ValueError if the hidden state has another size.
        """
        size = self.facts.hidden_size
        if len(hidden_state) != 4 * size:
            raise ValueError(f"the head takes hidden states of {size} numbers, not of {len(hidden_state) / 4:g}")
        x = np.empty(size + 1, np.float32)
        x[:size] = np.frombuffer(hidden_state, "<f4")
        x[size] = context_length
        x -= self._mean
        x *= self._scale
        last = len(self._layers) - 1
        for index, (weight, bias) in enumerate(self._layers):
            x = weight @ x
            x += bias
            if index < last:
                np.maximum(x, 0, out=x)
        return x

    def wants_llm(self, hidden_state: bytes, context_length: int) -> bool:
        """Whether the LLM shall write the position. As `logits`."""
        slm, llm = self.logits(hidden_state, context_length)
        return bool(llm > slm)

    def misfit(self, hidden_size: int, tokenizer_fingerprint: str) -> str:
        """Why it cannot be asked of this SLM's states; "" if it can."""
        if self.facts.hidden_size != hidden_size:
            return f"it takes hidden states of {self.facts.hidden_size} numbers, the SLM's have {hidden_size}"
        if self.facts.tokenizer_fingerprint not in ("", tokenizer_fingerprint):
            return "it was trained for another tokenizer than the SLM's"
        return ""


def version_of(data: bytes) -> str:
    """Names a head's file by its content."""
    return hashlib.sha256(data).hexdigest()[:_VERSION_LENGTH]


def _facts(data: bytes) -> HeadFacts:
    """Of the file's metadata, which `safetensors` reads from files only. Its header: uint64 length, JSON."""
    length = int.from_bytes(data[:8], "little")
    header: Mapping[str, Any] = json.loads(data[8 : 8 + length])
    fields = json.loads(header["__metadata__"][_KEY])
    if fields.pop("format") != _FORMAT:
        raise HeadFileError("it is of a format that this version does not know")
    return HeadFacts(**fields)


def _check(facts: HeadFacts, mean: Array, std: Array, layers: list[tuple[Array, Array]]) -> None:
    width = facts.hidden_size + 1
    if mean.shape != (width,) or std.shape != (width,) or not bool((std > 0).all()):
        raise HeadFileError(f"input.mean and input.std should be {width} numbers each, std over 0")
    for index, (weight, bias) in enumerate(layers):
        if weight.ndim != 2 or weight.shape != (bias.size, width):
            raise HeadFileError(f"layers.{index}.weight is {list(weight.shape)}, not [{bias.size}, {width}]")
        width = bias.size
    if not layers or width != 2:
        raise HeadFileError(f"the last layer should give two logits, not {width}")
    arrays = [mean, std, *(array for layer in layers for array in layer)]
    if any(array.dtype != np.float32 for array in arrays):
        raise HeadFileError("all tensors should be float32")
    if not all(bool(np.isfinite(array).all()) for array in arrays):
        raise HeadFileError("a tensor is not finite")
