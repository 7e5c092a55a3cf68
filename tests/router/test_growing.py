"""A text that grows has the tokens that it has in one piece."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from router_svc.text.growing import GrowingText
from router_svc.text.tokenizer import Tokenizer as Ours
from router_svc.text.tokenizer import TokenizerFiles
from tests.support.unrelated import PIECES, byte_level, sentencepiece

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROSE = (
    "the stones",
    " lie there",
    " on",
    " it's",
    " a",
    " the  end",
    "they'll",
    " x1 y",
    ".\n\nSo",
    " Then",
    " <s> b",
)


def ours(tokenizer: Tokenizer) -> Ours:
    return Ours(TokenizerFiles(tokenizer.to_str().encode()))


def by_words(pattern: str) -> Tokenizer:
    """A byte-level BPE that cuts texts by a pattern."""
    made = byte_level()
    made.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return made


CUT = {
    "GPT-2": byte_level,
    "Llama 3": lambda: by_words(LLAMA_3),
    "Qwen": lambda: by_words(LLAMA_3.replace("{1,3}", "")),
    "SentencePiece": sentencepiece,
    "Llama 2": lambda: sentencepiece(legacy=True),
}


def across() -> Tokenizer:
    """One of whose entries reaches from a word into the next."""
    made = sentencepiece()
    text = made.to_str().replace('"merges":[', '"merges":[["e","▁"],', 1).replace('"vocab":{', '"vocab":{"e▁":999,', 1)
    return Tokenizer.from_str(text)


def named(tokenizer: Tokenizer, token: str) -> Tokenizer:
    tokenizer.add_tokens([token])
    return tokenizer


WHOLE = {
    "a look behind": lambda: by_words(r"(?<=e) t|\s?\S+|\s+"),
    "an entry across": across,
    "an added token across": lambda: named(byte_level(), "e t"),
    "one across by marks": lambda: named(sentencepiece(), "e▁t"),
}


@pytest.mark.parametrize("kind", [*CUT, *WHOLE])
def test_a_text_that_grows_has_the_tokens_of_the_whole(kind: str) -> None:
    tokenizer = ours({**CUT, **WHOLE}[kind]())
    assert tokenizer.splits_at_spaces is (kind in CUT)
    rng = random.Random(3)
    for _ in range(40):
        growing, text = GrowingText(tokenizer), ""
        for _ in range(12):
            text += "".join(rng.choices((*PROSE, *PROSE, *PIECES), k=rng.randrange(1, 6)))
            if rng.random() < 0.2:
                text = text[: rng.randrange(len(text))] + rng.choice(PROSE)  # it need not go on from the one before
            assert growing.encode(text) == tokenizer.encode(text, begins=False)


def test_only_what_is_new_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ours(byte_level())
    encoded: list[str] = []
    encode = tokenizer.encode

    def recorded(text: str, **options: Any) -> Any:
        encoded.append(text)
        return encode(text, **options)

    monkeypatch.setattr(tokenizer, "encode", recorded)
    growing = GrowingText(tokenizer)
    growing.encode("the stones lie there")
    del encoded[:]
    growing.encode("the stones lie there on the moon")
    assert "".join(encoded) == " there on the moon"
