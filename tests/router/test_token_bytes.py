"""The bytes of single tokens: put together they are the text, whatever kind of tokenizer it is."""

from __future__ import annotations

from typing import Any

import pytest

from router_svc.text.detokenizer import Detokenizer
from tests.support.kinds_of_tokenizers import SPECIAL, byte_level, llama_2, metaspace, served, unigram, wordpiece

KINDS: dict[str, Any] = {
    "byte level": byte_level,
    "llama 2": llama_2,
    "metaspace first": lambda: metaspace("first"),
    "metaspace always": lambda: metaspace("always"),
    "metaspace never": lambda: metaspace("never"),
    "unigram": unigram,
    "wordpiece": wordpiece,
}
TEXTS = ["more and more", " the  end", "a\nb: (12 + 3) = 15", "<think>so</think>", "x"]
BEYOND = ["na\u00efve", "\U0001f600!", "\u4f60\u597d"]  # in no vocabulary, but for its bytes


@pytest.mark.parametrize("kind", KINDS)
def test_together_they_are_the_text(kind: str) -> None:
    tokenizer = served(KINDS[kind]())
    spells_bytes = kind not in ("unigram", "wordpiece")
    for text in [*TEXTS, *BEYOND] if spells_bytes else TEXTS:
        tokens = tokenizer.encode(text, begins=False)
        detokenizer = Detokenizer(tokenizer, tokenizer.anchor)
        shown = "".join(map(detokenizer.push, tokens)) + detokenizer.flush()
        made = b"".join(tokenizer.bytes_of(token) for token in tokens if token not in tokenizer.special)
        assert made.decode() == shown
        if spells_bytes:
            assert shown == text


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_spelled_and_what_is_no_token_has_none(kind: str) -> None:
    tokenizer = served(KINDS[kind]())
    for spelling in SPECIAL:
        token = tokenizer.token(spelling)
        assert token is not None
        assert tokenizer.bytes_of(token) == spelling.encode()
    assert tokenizer.bytes_of(tokenizer.size()) == b""


def test_a_part_of_a_character_is_its_bytes() -> None:
    for kind in ("byte level", "llama 2", "metaspace never"):
        tokenizer = served(KINDS[kind]())
        tokens = tokenizer.encode("\U0001f600", begins=False)
        pieces = [tokenizer.bytes_of(token) for token in tokens]
        assert len(pieces) > 1
        assert b"".join(pieces) == "\U0001f600".encode()
