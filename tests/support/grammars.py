"""Schemas, and the naive way to hold a model to one: before each token the library reads the whole answer anew."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer

from model_worker.engine.forward.inversion import draw
from model_worker.engine.forward.sampling import uniform
from model_worker.engine.types import GREEDY, Sampling
from rstitch.service.json_schemas import grammar_of

# Bounded throughout, so that a random model comes to an end.
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "ok": {"type": "boolean"},
        "kind": {"enum": ["cat", "catfish", "dog"]},
    },
    "required": ["name", "age", "ok", "kind"],
    "additionalProperties": False,
}
MARKS = {"type": "array", "minItems": 2, "maxItems": 3, "items": {"enum": [1, 12, "ab"]}}


@dataclass(frozen=True)
class Held:
    """What the reference wrote."""

    tokens: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    ended: bool = False


def hold(
    model: Any,
    tokenizer_file: str,
    prompt: Sequence[int],
    schema: Any,
    length: int,
    *,
    vocab_size: int,
    stop: int,
    sampling: Sampling = GREEDY,
    masked: Collection[int] = (),
) -> Held:
    """Lets a model write after a prompt, of the tokens alone that the schema allows next, until it stops."""
    vocabulary = LLTokenizer(tokenizer_file, n_vocab=vocab_size, eos_token=stop)
    tokens: list[int] = []
    entropies: list[float] = []
    while len(tokens) < length:
        matcher = LLMatcher(vocabulary, grammar_of(json.dumps(schema), "schema"))
        assert matcher.consume_tokens(tokens)
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        left = torch.tensor([int(token) for token in np.nonzero(bits)[0] if token not in masked])
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, -1, left]
        log_p = logits.log_softmax(-1)
        entropies.append(float(-(log_p.exp() * log_p).sum()) / math.log(vocab_size - len(masked)))
        if sampling.temperature:
            at = len(prompt) + len(tokens) + sampling.position_offset
            (place,), _ = draw(logits[None], [0], [sampling], [uniform(sampling.seed, at)], first=0)
        else:
            place = int(logits.argmax())
        tokens.append(int(left[place]))
        if tokens[-1] == stop:
            return Held(tokens, entropies, True)
    return Held(tokens, entropies)
