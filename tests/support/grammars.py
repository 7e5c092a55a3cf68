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

from evals.algorithm.reference import Proposal
from evals.algorithm.uncached_model import UncachedModel
from model_worker.engine.forward.inversion import draw
from model_worker.engine.forward.sampling import uniform
from model_worker.engine.types import GREEDY, Sampling
from rstitch.service.json_schemas import grammar_of
from tests.support.served import Pair
from tests.support.shaped import choose

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
    """What the reference wrote, each token with its entropy; it `ended` by a stop token, or else by its length."""

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


class Bound(UncachedModel):
    """A model that writes an answer from `start` on that a schema allows, chosen as `sampling` says."""

    def __init__(self, pair: Pair, role: str, start: int, schema: Any, sampling: Any) -> None:
        super().__init__(pair.model(role), pair.vocab_size)
        self._own, self._size, self._start, self._sampling = pair.model(role), pair.vocab_size, start, sampling
        file = ((pair.slm_folder if role == "slm" else pair.llm_folder) / "tokenizer.json").read_text()
        self._vocabulary = LLTokenizer(file, n_vocab=pair.vocab_size, eos_token=pair.stop_token)
        self._grammar = grammar_of(json.dumps(schema), "schema")

    @torch.inference_mode()
    def next(self, tokens: Sequence[int]) -> Proposal:
        matcher = LLMatcher(self._vocabulary, self._grammar)
        assert matcher.consume_tokens(list(tokens[self._start :]))
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        logits = self._own(torch.tensor([list(tokens)]), use_cache=False).logits[0, -1, : self._size]
        logits[torch.from_numpy(bits[: self._size] == 0)] = -math.inf
        token = choose(logits.tolist(), tokens[self._start :], len(tokens), self._sampling)
        log_p = logits.log_softmax(-1)
        entropy = float(torch.special.entr(log_p.exp()).sum()) / math.log(self._size)
        return super().next(tokens)._replace(token=token, entropy=entropy)
