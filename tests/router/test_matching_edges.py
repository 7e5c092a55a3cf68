"""Matching of vocabularies that were made for it: renumbered ones, rows and ids that lack, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as HfTokenizer

from router_svc.text.matching import MAX_MASKED, Kind, Vocabulary, match
from router_svc.text.session_tokens import SessionTokens
from router_svc.text.tokenizer import Tokenizer, TokenizerFiles
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Chunk, Model, Source, entropies_of, tokens_of
from rstitch.errors import RstitchError
from tests.support import known_tokenizers as known
from tests.support.vocabularies import MERGES, PIECES, byte_level, check_laws, made, vocabulary

SLM, LLM = Model.SLM, Model.LLM


@pytest.mark.parametrize("seed", range(5))
def test_a_permutation_of_all_ids_is_found(seed: int) -> None:
    rng = random.Random(seed)
    special = ["<end>", "<user>", "<think>"]
    order = [*PIECES, *special]
    shuffled = rng.sample(order, len(order))
    one, other = byte_level(order, special), byte_level(shuffled, special)
    ours, theirs = made(one, ["<end>"]), made(other, ["<end>"])
    matching = match(ours, theirs)
    assert matching.kind is Kind.RENUMBERED
    assert not any(matching.masked.values())
    assert list(matching.to_llm) == [shuffled.index(entry) for entry in order]
    assert list(matching.to_slm) == [order.index(entry) for entry in shuffled]
    check_laws(matching, ours, theirs)


def renamed(raw: HfTokenizer, change: Callable[[dict[str, Any]], None]) -> HfTokenizer:
    """The same tokenizer after a change of its file."""
    file = json.loads(raw.to_str())
    change(file)
    return HfTokenizer.from_str(json.dumps(file))


def permuted(model: Any, rng: random.Random) -> tuple[dict[str, int], dict[str, int]]:
    names = list(model)
    return {name: token for token, name in enumerate(names)}, {
        name: token for token, name in enumerate(rng.sample(names, len(names)))
    }


def test_word_levels_and_word_pieces_are_matched_by_spelling() -> None:
    rng = random.Random(3)
    words = ["[UNK]", "a", "b", "##c", "d"]
    for model in (models.WordLevel, models.WordPiece):
        ours, theirs = (made(HfTokenizer(model(vocab, unk_token="[UNK]")), ["d"]) for vocab in permuted(words, rng))
        matching = match(ours, theirs)
        assert matching.kind is Kind.RENUMBERED
        check_laws(matching, ours, theirs)
        assert not any(matching.masked.values())


def unigram(pieces: Sequence[tuple[str, float]]) -> HfTokenizer:
    raw = HfTokenizer(models.Unigram(list(pieces), unk_id=0, byte_fallback=True))
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return raw


def test_unigrams_are_one_vocabulary_where_pieces_and_scores_are() -> None:
    pieces = [
        ("<unk>", 0.0),
        *((f"<0x{byte:02X}>", 0.0) for byte in range(256)),
        ("a", -1.0),
        ("b", -2.0),
        ("ab", -2.5),
    ]
    moved = [pieces[0], *reversed(pieces[1:])]
    ours, theirs = made(unigram(pieces)), made(unigram(moved))
    matching = match(ours, theirs)
    assert matching.kind is Kind.RENUMBERED
    check_laws(matching, ours, theirs)
    other = [*moved[:1], ("ab", -9.5), *moved[2:]]
    assert match(ours, made(unigram(other))).kind is Kind.UNRELATED


def test_a_row_that_one_model_lacks_is_masked_on_the_other() -> None:
    whole = vocabulary(known.QWEN3_32B)
    short = replace(vocabulary(known.QWEN3_SMALL), size=whole.size - 1)
    matching = match(short, whole)
    assert matching.kind is Kind.SAME
    assert matching.masked == {SLM: (), LLM: (whole.size - 1,)}
    check_laws(matching, short, whole)
    assert match(whole, short).masked == {SLM: (whole.size - 1,), LLM: ()}


def test_a_stop_token_without_a_row_on_one_side_is_mapped_and_not_masked() -> None:
    raw = byte_level(special=["<end>", "<stop>"])
    whole = made(raw, ["<end>", "<stop>"], eos="<stop>")
    short = replace(whole, size=whole.size - 1)
    matching = match(short, whole)
    assert matching.kind is Kind.RENUMBERED
    assert not any(matching.masked.values())
    assert matching.to_slm[whole.size - 1] == short.size - 1
    check_laws(matching, replace(short, stop_tokens=frozenset({short.size - 1})), whole)


def test_text_that_spells_like_a_special_token_is_not_one() -> None:
    merges = [*MERGES, ("<", "e"), ("<e", ">")]
    text = [*PIECES, "<e", "<e>"]
    ours = made(byte_level(text, merges=merges), ["<end>"])
    theirs = made(byte_level(["<end>", *text], ["<end>", "<e>"], merges), ["<end>"])
    matching = match(ours, theirs)
    assert matching.kind is Kind.RENUMBERED
    assert matching.masked == {SLM: (text.index("<e>"),), LLM: (text.index("<e>") + 1,)}
    check_laws(matching, ours, theirs)
    # Where only one of them joins it of text, that text is other tokens to the other.
    apart = byte_level(["<end>", *text[:-1]], ["<end>", "<e>"], merges[:-1])
    assert match(ours, made(apart, ["<end>"])).kind is Kind.UNRELATED


def test_stop_tokens_map_to_the_tokenizers_end_or_the_lowest() -> None:
    ours = made(byte_level(special=["<a>"]), ["<a>"])
    raw = byte_level(special=["<x>", "<y>", "<z>"])
    x, y, z = map(raw.token_to_id, ("<x>", "<y>", "<z>"))
    (a,) = ours.stop_tokens
    assert match(ours, made(raw, ["<y>", "<z>"])).to_llm[a] == y
    assert match(ours, made(raw, ["<y>", "<z>"], eos="<z>")).to_llm[a] == z
    matching = match(ours, made(raw, ["<y>", "<z>"], eos="<x>"))
    assert matching.to_llm[a] == y
    assert (matching.to_slm[y], matching.to_slm[z]) == (a, a)
    assert matching.masked == {SLM: (), LLM: (x,)}


def test_ids_with_holes_are_masked_where_nothing_can_be_said_of_them() -> None:
    entries = {entry: token for token, entry in enumerate(PIECES)}
    holed = HfTokenizer(models.BPE(entries | {"<end>": len(PIECES) + 7}, list(MERGES)))
    holed.add_special_tokens([AddedToken("<end>", special=True)])
    holed.decoder = decoders.ByteLevel()
    ours, theirs = made(byte_level(), ["<end>"]), made(holed, ["<end>"])
    matching = match(ours, theirs)
    assert matching.kind is Kind.RENUMBERED
    assert matching.masked == {SLM: (), LLM: tuple(range(len(PIECES), len(PIECES) + 7))}
    assert "(nothing)" in matching.told
    check_laws(matching, ours, theirs)


def test_merges_of_an_earlier_files_form_are_the_same_merges() -> None:
    shifted = byte_level(["<end>", *PIECES])
    file = json.loads(shifted.to_str())
    file["model"]["merges"] = [" ".join(pair) for pair in file["model"]["merges"]]
    theirs = made(shifted, ["<end>"])
    old = Tokenizer(TokenizerFiles(json.dumps(file, indent=2).encode()))
    assert match(made(byte_level(), ["<end>"]), replace(theirs, tokenizer=old)).kind is Kind.RENUMBERED


def lengthened(file: dict[str, Any]) -> None:
    file["model"]["byte_fallback"] = True


@pytest.mark.parametrize(
    ("llm", "why"),
    [
        (byte_level(["<end>", *PIECES], merges=MERGES[::-1]), "join the same text tokens in another order"),
        (byte_level(["<end>", *PIECES, "ed"], merges=[*MERGES, ("e", "d")]), "'ed', are the LLM's alone"),
        (renamed(byte_level(["<end>", *PIECES]), lengthened), "of different kinds"),
    ],
    ids=["merges", "entries", "byte fallback"],
)
def test_what_makes_two_vocabularies_unrelated(llm: HfTokenizer, why: str) -> None:
    matching = match(made(byte_level(), ["<end>"]), made(llm, ["<end>"]))
    assert matching.kind is Kind.UNRELATED
    assert why in matching.told


def test_more_masked_tokens_than_a_run_may_name_are_too_many() -> None:
    many = [f"<s{number}>" for number in range(MAX_MASKED + 1)]
    most = made(byte_level(special=["<end>", *many[:-1]]), ["<end>"])
    more = made(byte_level(special=["<end>", *many]), ["<end>"])
    plain = made(byte_level(special=["<end>"]), ["<end>"])
    assert len(match(most, plain).masked[SLM]) == MAX_MASKED
    assert match(more, plain).kind is Kind.UNRELATED
    moved = made(byte_level(["<end>", *PIECES], special=["<end>"]), ["<end>"])
    assert len(match(most, moved).masked[SLM]) == MAX_MASKED
    assert f"more than {MAX_MASKED:,} tokens" in match(more, moved).told


def refused(slm: Vocabulary, llm: Vocabulary) -> RstitchError:
    with pytest.raises(RstitchError) as caught:
        match(slm, llm)
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "TOKENIZER_MISMATCH")
    assert error.remedy
    return error


@pytest.mark.parametrize("model", [SLM, LLM])
def test_text_that_does_not_come_back_is_refused_by_model_and_text(model: Model) -> None:
    lower = byte_level(["<end>", *PIECES, "ed"], merges=[*MERGES, ("e", "d")])
    lower.normalizer = normalizers.Lowercase()
    sides = [made(byte_level(), ["<end>"]), made(lower, ["<end>"])]
    error = refused(*(sides if model is LLM else sides[::-1]))
    assert f"the {model.name}'s tokenizer does not give 'The answer is 12.' back" in error.message


@pytest.mark.parametrize(
    "words",
    [
        models.WordLevel({"a": 0, "b": 1}, unk_token="[UNK]"),
        models.WordPiece({"a": 0, "##b": 1}, unk_token="[UNK]"),
        models.Unigram([("a", -1.0), ("b", -2.0)], unk_id=None),
        models.Unigram([("x", -1.0), ("b", -2.0)], unk_id=None),
    ],
    ids=["words", "pieces of words", "pieces with scores", "without some letters"],
)
@pytest.mark.parametrize("model", [SLM, LLM])
def test_text_that_has_no_tokens_is_refused_by_model_and_text(model: Model, words: Any) -> None:
    sides = [made(byte_level(), ["<end>"]), made(HfTokenizer(words))]
    error = refused(*(sides if model is LLM else sides[::-1]))
    assert f"the {model.name}'s tokenizer does not give 'The answer is 12.' back" in error.message
    assert sides[1].tokenizer.anchor in ((), (0,))


@pytest.mark.parametrize("model", [SLM, LLM])
def test_text_never_becomes_a_token_without_a_row(model: Model) -> None:
    """A tokenizer may have more added tokens than its model rows, such as one for images; else it is refused."""
    raw = byte_level(["<end>", *PIECES, "ed"], ["<end>", "<image>", "<video>"], [*MERGES, ("e", "d")])
    whole, plain = made(raw, ["<end>"]), made(byte_level(), ["<end>"])

    def served(size: int) -> Vocabularies:
        sides = {model: replace(whole, size=size), model.other: plain}
        return Vocabularies.of(sides[SLM], sides[LLM])

    text = "the <image>and<video> <end>"
    image, video, end = map(raw.token_to_id, ("<image>", "<video>", "<end>"))
    for size, kept in [(video + 1, {image, video}), (video, {image}), (image, set())]:
        vocabularies = served(size)
        assert vocabularies.matching.kind is Kind.UNRELATED
        session = SessionTokens([Chunk(Source.PROMPT, 0, tokens_of([1]), entropies_of())], vocabularies)
        session.begin_segment(model.other)
        session.keep(model.other, plain.tokenizer.encode(text, begins=False))
        view = session.views[model]
        view.refresh()
        read = view.tokens[view.start :]
        # The other model's own end is none of its text.
        assert whole.tokenizer.spelled(read) == text.removesuffix("<end>")
        assert kept == {image, video}.intersection(read)
        assert max(read) < size
        assert vocabularies.tokenizer(model).below(size).encode(text, begins=False)[-1] == end
    sides = {model: replace(whole, size=len(PIECES)), model.other: plain}
    error = refused(sides[SLM], sides[LLM])
    assert f"the {model.name}'s tokenizer makes a token of " in error.message


@pytest.mark.parametrize("rewriting", [normalizers.NFC(), normalizers.NFKC()], ids=["NFC", "NFKC"])
def test_characters_that_a_prompt_would_rewrite_are_handed_over_as_they_are(rewriting: Any) -> None:
    composed = byte_level(["<end>", *PIECES, "ed"], merges=[*MERGES, ("e", "d")])
    composed.normalizer = rewriting
    assert match(made(byte_level(), ["<end>"]), made(composed, ["<end>"])).kind is Kind.UNRELATED


def test_a_tokenizer_without_tokens_is_refused() -> None:
    none = made(HfTokenizer(models.BPE()))
    assert "the SLM's tokenizer has no tokens" in refused(none, made(byte_level())).message
    assert "the LLM's tokenizer has no tokens" in refused(made(byte_level()), none).message


def test_an_end_that_the_other_model_has_no_end_for_is_refused() -> None:
    ours = made(byte_level(special=["<a>"]), ["<a>"])
    error = refused(ours, made(byte_level(special=["<x>"])))
    assert f"the SLM ends an answer with {len(PIECES)} <a>, and the LLM has no stop token" in error.message
    assert "generation_config.json" in (error.remedy or "")
