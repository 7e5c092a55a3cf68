"""Toy 'models' whose next token and entropy are hashes of the prefix, a tokenizer for them, and what the reference
writes with them: the oracle of the router's tests.
"""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from evals.algorithm.reference import Proposal, Threshold, stitch
from router_svc.text.tokenizer import TokenizerFiles

SPECIAL = ("<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>")
STOP = 0
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('no role ' + message['role']) }}"
    "{% endif %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer_files(
    last_token: str = "zz",
    chat_template: str = CHAT_TEMPLATE,
    special: Sequence[str] = SPECIAL,
    seed: int | None = None,
) -> TokenizerFiles:
    """Byte-level: specials, 256 bytes, a few merges. `last_token` spells the last entry; a seed shuffles all ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("a", "n"), (last_token[0], last_token[1])]
    tokens = [*special, *alphabet, *("".join(pair) for pair in merges)]
    if seed is not None:
        random.Random(seed).shuffle(tokens)
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return TokenizerFiles(tokenizer.to_str().encode(), chat_template, {"eos_token": "<|end|>"})


def unstitchable_files() -> TokenizerFiles:
    """A tokenizer that does not give back what it was given: a handful of words, and all else is unknown."""
    words = ["<|end|>", "[UNK]", "hallo", "welt"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return TokenizerFiles(tokenizer.to_str().encode(), CHAT_TEMPLATE, {"eos_token": "<|end|>"})


VOCAB_SIZE = len(SPECIAL) + 256 + 4


def _hash(seed: int, prefix: Sequence[int], salt: int) -> int:
    data = struct.pack(f"<II{len(prefix)}I", seed, salt, *prefix)
    # Two rounds: CRC alone is linear.
    return zlib.crc32(struct.pack("<I", zlib.crc32(data) * 2654435761 % 2**32), salt)


@dataclass(frozen=True)
class ToyModel:
    """`stop_every`: about one token in so many is the stop token; 0: none."""

    seed: int
    stop_every: int = 40
    choose: Callable[[Sequence[int]], int] | None = field(default=None, compare=False)

    def token(self, prefix: Sequence[int]) -> int:
        if self.choose is not None:
            return self.choose(prefix)
        value = _hash(self.seed, prefix, 1)
        if self.stop_every and value % self.stop_every == 0:
            return STOP
        return len(SPECIAL) + value // 64 % (VOCAB_SIZE - len(SPECIAL))

    def entropy(self, prefix: Sequence[int]) -> float:
        """float32 in [0, 1]; 0 and 1 themselves come up."""
        value = _hash(self.seed, prefix, 2) % 1000
        exact = 0.0 if value < 30 else 1.0 if value > 970 else value / 1000
        return struct.unpack("<f", struct.pack("<f", exact))[0]

    def doubt(self, prefix: Sequence[int]) -> float:
        """float32 in [0, 1]: a signal other than the entropy."""
        return struct.unpack("<f", struct.pack("<f", _hash(self.seed, prefix, 3) % 1000 / 999))[0]

    def hidden_state(self, prefix: Sequence[int]) -> bytes:
        """What a head sees: float32 little-endian, [1]."""
        return struct.pack("<f", self.doubt(prefix))

    def next(self, tokens: Sequence[int]) -> Proposal:
        """What the reference asks of a model; every signal but the entropy is the doubt."""
        doubt = self.doubt(tokens)
        return Proposal(self.token(tokens), self.entropy(tokens), doubt, doubt, math.exp(self.logprob(tokens)))

    def logprob(self, prefix: Sequence[int]) -> float:
        """float32, of the token: of probabilities in (0, 1]."""
        return struct.unpack("<f", struct.pack("<f", math.log((_hash(self.seed, prefix, 4) % 1000 + 1) / 1000)))[0]

    def alternatives(self, prefix: Sequence[int], num: int) -> list[tuple[int, float]]:
        """Made up of the prefix, a special token among them; at most 7."""
        first = _hash(self.seed, prefix, 5) % (VOCAB_SIZE - 7)
        return [(first + place, -0.5 * place - 0.25) for place in range(min(num, 7))]


@dataclass(frozen=True)
class Scripted(ToyModel):
    """The same token from the same prefix, but for `own`; unsure at chosen positions."""

    unsure: frozenset[int] = frozenset()
    own: frozenset[int] = frozenset()
    stop_at: int = 0

    def token(self, prefix: Sequence[int]) -> int:
        if self.stop_at and len(prefix) >= self.stop_at:
            return STOP
        token = 5 + sum(prefix) % 200
        return token + 1 + self.seed if len(prefix) in self.own else token

    def entropy(self, prefix: Sequence[int]) -> float:
        return 0.75 if len(prefix) in self.unsure else 0.25


def at(*positions: int) -> frozenset[int]:
    return frozenset(positions)


def algorithm_1(
    slm: ToyModel, llm: ToyModel, prompt: Sequence[int], tau: float, tau_return: float, max_new_tokens: int
) -> tuple[list[int], list[str]]:
    """The reference's tokens, and who wrote each."""
    rule = Threshold(tau, tau_return)
    written = stitch(slm, llm, prompt, rule, max_new_tokens=max_new_tokens, stop_tokens={STOP}).written
    return [token.id for token in written], [token.model for token in written]
