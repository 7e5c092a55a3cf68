"""What a head was asked for an answer, and how Redis keeps it beside the tokens. It knows no head.

One after another, little-endian, without a header; n numbers, h bytes of a hidden state:

    uint32 position, context length, proposal | float32 entropy, probability | uint8 decision, n | uint32 h
    float32 features [n] | hidden state [h]
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

_FIXED = struct.Struct("<IIIffBBI")


@dataclass(frozen=True, slots=True)
class Consultation:
    """One question to a head, and what it said.

    Attributes:
        position: in the trajectory, of the token that was to be written.
        context_length: tokens that the SLM had read before.
        hidden_state: the SLM's last one, float16 little-endian, [hidden_size].
        proposal: the token that the SLM would write, in the answer's ids.
        features: what else the head was shown.
        probability: with which the LLM was to write.
        to_llm: the decision.
    """

    position: int
    context_length: int
    hidden_state: bytes
    entropy: float
    proposal: int
    features: tuple[float, ...]
    probability: float
    to_llm: bool


def num_bytes(hidden_size: int, num_features: int) -> int:
    """How many bytes one consultation of a head is kept in."""
    return _FIXED.size + 4 * num_features + 2 * hidden_size


def pack_consultations(consultations: Iterable[Consultation]) -> bytes:
    """The consultations as bytes, in the layout that the module describes."""
    made = bytearray()
    for asked in consultations:
        made += _FIXED.pack(
            asked.position,
            asked.context_length,
            asked.proposal,
            asked.entropy,
            asked.probability,
            asked.to_llm,
            len(asked.features),
            len(asked.hidden_state),
        )
        made += struct.pack(f"<{len(asked.features)}f", *asked.features)
        made += asked.hidden_state
    return bytes(made)


def unpack_consultations(data: bytes) -> tuple[Consultation, ...]:
    """The consultations that `pack_consultations` made `data` of."""
    made: list[Consultation] = []
    at = 0
    while at < len(data):
        position, length, proposal, entropy, probability, to_llm, num_features, size = _FIXED.unpack_from(data, at)
        at += _FIXED.size
        features = struct.unpack_from(f"<{num_features}f", data, at)
        at += 4 * num_features
        state = bytes(data[at : at + size])
        at += size
        made.append(Consultation(position, length, state, entropy, proposal, features, probability, bool(to_llm)))
    return tuple(made)
