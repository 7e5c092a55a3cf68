"""Where a growing text can be cut so that the tokens of its parts are those of the whole.

Between two words, before the space, nothing that most tokenizers do reaches across. For which that holds is decided by
what they are made of. It knows no texts.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from tokenizers import models

from router_svc.text.continuation import parts_of

LETTERS = frozenset(string.ascii_letters)
_MARK = "▁"  # SentencePiece's for a space
# Patterns by which byte-level tokenizers cut texts into words, and which cut before each space between two letters,
# without a look at what is before it: those of Llama 3 and GPT-4, and of Qwen. GPT-2's is built in.
_WORDS = frozenset(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}{1,3}", r"\p{N}")
)
# They look at a character and the marks behind it.
_LOCAL = frozenset({"NFC", "NFD", "NFKC", "NFKD"})


def splits_at_spaces(tokenizer: Any) -> bool:
    """Whether a tokenizer's tokens of a text are those of its parts, cut before a space between two ASCII letters.

    Args:
        tokenizer: of the library `tokenizers`, for text that continues other text.
    """
    model = tokenizer.model
    if not isinstance(model, models.BPE) or model.dropout:
        return False
    added = tokenizer.get_added_tokens_decoder().values()
    if any(" " in token.content or _MARK in token.content or token.lstrip or token.rstrip for token in added):
        return False
    parts = parts_of(tokenizer)
    if _is_local(parts["normalizer"]) and _cuts_words(parts["pre_tokenizer"]):
        return True
    # Merges are all that could reach across, if there are no words; and nothing is unknown that could be joined.
    marked = _is_marking(parts["normalizer"], parts["pre_tokenizer"]) and not model.ignore_merges
    vocabulary = tokenizer.get_vocab(with_added_tokens=False) if marked else {}
    return marked and vocabulary.keys() >= {_MARK, *LETTERS} and not any(map(_reaches_across, vocabulary))


def _cuts_words(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return True
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern in _WORDS
    return False


def _is_local(normalizer: Mapping[str, Any] | None) -> bool:
    return normalizer is None or normalizer["type"] in _LOCAL


def _is_marking(normalizer: Mapping[str, Any] | None, pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """Whether spaces become marks and nothing else happens to a text before its merges."""
    match normalizer, pre_tokenizer:
        case None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}:
            return True
        case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, None:
            return True
        case {"type": "Sequence", "normalizers": [inner]}, None:
            return _is_marking(inner, None)
    return False


def _reaches_across(entry: str) -> bool:
    """Whether an entry has a mark behind a letter."""
    return any(entry[index - 1] in LETTERS for index in range(1, len(entry)) if entry[index] == _MARK)
