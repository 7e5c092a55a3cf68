"""What two vocabularies have, by spelling: the text entries of each, its added tokens, and where they differ.

A text entry and an added token may be spelled alike in two vocabularies and mean different text, so they are kept
apart. It maps no ids.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from router_svc.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Entries:
    """One vocabulary.

    Attributes:
        text: ids by spelling, without those of added tokens.
        added: ids of added tokens by their text, special or not.
    """

    tokenizer: Tokenizer
    text: dict[str, int]
    added: dict[str, int]

    def by_id(self, size: int) -> list[str | None]:
        """Spelling of each id below `size`; None where there is none."""
        top = max(size, *(max(ids.values(), default=-1) + 1 for ids in (self.text, self.added)))
        names: list[str | None] = [None] * top
        for ids in (self.text, self.added):
            for spelled, token in ids.items():
                names[token] = spelled
        return names[:size]


def entries_of(slm: Tokenizer, llm: Tokenizer) -> tuple[Entries, Entries]:
    """Reads both vocabularies; a model's entries that both files have alike are read once."""
    ours = _read(slm)
    return _entries(slm, ours), _entries(llm, ours if _alike("vocab", slm, llm) else _read(llm))


def difference(ours: Entries, theirs: Entries) -> str | None:
    """Says in what the two vocabularies' texts differ; None if equal text entries are made of equal text.

    An entry that the other vocabulary has as an added token is no difference.
    """
    algorithms = [side.tokenizer.algorithm() for side in (ours, theirs)]
    if algorithms[0] != algorithms[1]:
        kinds = " and ".join(f"{name} of {'bytes' if bytes_ else 'characters'}" for name, bytes_, *_ in algorithms)
        return f"the SLM's and the LLM's vocabularies are of different kinds ({kinds})"
    for name, one, other in (("SLM", ours, theirs), ("LLM", theirs, ours)):
        alone = [spelled for spelled in one.text if spelled not in other.text and spelled not in other.added]
        if alone:
            return f"{len(alone):,} text tokens, such as {min(alone)!r}, are the {name}'s alone"
    if ours.text.keys().isdisjoint(theirs.text):
        return "they have no text token in common"
    if not _equal_rules(ours, theirs):
        return "they join the same text tokens in another order"
    return None


def _read(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids by spelling of the model's own entries. To ask the library for them takes several times as long."""
    vocab = _value(tokenizer, "vocab")
    if isinstance(vocab, list):  # Unigram: pieces and scores, in the order of their ids
        return {piece: token for token, (piece, _) in enumerate(vocab)}
    return dict(vocab or {})


def _entries(tokenizer: Tokenizer, entries: dict[str, int]) -> Entries:
    added = tokenizer.added_tokens()
    text = dict(entries)
    for spelled in added:
        text.pop(spelled, None)
    return Entries(tokenizer, text, added)


def _value(tokenizer: Tokenizer, key: str) -> Any:
    """What the model's file has under a key; None if it does not have it."""
    text = tokenizer.model_from(key).decode().lstrip()
    return json.JSONDecoder().raw_decode(text)[0] if text else None


def _alike(key: str, slm: Tokenizer, llm: Tokenizer) -> bool:
    """Whether both files have the same bytes from the model's `key` on."""
    ours = slm.model_from(key)
    return bool(ours) and ours == llm.model_from(key)


def _equal_rules(ours: Entries, theirs: Entries) -> bool:
    """Whether the rules that make tokens of text are the same: merges in their order, or the pieces' scores."""
    slm, llm = ours.tokenizer, theirs.tokenizer
    kind = slm.algorithm()[0]
    if kind == "BPE":
        return _alike("merges", slm, llm) or _merges(slm) == _merges(llm)
    if kind == "Unigram":
        return _alike("vocab", slm, llm) or _scores(ours) == _scores(theirs)
    return True


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    """Files of earlier releases have each merge as one string with a space."""
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in _value(tokenizer, "merges")]


def _scores(side: Entries) -> dict[str, float]:
    return {piece: score for piece, score in _value(side.tokenizer, "vocab") if piece in side.text}
