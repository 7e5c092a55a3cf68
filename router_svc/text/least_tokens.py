"""How few tokens a text can have at the least, found without making them: what cannot fit is not tokenized.

No token spells more than the longest one does, and of each byte no token has more than the one that has most. So a
text of n letters `e` has at least n / m tokens if no token has more than m of them. That takes milliseconds for a text
whose tokens take seconds and gigabytes. It holds for tokenizers that spell every byte of a text; of others nothing is
said.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
from tokenizers import models, pre_tokenizers

from router_svc.text.continuation import parts_of

# Characters that are counted in one go: the interpreter is free for others in between.
_AT_ONCE = 1 << 16
# So many characters at its ends may be composed with those of the stretch beside it.
_EDGE = 8
_MARK = "▁"  # SentencePiece's for a space
_Form: TypeAlias = Literal["NFC", "NFD", "NFKC", "NFKD"]
_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_KEEPING = ("ByteLevel", "Metaspace", "Digits", "Split", "Punctuation")


class LeastTokens:
    """Says of texts how many tokens they have at least. It goes through the vocabulary when it is first asked.

    Args:
        tokenizer: of the library `tokenizers`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def beyond(self, text: str, most: int) -> bool:
        """Whether the text certainly has more tokens than `most`; False says nothing."""
        # A character is one token, or it has more than one.
        if len(text) <= most or (bounds := self._bounds) is None:
            return False
        longest, per_byte, forms, counted = bounds
        seen = np.zeros(256, np.int64)
        for at in range(0, len(text), _AT_ONCE):
            piece = text[at : at + _AT_ONCE]
            if forms and not piece.isascii():
                if not all(unicodedata.is_normalized(form, piece) for form in forms):
                    continue
                piece = piece[_EDGE:-_EDGE]
            seen += np.bincount(np.frombuffer(piece.encode(errors="replace"), np.uint8), minlength=256) * counted
            if seen.sum() > most * longest or (seen > most * per_byte).any():
                return True
        return False

    @functools.cached_property
    def _bounds(self) -> tuple[int, Any, list[_Form], Any] | None:
        """The most bytes of a token, the most of each byte, what texts are rewritten by, which bytes tell something."""
        forms = _rewriting(self._tokenizer)
        if forms is None:
            return None
        added = self._tokenizer.get_added_tokens_decoder().values()
        spelled = [*self._spellings(), *(token.content.encode() for token in added)]
        counted = np.ones(256, np.int64)
        if any(token.lstrip or token.rstrip for token in added):  # any amount of white space goes with them
            counted[list(b"\t\n\v\f\r\x1c\x1d\x1e\x1f ")] = 0
            counted[128:] = 0
        return max(map(len, spelled)), _most_of_each(spelled), forms, counted

    def _spellings(self) -> Iterable[bytes]:
        """What each entry may spell; where a mark stands for a space, either of them."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        if _is_byte_level(self._tokenizer):
            of_byte = _bytes_by_character()
            for entry in vocabulary:
                yield bytes(of_byte.get(character, 0) for character in entry)
            return
        for entry in vocabulary:
            yield entry.encode()
            yield entry.replace(_MARK, " ").encode()


def _most_of_each(spelled: list[bytes]) -> Any:
    """By byte, in how many places of one text it is at most; at least in one."""
    flat = np.frombuffer(b"".join(spelled), np.uint8).astype(np.int64)
    owners = np.repeat(np.arange(len(spelled)), [len(text) for text in spelled])
    keys, counts = np.unique(owners * 256 + flat, return_counts=True)
    most = np.ones(256, np.int64)
    np.maximum.at(most, keys % 256, counts)
    return most


def _rewriting(tokenizer: Any) -> list[_Form] | None:
    """The normal forms that texts are brought into; None where more is lost of a text than that."""
    model = tokenizer.model
    if not isinstance(model, models.BPE):
        return None
    parts = parts_of(tokenizer)
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    if _is_byte_level(tokenizer):
        spells_all = vocabulary.keys() >= set(pre_tokenizers.ByteLevel.alphabet())
    else:
        spells_all = model.byte_fallback and vocabulary.keys() >= {f"<0x{byte:02X}>" for byte in range(256)}
    if not spells_all or not all(map(_keeps, _flat(parts["pre_tokenizer"], "pretokenizers"))):
        return None
    forms: list[_Form] = []
    for step in _flat(parts["normalizer"], "normalizers"):
        is_mark = step["type"] == "Replace" and (step["pattern"], step["content"]) == ({"String": " "}, _MARK)
        if step["type"] in _FORMS:
            forms.append(step["type"])
        elif step["type"] != "Prepend" and not is_mark:
            return None
    return forms


def _keeps(pre_tokenizer: Any) -> bool:
    """Whether it drops nothing of a text."""
    return pre_tokenizer["type"] in _KEEPING and pre_tokenizer.get("behavior") != "Removed"


def _flat(part: Any, name: str) -> list[Any]:
    if part is None:
        return []
    return [one for inner in part[name] for one in _flat(inner, name)] if part["type"] == "Sequence" else [part]


def _is_byte_level(tokenizer: Any) -> bool:
    return '"ByteLevel"' in json.dumps(parts_of(tokenizer)["pre_tokenizer"])


def _bytes_by_character() -> dict[str, int]:
    """The byte that each character of a byte-level entry stands for, as GPT-2 has it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}
