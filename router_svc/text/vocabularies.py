"""The two vocabularies of a pair: each model's tokenizer, and the way from one model's ids to the other's.

Ids of the answer are the LLM's. It knows no workers.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import grpc

from router_svc.text.matching import NO_TOKEN, Kind, Matching, Vocabulary, match
from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.types import Model, tokens_of
from rstitch.errors import RstitchError, invalid


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """Both vocabularies and how they were matched; `of` makes it.

    Attributes:
        stop_tokens: by author, the ids of an answer that end it: what ends it for either model.
    """

    sides: Mapping[Model, Vocabulary]
    matching: Matching
    stop_tokens: Mapping[Model, frozenset[int]]

    @classmethod
    def of(cls, slm: Vocabulary, llm: Vocabulary) -> Vocabularies:
        """Matches two vocabularies; takes its time where they are large. Raises RstitchError if they cannot be."""
        sides, matching = {Model.SLM: slm, Model.LLM: llm}, match(slm, llm)
        if matching.kind is Kind.UNRELATED:
            ends = {model: side.stop_tokens | _spelled_alike(sides[model.other], side) for model, side in sides.items()}
            return cls(sides, matching, ends)
        of_slm: Iterable[int] = slm.stop_tokens
        if matching.kind is Kind.RENUMBERED:
            of_slm = {matching.to_llm[token] for token in slm.stop_tokens if token < len(matching.to_llm)}
        both = llm.stop_tokens | frozenset(of_slm)
        return cls(sides, matching, {model: _written_by(sides, matching, model, both) for model in Model})

    @property
    def key(self) -> str:
        """Names what ids a session is kept in: those that begin under one key cannot be gone on with under another."""
        slm, llm = (self.sides[model].fingerprint[:16] for model in Model)
        of_slm = "" if self.matching.kind is Kind.SAME else f":{slm}"
        return f"{self.matching.kind}:{llm}{of_slm}"

    @property
    def is_mapped(self) -> bool:
        """Whether the SLM's ids are not the LLM's."""
        return self.matching.kind is Kind.RENUMBERED

    @property
    def is_through_text(self) -> bool:
        """Whether the models have no ids in common."""
        return self.matching.kind is Kind.UNRELATED

    def tokenizer(self, model: Model) -> Tokenizer:
        """The model's own tokenizer; one object for both where they do not differ in anything."""
        return self.sides[model].tokenizer

    @property
    def answer_tokenizers(self) -> Mapping[Model, Tokenizer]:
        """What reads an answer's tokens, by their writer: one object for both where the answer is in ids of the LLM."""
        if self.is_through_text:
            return {model: side.tokenizer for model, side in self.sides.items()}
        return dict.fromkeys(Model, self.sides[Model.LLM].tokenizer)

    def to_slm(self, tokens: Iterable[int]) -> array[int]:
        """The SLM's ids for the LLM's; those without a counterpart are left out."""
        if not self.is_mapped:
            return tokens if isinstance(tokens, array) else tokens_of(tokens)
        to_slm, num = self.matching.to_slm, len(self.matching.to_slm)
        return tokens_of(own for token in tokens if token < num and (own := to_slm[token]) != NO_TOKEN)

    def ends_of_slm(self, ends: Iterable[int]) -> frozenset[int]:
        """The SLM's ids that are one of these of the LLM's: of its stop tokens, more than one may be the same."""
        ends, own = frozenset(ends), self.sides[Model.SLM]
        alike = {token for token in own.stop_tokens if token < own.size and self.to_llm([token])[0] in ends}
        return frozenset(self.to_slm(ends)) | alike

    def to_llm(self, tokens: Iterable[int]) -> list[int]:
        """The LLM's ids for the SLM's. Raises RstitchError (PROTOCOL) for one that the SLM was not to write."""
        if not self.is_mapped:
            return tokens if isinstance(tokens, list) else list(tokens)
        to_llm, num = self.matching.to_llm, len(self.matching.to_llm)
        made = []
        for token in tokens:
            if token >= num or to_llm[token] == NO_TOKEN:
                what = f"the SLM's worker wrote token {token}, which the LLM does not have and which was masked."
                remedy = "Run workers and router of one version."
                raise RstitchError(grpc.StatusCode.INTERNAL, "PROTOCOL", what, remedy=remedy)
            made.append(to_llm[token])
        return made

    def check_ids(self, field: str, tokens: Iterable[int], model: Model = Model.LLM) -> None:
        """Raises RstitchError, naming the place in `field`, for what is no id of the model."""
        size = self.sides[model].size
        for index, token in enumerate(tokens):
            if token >= size:
                raise invalid(
                    f"{field}[{index}]",
                    f"token id {token} is outside the vocabulary of {size}.",
                    f"Send ids below {size}, made with the {model.name}'s tokenizer.",
                )

    def check_prompt(self, field: str, tokens: Iterable[int]) -> None:
        """Raises RstitchError, naming the place in `field`, for an id of the LLM that either model does not have."""
        tokens = list(tokens)
        self.check_ids(field, tokens)
        found = self.first_unshared(tokens)
        if found is not None:
            raise invalid(f"{field}[{found}]", self.told_unshared(tokens[found]), "Leave it out, or send text or chat.")

    def first_unshared(self, tokens: Sequence[int]) -> int | None:
        """The index of the first of the LLM's tokens that the SLM does not have; None if there is none, or no ids."""
        if self.is_through_text:
            return None
        masked, size = frozenset(self.matching.masked[Model.LLM]), self.sides[Model.LLM].size
        if not self.is_mapped:
            size = min(size, self.sides[Model.SLM].size)
        if not masked and max(tokens, default=0) < size:
            return None
        return next((index for index, token in enumerate(tokens) if token >= size or token in masked), None)

    def told_unshared(self, token: int) -> str:
        """Says that the SLM does not have a token of the LLM."""
        return f"token id {token} ({self.tokenizer(Model.LLM).spelling(token)}) of the LLM is none of the SLM's."

    def ends(self, stop_token_ids: Iterable[int]) -> Mapping[Model, frozenset[int]]:
        """By author, the ids of an answer that end it, with further ones that were asked for, ids of the LLM."""
        asked = frozenset(stop_token_ids)
        if not asked:
            return self.stop_tokens
        own = {model: _written_by(self.sides, self.matching, model, asked) for model in Model}
        if self.is_through_text:
            slm, llm = self.sides[Model.SLM], self.sides[Model.LLM]
            own[Model.SLM] = _spelled_alike(Vocabulary(llm.tokenizer, llm.size, asked), slm)
        return {model: ends | own[model] for model, ends in self.stop_tokens.items()}


def _written_by(
    sides: Mapping[Model, Vocabulary], matching: Matching, author: Model, ends: frozenset[int]
) -> frozenset[int]:
    """Those of an answer's ids that the author has a row for: a worker refuses to look out for others."""
    size = sides[Model.LLM if matching.kind is Kind.RENUMBERED else author].size
    return frozenset(token for token in ends if token < size)


def _spelled_alike(other: Vocabulary, side: Vocabulary) -> frozenset[int]:
    """The tokens of `side` that are spelled as the stop tokens of `other`."""
    spellings = [other.tokenizer.spelling(token) for token in other.stop_tokens]
    found = [side.tokenizer.token(spelling) for spelling in spellings if spelling is not None]
    return frozenset(token for token in found if token is not None and token < side.size)
