"""Vocabularies for tests of how two of them are matched, and what must hold of any match."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from router_svc.text.matching import MAX_MASKED, NO_TOKEN, Kind, Matching, Vocabulary, match
from router_svc.text.tokenizer import Tokenizer, TokenizerFiles
from router_svc.trajectory.types import Model
from tests.support.known_tokenizers import Known


@functools.cache
def vocabulary(of: Known) -> Vocabulary:
    return Vocabulary(Tokenizer(of.files()), of.size, of.stop_tokens)


def matched(slm: Known, llm: Known) -> Matching:
    return match(vocabulary(slm), vocabulary(llm))


def spellings(side: Vocabulary) -> list[str | None]:
    return [side.tokenizer.spelling(token) for token in range(side.size)]


def made(raw: HfTokenizer, stops: Sequence[str] = (), eos: str = "") -> Vocabulary:
    """A model with a row for each id; `eos` is the end that its tokenizer names."""
    tokenizer = Tokenizer(TokenizerFiles(raw.to_str().encode(), special_tokens={"eos_token": eos} if eos else {}))
    top = max(raw.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    return Vocabulary(tokenizer, top, frozenset(map(raw.token_to_id, stops)))


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("t", "h"), ("th", "e"), ("a", "n"), ("an", "d")]
PIECES = [*ALPHABET, "th", "the", "an", "and"]


def byte_level(
    order: Sequence[str] = PIECES, special: Sequence[str] = ("<end>",), merges: Sequence[tuple[str, str]] = MERGES
) -> HfTokenizer:
    """Entries in a given order, and special tokens: behind them, or in their place if they are among them."""
    raw = HfTokenizer(models.BPE({entry: token for token, entry in enumerate(order)}, list(merges)))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return raw


def check_laws(matching: Matching, slm: Vocabulary, llm: Vocabulary) -> None:
    sides = {Model.SLM: slm, Model.LLM: llm}
    names = {model: spellings(side) for model, side in sides.items()}
    maps = {Model.SLM: matching.to_llm, Model.LLM: matching.to_slm}
    for model, side in sides.items():
        other, masked = model.other, matching.masked[model]
        to_other, back = maps[model], maps[model.other]
        assert list(masked) == sorted(set(masked))
        assert len(masked) <= MAX_MASKED
        assert side.stop_tokens.isdisjoint(masked)
        assert all(token < side.size for token in masked)
        if matching.kind is Kind.SAME:
            unmasked = [token for token in range(side.size) if token not in set(masked) and names[model][token]]
            assert all(token < sides[other].size for token in unmasked)
            assert [names[model][token] for token in unmasked] == [names[other][token] for token in unmasked]
            continue
        assert len(to_other) == side.size
        for token, counterpart in enumerate(to_other):
            if counterpart == NO_TOKEN:
                assert token in masked
                continue
            assert token not in masked
            assert counterpart < sides[other].size
            if names[model][token] == names[other][counterpart]:
                assert back[counterpart] == token
            else:
                assert token in side.stop_tokens
                assert counterpart in sides[other].stop_tokens
