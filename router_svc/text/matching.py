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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest

import grpc

from router_svc.text.entries import Entries, difference, entries_of
from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.types import Model, tokens_of
from rstitch.errors import RstitchError

# In a map of ids: the other model has no such token.
NO_TOKEN = 0xFFFFFFFF
# The most tokens that a run may mask, by the contract.
MAX_MASKED = 8192
# Masked tokens that are named one by one.
_MAX_NAMED = 12


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
    fingerprint: str = ""  # of each id with its token, as the worker names it


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
    pair = _Pair({Model.SLM: slm, Model.LLM: llm}, *entries_of(slm.tokenizer, llm.tokenizer))
    for model in Model:
        if not any(pair.names[model]):
            remedy = f"Give the {model.name} worker a model folder with its tokenizer's files."
            raise _mismatch(f"the {model.name}'s tokenizer has no tokens.", remedy)
    same = _same(pair)
    if same is not None:
        return same
    why = difference(pair.ours, pair.theirs)
    return _renumbered(pair) if why is None else _unrelated(pair, why)


class _Pair:
    """Both vocabularies and what is in them."""

    def __init__(self, sides: Mapping[Model, Vocabulary], ours: Entries, theirs: Entries) -> None:
        self.sides, self.ours, self.theirs = sides, ours, theirs
        self.entries = {Model.SLM: ours, Model.LLM: theirs}
        self.names = {model: self.entries[model].by_id(side.size) for model, side in sides.items()}

    def named(self, model: Model, token: int) -> str:
        return f"{token} {self.names[model][token] or '(nothing)'}"

    def told(self, parts: Sequence[str], masked: Mapping[Model, Sequence[int]]) -> str:
        """What was matched and, of each model, the ids that are masked: at most a dozen by name."""
        lists = []
        for model, tokens in masked.items():
            if tokens:
                named = ", ".join(self.named(model, token) for token in tokens[:_MAX_NAMED])
                more = len(tokens) - _MAX_NAMED
                lists.append(f"{model.name} {named}" + (f" and {more:,} more" if more > 0 else ""))
        return "; ".join([*parts, *(["masked: " + "; ".join(lists)] if lists else [])])


def _same(pair: _Pair) -> Matching | None:
    """None unless equal ids are equal tokens, but for few that only one of the models has."""
    num_both = 0
    alone: dict[Model, list[int]] = {Model.SLM: [], Model.LLM: []}
    for token, (own, other) in enumerate(zip_longest(*pair.names.values())):
        if own == other:
            num_both += own is not None
        elif own is not None and other is not None:
            return None
        else:
            alone[Model.LLM if own is None else Model.SLM].append(token)
    # A stop token is never masked: it is mapped to one of the other's.
    if not num_both or any(
        len(tokens) > MAX_MASKED or not pair.sides[model].stop_tokens.isdisjoint(tokens)
        for model, tokens in alone.items()
    ):
        return None
    masked = {model: tuple(tokens) for model, tokens in alone.items()}
    told = pair.told([f"one vocabulary of {num_both:,} tokens"], masked)
    return Matching(Kind.SAME, masked, tokens_of(), tokens_of(), told)


def _renumbered(pair: _Pair) -> Matching:
    slm, llm = pair.sides[Model.SLM], pair.sides[Model.LLM]
    to_llm, to_slm = (array("I", [NO_TOKEN]) * side.size for side in (slm, llm))
    nums = [0, 0]
    for index, (own, others) in enumerate(((pair.ours.text, pair.theirs.text), (pair.ours.added, pair.theirs.added))):
        for spelled, token in own.items():
            other = others.get(spelled, NO_TOKEN)
            if token < slm.size and other < llm.size:
                to_llm[token], to_slm[other] = other, token
                nums[index] += 1
    stops = [*_map_stops(pair, Model.SLM, Model.LLM, to_llm), *_map_stops(pair, Model.LLM, Model.SLM, to_slm)]
    masked = {
        model: tuple(token for token, other in enumerate(to_other) if other == NO_TOKEN)
        for model, to_other in ((Model.SLM, to_llm), (Model.LLM, to_slm))
    }
    if max(map(len, masked.values())) > MAX_MASKED:
        return _unrelated(pair, f"more than {MAX_MASKED:,} tokens of one model are none of the other's")
    parts = [f"{nums[0]:,} text tokens and {nums[1]:,} special ones under the same spelling", *stops]
    return Matching(Kind.RENUMBERED, masked, to_llm, to_slm, pair.told(parts, masked))


def _map_stops(pair: _Pair, model: Model, other: Model, to_other: array[int]) -> list[str]:
    """Maps stop tokens of the model that the other has not, by spelling, to a stop token of the other, and says so.

    That is the end that the other's tokenizer names, or else the stop token with the lowest id.
    """
    ends = {token for token in pair.sides[other].stop_tokens if token < pair.sides[other].size}
    eos = pair.sides[other].tokenizer.eos_token()
    said = []
    for token in sorted(pair.sides[model].stop_tokens):
        if token >= len(to_other) or to_other[token] != NO_TOKEN:
            continue
        if not ends:
            raise _mismatch(
                f"the {model.name} ends an answer with {pair.named(model, token)}, and the {other.name} has no stop "
                "token.",
                f"Name one as eos_token_id in the generation_config.json of the {other.name}.",
            )
        to_other[token] = first = eos if eos is not None and eos in ends else min(ends)
        said.append(f"{model.name} {pair.named(model, token)} ends as {other.name} {pair.named(other, first)}")
    return said


def _unrelated(pair: _Pair, why: str) -> Matching:
    for model, side in pair.sides.items():
        lost = side.tokenizer.below(side.size).round_trips()
        if lost is not None:
            raise _mismatch(
                f"{why}, which leaves text to hand over, and the {model.name}'s tokenizer does not give {lost!r} back.",
                "Serve two models of one family, or two whose tokenizers keep every text (most byte-level ones do).",
            )
        beyond = _beyond(side, pair.entries[model])
        if beyond is not None:
            raise _mismatch(
                f"{why}, which leaves text to hand over, and the {model.name}'s tokenizer makes a token of {beyond!r} "
                f"that is none of the model's {side.size:,}.",
                f"Give the {model.name} worker the tokenizer that the model was made with.",
            )
    return Matching(Kind.UNRELATED, dict.fromkeys(Model, ()), tokens_of(), tokens_of(), f"through text: {why}")


def _beyond(side: Vocabulary, entries: Entries) -> str | None:
    """What the tokenizer makes an id of, in text that goes on, that the model has no row for; None: nothing.

    Added tokens beyond the rows are text like any other, unless the vocabulary itself makes them.
    """
    lacking = [spelled for spelled, token in entries.text.items() if token >= side.size]
    if lacking:
        return min(lacking)
    encode = side.tokenizer.below(side.size).encode
    added = [spelled for spelled, token in entries.added.items() if token >= side.size]
    return next((spelled for spelled in added if max(encode(spelled, begins=False), default=0) >= side.size), None)


def _mismatch(what: str, remedy: str) -> RstitchError:
    what = f"the two models cannot be stitched: {what}"
    return RstitchError(grpc.StatusCode.UNAVAILABLE, "TOKENIZER_MISMATCH", what, remedy=remedy)
