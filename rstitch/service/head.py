"""The head of R-Stitch+ (arXiv 2507.17307): a small MLP on (the SLM's hidden state, context length).

Where the SLM is unsure it is asked whether the LLM shall write the position. A head is one `safetensors` file: weights,
and in its metadata what it fits. Router and worker run it with this code, one row at a time, so that both decide alike,
alone and in a batch. numpy only; it knows no model, folder or wire.

A head may bring a *readout* (ours): rows of the SLM's own LM head for the tokens that it is most often unsure about.
What the SLM thinks of them, largest first, is then put beside the hidden state. It is a function of that state, but one
that an MLP of this size learns only from far more examples. It may also be shown *features* (ours, see
`head_features`): what the answer so far tells.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rstitch.limits import MAX_TAU, MIN_TAU
from rstitch.service.head_features import NAMES, num_numbers

Array = NDArray[np.float32]

_KEY = "rstitch_head"
_FORMATS = (1, 2)  # a head without features is of the first, as workers of before know it
_VERSION_LENGTH = 12
MAX_BYTES = 15 << 20  # of a file: it goes to the worker in one message
NUM_TOP = 4  # log-probabilities of a readout that are inputs
MIN_LOG_P = -15.0
_NUM_READ = NUM_TOP + 2  # and their entropy, and its logarithm


class HeadFileError(Exception):
    """What was given is no head, or none that can be run here; the message says why."""


@dataclass(frozen=True, slots=True)
class HeadFacts:
    """Says what a head fits and was trained for."""

    hidden_size: int  # of the SLM
    tokenizer_fingerprint: str  # of the pair, as GetInfo names it; "": whatever the SLM's is
    tau: float  # the gate that it was trained with: it is asked where the SLM's entropy is above
    slm: str = ""  # this and `llm` are for people
    llm: str = ""
    features: tuple[str, ...] = ()  # what it is shown beside hidden state and context length, by names of head_features

    def misfit(self, hidden_size: int, tokenizer_fingerprint: str) -> str:
        """Says why the head cannot be asked of this SLM's states; "" if it can."""
        if self.hidden_size != hidden_size:
            return f"it takes hidden states of {self.hidden_size} numbers, the SLM's have {hidden_size}"
        if self.tokenizer_fingerprint not in ("", tokenizer_fingerprint):
            return "it was trained for another tokenizer than the SLM's"
        return ""


class Head:
    """An MLP with ReLU between its layers; immutable.

    Args:
        mean, std: of the inputs, float32 [num_inputs(...)]: hidden state, context length, features, what is read out.
        layers: (weight [out, in], bias [out]) from the input to the two logits (SLM, LLM).
        readout: rows of the SLM's LM head, float32 [at least NUM_TOP, hidden_size]; None: it has none.
    Raises: HeadFileError if the shapes do not fit one another.
    """

    __slots__ = ("_layers", "_mean", "_readout", "_scale", "data", "facts", "version")

    def __init__(
        self, facts: HeadFacts, mean: Array, std: Array, layers: list[tuple[Array, Array]], readout: Array | None = None
    ) -> None:
        _check(facts, mean, std, layers, readout)
        self.facts = facts
        self._mean, self._scale = mean, 1 / std
        self._layers = tuple(layers)
        self._readout = readout
        tensors = {"input.mean": mean, "input.std": std} | ({} if readout is None else {"readout": readout})
        for index, (weight, bias) in enumerate(layers):
            tensors |= {f"layers.{index}.weight": weight, f"layers.{index}.bias": bias}
        metadata = {_KEY: json.dumps(_fields(facts), sort_keys=True)}
        # The head as a file.
        self.data = save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata)
        self.version = version_of(self.data)

    @classmethod
    def from_bytes(cls, data: bytes) -> Head:
        """Reads what `data` holds. Raises: HeadFileError."""
        if len(data) > MAX_BYTES:
            raise HeadFileError(f"its {len(data)} bytes are more than {MAX_BYTES}")
        try:
            tensors = load(data)
            facts = _facts(data)
            layers = [
                (tensors[f"layers.{index}.weight"], tensors[f"layers.{index}.bias"])
                for index in range(sum(name.endswith(".weight") for name in tensors))
            ]
            head = cls(facts, tensors["input.mean"], tensors["input.std"], layers, tensors.get("readout"))
        except HeadFileError:
            raise
        except SafetensorError as error:
            raise HeadFileError("it is no head: no safetensors file") from error
        except KeyError as error:
            raise HeadFileError(f"it is no head: it lacks {error}") from error
        except Exception as error:  # whatever a crafted one leads to
            raise HeadFileError("it is no head: its values are not those of one") from error
        head.data, head.version = data, version_of(data)  # the same numbers may be written in other ways
        return head

    @property
    def sizes(self) -> list[int]:
        """Gives the widths of the input, the layers between and the output."""
        return [len(self._mean), *(len(bias) for _, bias in self._layers)]

    @property
    def num_parameters(self) -> int:
        """Counts weights and biases, without those of the readout."""
        return sum(weight.size + bias.size for weight, bias in self._layers)

    def logits(self, hidden_state: bytes, context_length: int, features: Sequence[float] = ()) -> Array:
        """Computes the two logits, for the SLM and for the LLM to write the position after `context_length` tokens.

        Args:
            features: the numbers of `facts.features`.
        Raises: ValueError unless the hidden state is [hidden_size], float32 little-endian, and all features are there.
        """
        size, num_features = self.facts.hidden_size, num_numbers(self.facts.features)
        if len(hidden_state) != 4 * size:
            raise ValueError(f"the head takes hidden states of {size} numbers, not of {len(hidden_state) / 4:g}")
        if len(features) != num_features:
            raise ValueError(f"the head is shown {num_features} features, not {len(features)}")
        x = np.empty(len(self._mean), np.float32)
        x[:size] = np.frombuffer(hidden_state, "<f4")
        x[size] = context_length
        x[size + 1 : size + 1 + num_features] = features
        if self._readout is not None:
            _read(self._readout, x, size, size + 1 + num_features)
        x -= self._mean
        x *= self._scale
        last = len(self._layers) - 1
        for index, (weight, bias) in enumerate(self._layers):
            x = weight @ x
            x += bias
            if index < last:
                np.maximum(x, 0, out=x)
        return x

    def probability(
        self, hidden_state: bytes, context_length: int, features: Sequence[float] = (), price: float = 1.0
    ) -> float:
        """Says with which probability the LLM shall write the position; takes what `logits` takes.

        Args:
            price: what a token of the LLM is worth, in multiples of what the head was trained for; the odds are divided
                by it.
        """
        slm, llm = self.logits(hidden_state, context_length, features)
        log_odds = float(llm) - float(slm) - math.log(price)
        return 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0

    def wants_llm(self, hidden_state: bytes, context_length: int, features: Sequence[float] = ()) -> bool:
        """Says whether the LLM shall write the position; takes what `logits` takes."""
        return self.probability(hidden_state, context_length, features) > 0.5


def num_inputs(hidden_size: int, *, has_readout: bool, features: Sequence[str] = ()) -> int:
    """Counts the inputs of the first layer: hidden state, context length, features, what is read out."""
    return hidden_size + 1 + num_numbers(features) + (_NUM_READ if has_readout else 0)


def _read(readout: Array, x: Array, size: int, first: int) -> None:
    """Fills x[first:]: the largest log-probabilities among the readout's tokens, descending, entropy, its log."""
    log_p = readout @ x[:size]
    log_p -= log_p.max()
    log_p -= np.log(np.exp(log_p).sum())
    entropy = -(np.exp(log_p) * log_p).sum()
    x[first : first + NUM_TOP] = np.maximum(np.sort(log_p)[: -NUM_TOP - 1 : -1], MIN_LOG_P)
    x[first + NUM_TOP] = entropy
    x[first + NUM_TOP + 1] = np.log(max(entropy, np.float32(1e-6)))


def version_of(data: bytes) -> str:
    """Names a head's file by its content."""
    return hashlib.sha256(data).hexdigest()[:_VERSION_LENGTH]


def _facts(data: bytes) -> HeadFacts:
    """Reads the file's metadata, as `safetensors` does from files only: its header is a uint64 length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    header: Mapping[str, Any] = json.loads(data[8 : 8 + length])
    fields = json.loads(header["__metadata__"][_KEY])
    if not isinstance(fields, dict) or fields.pop("format") not in _FORMATS:
        raise HeadFileError("it is of a format that this version does not know")
    facts = HeadFacts(**{**fields, "features": tuple(fields.get("features", ()))})
    if unknown := [name for name in facts.features if name not in NAMES]:
        raise HeadFileError(f"it is shown {unknown[0]!r}, which is none of {', '.join(NAMES)}")
    texts = (facts.tokenizer_fingerprint, facts.slm, facts.llm)
    if type(facts.hidden_size) is not int or not all(isinstance(text, str) for text in texts):
        raise HeadFileError("of its facts hidden_size should be a whole number, names and fingerprint strings")
    if not isinstance(facts.tau, int | float) or not MIN_TAU <= facts.tau <= MAX_TAU:  # NaN fails, too
        raise HeadFileError(f"its tau is {facts.tau!r}, not a number in [{MIN_TAU:g}, {MAX_TAU:g}]")
    return facts


def _fields(facts: HeadFacts) -> dict[str, Any]:
    fields = {"format": _FORMATS[bool(facts.features)], **asdict(facts)}
    if not facts.features:
        del fields["features"]
    return fields


def _check(facts: HeadFacts, mean: Array, std: Array, layers: list[tuple[Array, Array]], readout: Array | None) -> None:
    if readout is not None and (readout.ndim != 2 or len(readout) < NUM_TOP or readout.shape[1] != facts.hidden_size):
        raise HeadFileError(f"readout is {list(readout.shape)}, not [{NUM_TOP} or more, {facts.hidden_size}]")
    width = num_inputs(facts.hidden_size, has_readout=readout is not None, features=facts.features)
    if mean.shape != (width,) or std.shape != (width,) or not bool((std > 0).all()):
        raise HeadFileError(f"input.mean and input.std should be {width} numbers each, std over 0")
    for index, (weight, bias) in enumerate(layers):
        if weight.ndim != 2 or weight.shape != (bias.size, width):
            raise HeadFileError(f"layers.{index}.weight is {list(weight.shape)}, not [{bias.size}, {width}]")
        width = bias.size
    if not layers or width != 2:
        raise HeadFileError(f"the last layer should give two logits, not {width}")
    arrays = [mean, std, *(array for layer in layers for array in layer), *([] if readout is None else [readout])]
    if any(array.dtype != np.float32 for array in arrays):
        raise HeadFileError("all tensors should be float32")
    if not all(bool(np.isfinite(array).all()) for array in arrays):
        raise HeadFileError("a tensor is not finite")
