"""How the vocabularies of the two models belong together: which id of one is which of the other.

Three kinds of pairs can be stitched:

    SAME        the same ids mean the same tokens
    RENUMBERED  the same text entries and merges under other ids, or other special tokens: ids are mapped by spelling
    UNRELATED   nothing in common: models hand over through text

Ids that the other model has no counterpart for are masked, so that neither model writes what the other cannot read. It
knows no workers.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import grpc

from router_svc.text.tokenizer import Tokenizer, first_difference
from router_svc.trajectory.types import Model, tokens_of
from rstitch.errors import RstitchError

# In a map of ids: the other model has no such token.
NO_TOKEN = 0xFFFFFFFF


class Kind(StrEnum):
    """What two vocabularies have in common."""

    SAME = "same"
    RENUMBERED = "renumbered"
    UNRELATED = "unrelated"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What one model reads and writes."""

    tokenizer: Tokenizer
    size: int  # ids below it have a row in the model
    stop_tokens: frozenset[int]


@dataclass(frozen=True, slots=True)
class Matching:
    """How two vocabularies were matched.

    Attributes:
        masked: for each model, the sorted ids of its own that it may not write.
        to_llm: by id of the SLM, that of the LLM or NO_TOKEN; empty unless RENUMBERED.
        to_slm: by id of the LLM, that of the SLM or NO_TOKEN; empty unless RENUMBERED.
        told: how they were matched and which ids are masked, in one line.
    """

    kind: Kind
    masked: Mapping[Model, tuple[int, ...]]
    to_llm: array[int]
    to_slm: array[int]
    told: str


def match(slm: Vocabulary, llm: Vocabulary) -> Matching:
    """Matches two vocabularies. Raises RstitchError (TOKENIZER_MISMATCH) where the models cannot be stitched."""
    where = first_difference(slm.tokenizer, llm.tokenizer)
    if where is None:
        return Matching(Kind.SAME, dict.fromkeys(Model, ()), tokens_of(), tokens_of(), "one vocabulary")
    to_llm, to_slm = _by_spelling(slm, llm), _by_spelling(llm, slm)
    for here, there, ids in ((slm, llm, to_llm), (llm, slm, to_slm)):
        for token in here.stop_tokens:
            if ids[token] == NO_TOKEN:
                ids[token] = min(there.stop_tokens)
    masked = {
        Model.SLM: tuple(token for token, other in enumerate(to_llm) if other == NO_TOKEN),
        Model.LLM: tuple(token for token, other in enumerate(to_slm) if other == NO_TOKEN),
    }
    if len(masked[Model.LLM]) * 2 < llm.size:
        told = f"ids by spelling; masked: SLM {masked[Model.SLM]}, LLM {masked[Model.LLM]}"
        return Matching(Kind.RENUMBERED, masked, to_llm, to_slm, told)
    what = f"the two models do not share one tokenizer: {where}."
    remedy = "Serve two models of one family; then the router becomes ready by itself."
    raise RstitchError(grpc.StatusCode.UNAVAILABLE, "TOKENIZER_MISMATCH", what, remedy=remedy)


def _by_spelling(here: Vocabulary, there: Vocabulary) -> array[int]:
    made = tokens_of()
    for token in range(here.size):
        spelling = here.tokenizer.spelling(token)
        found = there.tokenizer.token(spelling) if spelling is not None else None
        made.append(found if found is not None and found < there.size else NO_TOKEN)
    return made
