"""Pairs whose tokenizers have nothing in common: a byte-level BPE beside one as SentencePiece makes them, with random
models, and what the reference in text writes with them.
"""

from __future__ import annotations

import copy
import functools
import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from evals.algorithm.reference import Author, Model, Proposal, Rule
from evals.algorithm.text_reference import TextAnswer, TextModel, stitch_text
from evals.algorithm.uncached_model import UncachedModel
from tests.support.pairs import CONFIGS, make_model
from tests.support.served import Pair
from tests.support.toy import ToyModel

# Scripts and signs that the two tokenizers cut in different places: emoji with joiners and skin tones, CJK, accents as
# marks of their own, right to left, flags, a character that is in neither vocabulary, spaces of several kinds.
PIECES = (
    *("the stones", " lie", " there", "\n\n", "  two", "\t", "a", "Z", "12", ". "),
    *("e\u0301", "n\u0303o", "\u1e9b\u0323", "\u3000", "\u00a0", "…", "𝔘"),
    *("你好", "世界", "東京", "안녕", "नमस्ते", "สวัสดี", "שלום", "مرحبا"),
    *("😀", "👩\u200d🔬", "👍🏽", "🇩🇪"),
)
END, CLOSE = "<|end|>", "</s>"
ROLES: tuple[Author, Author] = ("slm", "llm")
_BYTE_LEVEL_CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SENTENCEPIECE_CHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] }}{{ eos_token }}"
    "{% else %}[{{ message['role'] }}]{{ message['content'] }}[/]{% endif %}{% endfor %}"
)


def byte_level() -> Tokenizer:
    """A byte-level BPE: special tokens, 256 bytes, a few merges, of which one ends within a character."""
    special = [END, "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [
        "t h",
        "th e",
        "Ġ the",
        "a n",
        "Ġ l",
        "l i",
        "o n",
        "s t",
        "ä ½",
        "ä½ ł",
        "å ¥",
        "å¥ ½",
        "ð Ł",
        "ðŁ ĺ",
        "Ì ģ",
    ]
    merges = [(left, right) for left, right in map(str.split, pairs)]
    vocab = {token: index for index, token in enumerate([*special, *alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer


def sentencepiece(*, continues: bool = False, legacy: bool = False) -> Tokenizer:
    """A BPE with fallback to bytes, as converted from SentencePiece.

    Args:
        continues: for text that goes on: nothing is put before it, and no space is taken from it.
        legacy: the mark is put before the text by a normalizer, as in Llama 2; else by the pre-tokenizer.
    """
    special = ["<unk>", "<s>", CLOSE]
    letters = [chr(code) for code in range(33, 127)]
    own = ["\u0301", "é", "你", "好", "世", "界", "😀", "\n", "ा", "ん"]
    merges = [
        ("t", "h"),
        ("th", "e"),
        ("▁", "the"),
        ("o", "n"),
        ("i", "e"),
        ("▁", "l"),
        ("你", "好"),
        ("▁", "▁"),
        ("s", "t"),
    ]
    pieces = ["▁", *letters, *own, *("".join(pair) for pair in merges)]
    vocab = {
        token: index for index, token in enumerate([*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces])
    }
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if legacy:
        parts = [] if continues else [normalizers.Prepend("▁")]
        tokenizer.normalizer = normalizers.Sequence([*parts, normalizers.Replace(" ", "▁")])
    else:
        scheme = "never" if continues else "first"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps if continues else [*steps, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def _saved(folder: Path, architecture: str, seed: int, tokenizer: Tokenizer, tokens: dict[str, str], chat: str) -> Path:
    if (folder / "config.json").exists():
        return folder
    config = copy.deepcopy(CONFIGS[architecture])
    config.vocab_size = tokenizer.get_vocab_size() + 3  # rows that only pad the matrix
    config.eos_token_id = tokenizer.token_to_id(tokens["eos_token"])
    model = make_model(config, seed)
    with torch.no_grad():
        for token in range(tokenizer.get_vocab_size()):
            if "\ufffd" in tokenizer.decode([token], skip_special_tokens=False):
                model.get_output_embeddings().weight[token].mul_(0.85)  # or there is little else than broken characters
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
    fast.chat_template = chat
    fast.save_pretrained(folder)
    return folder


def save_byte_level_model(folder: Path, architecture: str, seed: int) -> Path:
    """A random model over `byte_level`."""
    return _saved(folder, architecture, seed, byte_level(), {"eos_token": END}, _BYTE_LEVEL_CHAT)


def save_sentencepiece_model(folder: Path, architecture: str, seed: int) -> Path:
    """A random model over `sentencepiece`."""
    tokens = {"bos_token": "<s>", "eos_token": CLOSE, "unk_token": "<unk>"}
    return _saved(folder, architecture, seed, sentencepiece(), tokens, _SENTENCEPIECE_CHAT)


class NaiveTextModel(TextModel):
    """A model with the tokenizer of text that continues, as `tokenizers` has it."""

    def __init__(self, model: Model, tokenizer: Tokenizer, stop_token: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._stop_tokens = frozenset({stop_token})

    @property
    def stop_tokens(self) -> frozenset[int]:
        return self._stop_tokens

    def next(self, tokens: Sequence[int]) -> Proposal:
        return self._model.next(tokens)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=False)
        return text


def naive_models(slm: Model, llm: Model) -> dict[Author, TextModel]:
    """A byte-level SLM and a SentencePiece LLM as the reference in text sees them."""
    ours, theirs = byte_level(), sentencepiece(continues=True)
    return {
        "slm": NaiveTextModel(slm, ours, ours.token_to_id(END)),
        "llm": NaiveTextModel(llm, theirs, theirs.token_to_id(CLOSE)),
    }


def prompts_of(text: str) -> dict[Author, list[int]]:
    """What each model reads of a text that begins a session."""
    return {"slm": byte_level().encode(text).ids, "llm": sentencepiece().encode(text).ids}


def texts(num: int, seed: int) -> list[str]:
    """Short texts of all kinds."""
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randrange(1, 9))) for _ in range(num)]


@dataclass(frozen=True)
class Writing(ToyModel):
    """A toy that mostly goes on with the same text in all scripts, and now and then breaks off within a character."""

    table: tuple[int, ...] = ()
    end: int = 0

    def token(self, prefix: Sequence[int]) -> int:
        value = zlib.crc32(struct.pack(f"<{len(prefix) + 1}I", self.seed, *prefix))
        if value % 100 == 0:
            return self.end
        at = self.table.index(prefix[-1]) + 1 if value % 6 and prefix[-1] in self.table else value // 100
        return self.table[at % len(self.table)]


def writing(role: Author, seed: int) -> Writing:
    """A toy over the tokenizer of a role."""
    tokenizer, end = (byte_level(), END) if role == "slm" else (sentencepiece(continues=True), CLOSE)
    table = tokenizer.encode("".join(PIECES), add_special_tokens=False).ids
    return Writing(seed, table=tuple(table), end=tokenizer.token_to_id(end))


class UnrelatedPair(Pair):
    """A byte-level SLM beside a SentencePiece LLM, and both as the reference in text sees them."""

    @functools.cached_property
    def text_models(self) -> dict[Author, TextModel]:
        sizes = (byte_level().get_vocab_size(), sentencepiece().get_vocab_size())
        return naive_models(*(UncachedModel(self.model(role), size) for role, size in zip(ROLES, sizes, strict=True)))

    def in_text(self, prompts: dict[Author, list[int]], rule: Rule, max_new_tokens: int, **options: Any) -> TextAnswer:
        """Algorithm 1 through text, naively."""
        start = len(prompts["llm"])
        return stitch_text(self.text_models, prompts, rule, max_new_tokens=max_new_tokens, start=start, **options)
