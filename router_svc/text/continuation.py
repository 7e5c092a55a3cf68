"""Tokenizers for text that goes on with other text: what one does at the beginning of a text is left out.

Many put a space before a text, as words begin with one; in the middle of a text that space is wrong. A tokenizer says
so in its normalizer and its pre-tokenizer, which are made anew without it. The vocabulary is the same object: a second
tokenizer costs no memory to speak of. It knows no templates and no sessions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, models
from tokenizers import Tokenizer as HfTokenizer

# They write characters in another way that means the same, such as one composed character for a letter and its accent.
_REWRITING = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled"})


def continuing(tokenizer: Any, *, as_is: bool, size: int | None = None) -> Any:
    """The tokenizer for text that goes on with other text; itself if it does nothing else at a text's beginning.

    It puts no space first, neither before the text nor behind a special token in it, and adds no special tokens.

    Args:
        tokenizer: of the library `tokenizers`, as are what it is made of and what is returned.
        as_is: nothing of the text is lost: blanks at its ends and around special tokens stay, and characters stay as
            they are written if the vocabulary can spell them all.
        size: added tokens with ids from here on are left out, so that what spells one is text like any other.
    """
    before = parts_of(tokenizer)
    dropped = {"Prepend"}
    if as_is:
        dropped |= {"Strip"} | (_REWRITING if _spells_all(tokenizer, before) else set())
    parts = {
        **before,
        "normalizer": _without(before["normalizer"], dropped),
        "pre_tokenizer": _unprefixed(before["pre_tokenizer"]),
    }
    known = tokenizer.get_added_tokens_decoder()
    added = {token: entry for token, entry in known.items() if size is None or token < size}
    strips = as_is and any(token.lstrip or token.rstrip for token in added.values())
    if parts == before and not strips and len(added) == len(known):
        return tokenizer
    made: Any = HfTokenizer.from_str(json.dumps(parts))
    made.model = tokenizer.model  # shared, not copied
    # In the order of their ids, as the library read them from the file: so each gets the id that it had.
    for _, token in sorted(added.items()):
        own = AddedToken(
            token.content,
            single_word=token.single_word,
            lstrip=token.lstrip and not as_is,
            rstrip=token.rstrip and not as_is,
            normalized=token.normalized,
            special=token.special,
        )
        if token.special:
            made.add_special_tokens([own])
        else:
            made.add_tokens([own])
    return made


def parts_of(tokenizer: Any) -> dict[str, Any]:
    """What makes pieces out of a text, as tokenizer.json has it; with an empty vocabulary, as the real one is big."""
    light: Any = HfTokenizer(models.BPE())
    if tokenizer.normalizer is not None:
        light.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        light.pre_tokenizer = tokenizer.pre_tokenizer
    parts: dict[str, Any] = json.loads(light.to_str())
    return parts


def _without(normalizer: Any, dropped: set[str]) -> Any:
    if normalizer is None or normalizer["type"] in dropped:
        return None
    if normalizer["type"] != "Sequence":
        return normalizer
    kept = [_without(inner, dropped) for inner in normalizer["normalizers"]]
    return {**normalizer, "normalizers": [inner for inner in kept if inner is not None]}


def _unprefixed(pre_tokenizer: Any) -> Any:
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": inner}:
            return {**pre_tokenizer, "pretokenizers": [_unprefixed(one) for one in inner]}
        case {"type": "Metaspace"}:
            return {**pre_tokenizer, "prepend_scheme": "never"}
        case {"type": "ByteLevel"}:
            return {**pre_tokenizer, "add_prefix_space": False}
    return pre_tokenizer


def _spells_all(tokenizer: Any, parts: Mapping[str, Any]) -> bool:
    """Whether each byte has a token, so that any text can be written without a word for it."""
    if tokenizer.token_to_id("<0x00>") is not None and tokenizer.token_to_id("<0xFF>") is not None:
        return True
    return '"ByteLevel"' in json.dumps([parts["normalizer"], parts["pre_tokenizer"]])
