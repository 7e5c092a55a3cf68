"""Which id of one model is which of the other: on stand-ins of known models, on renumbered vocabularies, at the edges.

Facts, from the models' published files: special tokens, their ids and order, what ends an answer. Stand-ins: the text
entries, few instead of many (`tests/support/known_tokenizers.py`).
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from router_svc.text.matching import MAX_MASKED, NO_TOKEN, Kind, Matching, Vocabulary, match
from router_svc.text.tokenizer import Tokenizer, TokenizerFiles
from router_svc.text.views import MappedView
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model, tokens_of
from rstitch.errors import RstitchError
from tests.support import known_tokenizers as known
from tests.support.known_tokenizers import Known

SLM, LLM = Model.SLM, Model.LLM


def vocabulary(of: Known, size: int | None = None) -> Vocabulary:
    return Vocabulary(Tokenizer(of.files()), of.size if size is None else size, of.stop_tokens)


def matched(slm: Known, llm: Known) -> Matching:
    return match(vocabulary(slm), vocabulary(llm))


def published(of: Known, tokens: Sequence[int]) -> set[int]:
    """The published ids of a stand-in's special tokens."""
    back = {of.id_of(number): number for number in of.added}
    return {back[token] for token in tokens}


def spellings(side: Vocabulary) -> list[str | None]:
    return [side.tokenizer.spelling(token) for token in range(side.size)]


def made(raw: HfTokenizer, stops: Sequence[str] = (), eos: str = "", size: int | None = None) -> Vocabulary:
    tokenizer = Tokenizer(TokenizerFiles(raw.to_str().encode(), special_tokens={"eos_token": eos} if eos else {}))
    top = max(raw.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    return Vocabulary(tokenizer, top if size is None else size, frozenset(map(raw.token_to_id, stops)))


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("t", "h"), ("th", "e"), ("a", "n"), ("an", "d")]
PIECES = [*ALPHABET, "th", "the", "an", "and"]


def byte_level(
    order: Sequence[str] = PIECES, special: Sequence[str] = ("<end>",), merges: Sequence[tuple[str, str]] = MERGES,
    plain: Sequence[str] = (), **options: Any,
) -> HfTokenizer:  # fmt: skip
    """Entries in a given order, special tokens behind them or among them."""
    raw = HfTokenizer(models.BPE({entry: token for token, entry in enumerate(order)}, list(merges), **options))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_tokens([AddedToken(text, special=text not in plain, normalized=False) for text in (*special, *plain)])
    return raw


# Real pairs


def test_l1_and_r1_distill_have_one_vocabulary_and_two_templates() -> None:
    matching = matched(known.L1_SHORT, known.R1_DISTILL_QWEN_7B)
    assert matching.kind is Kind.SAME
    assert matching.masked == {SLM: (), LLM: ()}
    assert (len(matching.to_llm), len(matching.to_slm)) == (0, 0)
    assert matching.told == f"one vocabulary of {known.L1_SHORT.size} tokens"
    assert known.L1_SHORT.chat_template != known.R1_DISTILL_QWEN_7B.chat_template


def test_the_papers_32b_pair_is_renumbered() -> None:
    """One id, two meanings: 151644 is the user to L1 and the start of a message to QwQ."""
    slm, llm = known.L1_SHORT, known.QWQ_32B
    matching = matched(slm, llm)
    assert matching.kind is Kind.RENUMBERED
    for text in ("<think>", "</think>", "<|fim_prefix|>", "<tool_call>"):
        assert matching.to_llm[slm.token(text)] == llm.token(text)
        assert matching.to_slm[llm.token(text)] == slm.token(text)
    assert slm.id_of(151648) == slm.token("<think>")
    assert matching.to_llm[slm.id_of(151648)] == llm.id_of(151667)
    # Both ends that QwQ knows are L1's end; L1's end is the one that QwQ's tokenizer names.
    assert matching.to_llm[slm.id_of(151643)] == llm.token("<|im_end|>") == llm.id_of(151645)
    assert matching.to_slm[llm.id_of(151645)] == matching.to_slm[llm.id_of(151643)] == slm.id_of(151643)
    assert published(slm, matching.masked[SLM]) == {151644, 151645, 151646, 151647}
    assert published(llm, matching.masked[LLM]) == {151644, *range(151646, 151650), 151665, 151666}
    text = range(slm.token("<｜end▁of▁sentence｜>"))
    assert list(matching.to_llm[: len(text)]) == list(text)


def test_v1s_pair_is_renumbered_and_the_marks_of_thinking_are_masked() -> None:
    slm, llm = known.QWEN25_MATH_OAT_ZERO, known.R1_DISTILL_QWEN_7B
    matching = matched(slm, llm)
    assert matching.kind is Kind.RENUMBERED
    assert matching.to_llm[slm.token("<|endoftext|>")] == llm.token("<｜end▁of▁sentence｜>")
    assert matching.to_slm[llm.token("<｜end▁of▁sentence｜>")] == slm.token("<|endoftext|>")
    assert published(slm, matching.masked[SLM]) == set(range(151644, 151650))
    assert published(llm, matching.masked[LLM]) == set(range(151644, 151650))
    assert "<think>" in matching.told


def test_qwen3_has_one_vocabulary() -> None:
    matching = matched(known.QWEN3_SMALL, known.QWEN3_32B)
    assert matching.kind is Kind.SAME
    assert not any(matching.masked.values())


def test_a_later_release_that_only_adds_tokens_is_the_same_with_those_masked() -> None:
    slm, llm = known.QWEN25_CODER, known.QWEN3_32B
    matching = matched(slm, llm)
    assert matching.kind is Kind.SAME
    assert matching.masked[SLM] == ()
    assert published(llm, matching.masked[LLM]) == {151665, 151666, 151667, 151668}
    assert matching.told.endswith("masked: LLM " + ", ".join(f"{t} {llm.tokenizer.id_to_token(t)}" for t in range(
        llm.size - 4, llm.size)))  # fmt: skip


@pytest.mark.parametrize("slm", [known.LLAMA32_BASE, known.LLAMA32_INSTRUCT], ids=["base", "instruct"])
def test_llama_beside_r1_distill_llama(slm: Known) -> None:
    llm = known.R1_DISTILL_LLAMA_70B
    matching = matched(slm, llm)
    assert matching.kind is Kind.RENUMBERED
    end = llm.token("<｜end▁of▁sentence｜>")
    assert matching.to_llm[slm.token("<|end_of_text|>")] == end
    assert matching.to_slm[end] == slm.token(slm.eos)
    assert matching.to_llm[slm.token("<|eot_id|>")] == llm.token("<|eot_id|>")
    assert published(llm, matching.masked[LLM]) == {128000, *range(128011, 128016)}
    assert published(slm, matching.masked[SLM]) == {128000, *range(128011, 128016)}


def test_an_answer_ends_at_what_ends_it_for_either_model_and_each_run_is_told_all_of_it() -> None:
    """The SLM has three ends. Two are known to the LLM, as tokens that end nothing; the third is spelled otherwise."""
    slm, llm = known.LLAMA32_INSTRUCT, known.R1_DISTILL_LLAMA_70B
    vocabularies = Vocabularies.of(vocabulary(slm), vocabulary(llm))
    ends = frozenset(map(llm.token, ("<｜end▁of▁sentence｜>", "<|eom_id|>", "<|eot_id|>")))
    assert vocabularies.stop_tokens == {SLM: ends, LLM: ends}
    view = MappedView(tokens_of(), vocabularies)
    assert view.own_ends(ends) == slm.stop_tokens
    assert view.own_ends(ends - {llm.token("<|eom_id|>")}) == slm.stop_tokens - {slm.token("<|eom_id|>")}
    assert view.to_answer([slm.token("<|end_of_text|>")]) == [llm.token("<｜end▁of▁sentence｜>")]


def test_a_base_model_beside_its_instruct_model_is_the_same_and_each_ends_answers() -> None:
    base, instruct = vocabulary(known.LLAMA32_BASE), vocabulary(known.LLAMA32_INSTRUCT)
    matching = match(base, instruct)
    assert matching.kind is Kind.SAME
    both = known.LLAMA32_INSTRUCT.stop_tokens | known.LLAMA32_BASE.stop_tokens
    assert Vocabularies.of(base, instruct).stop_tokens == {SLM: both, LLM: both}


def test_mistrals_control_tokens_moved_all_others() -> None:
    slm, llm = known.MISTRAL_V1, known.MISTRAL_V3
    matching = matched(slm, llm)
    assert matching.kind is Kind.RENUMBERED
    assert matching.masked[SLM] == ()
    assert published(llm, matching.masked[LLM]) == set(range(3, 771))
    assert [matching.to_llm[token] for token in range(5)] == [0, 1, 2, 771, 772]
    assert matching.to_llm[slm.token("▁the")] == llm.token("▁the") == slm.token("▁the") + 768
    named, _, more = matching.told.rpartition(" and ")
    assert more == "756 more"
    assert named.count("[") == 7 + 5


@pytest.mark.parametrize(
    ("slm", "llm"),
    [
        (known.LLAMA32_INSTRUCT, known.QWEN3_32B),
        (known.MISTRAL_V1, known.QWQ_32B),
        (known.GEMMA2, known.MISTRAL_V3),
        (known.R1_DISTILL_QWEN_7B, known.R1_DISTILL_LLAMA_70B),
    ],
    ids=["llama-qwen", "mistral-qwen", "gemma-mistral", "r1-qwen-r1-llama"],
)
def test_models_of_two_families_go_through_text(slm: Known, llm: Known) -> None:
    matching = matched(slm, llm)
    assert matching.kind is Kind.UNRELATED
    assert not any(matching.masked.values())
    assert (len(matching.to_llm), len(matching.to_slm)) == (0, 0)
    assert matching.told.startswith("through text: ")


# Laws


def check_laws(matching: Matching, slm: Vocabulary, llm: Vocabulary) -> None:
    sides = {SLM: slm, LLM: llm}
    names = {model: spellings(side) for model, side in sides.items()}
    maps = {SLM: matching.to_llm, LLM: matching.to_slm}
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


@pytest.mark.parametrize(("slm", "llm"), list(itertools.product(known.ALL, known.ALL)), ids=lambda one: one.hub_id)
def test_any_two_of_the_known_models(slm: Known, llm: Known) -> None:
    ours, theirs = vocabulary(slm), vocabulary(llm)
    matching = match(ours, theirs)
    assert (matching.kind is Kind.UNRELATED) == (slm.family != llm.family)
    assert "\n" not in matching.told
    if matching.kind is not Kind.UNRELATED:
        check_laws(matching, ours, theirs)


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


# Edges


def test_a_row_that_one_model_lacks_is_masked_on_the_other() -> None:
    whole = vocabulary(known.QWEN3_32B)
    short = vocabulary(known.QWEN3_SMALL, whole.size - 1)
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
    special = byte_level([*PIECES, "<e"], ["<end>", "<e>"], merges[:-1])
    ours, theirs = made(byte_level(text, merges=merges), ["<end>"]), made(special, ["<end>"])
    assert match(ours, theirs).kind is Kind.UNRELATED  # one joins < e >, the other does not
    added = made(byte_level(text, ["<e>", "<end>"], merges), ["<end>"])
    matching = match(ours, added)
    assert ours.tokenizer.spelling(text.index("<e>")) == added.tokenizer.spelling(text.index("<e>"))
    assert matching.kind is Kind.RENUMBERED or matching.kind is Kind.SAME
    check_laws(matching, ours, added)


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
    def hole(file: dict[str, Any]) -> None:
        for token in file["added_tokens"]:
            token["id"] += 7

    plain, holed = byte_level(), renamed(byte_level(), hole)
    ours, theirs = made(plain, ["<end>"]), made(holed, ["<end>"])
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


# Refusals


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


@pytest.mark.parametrize("normalizer", [normalizers.NFC(), normalizers.NFKC(), normalizers.Strip()])
def test_what_a_tokenizer_makes_of_whole_texts_alone_is_no_loss(normalizer: Any) -> None:
    """A vocabulary of bytes spells what another model wrote as it is."""
    rewriting = byte_level(["<end>", *PIECES, "ed"], merges=[*MERGES, ("e", "d")])
    rewriting.normalizer = normalizer
    assert match(made(byte_level(), ["<end>"]), made(rewriting, ["<end>"])).kind is Kind.UNRELATED


def test_a_tokenizer_without_tokens_is_refused() -> None:
    none = made(HfTokenizer(models.BPE()))
    assert "the SLM's tokenizer has no tokens" in refused(none, made(byte_level())).message
    assert "the LLM's tokenizer has no tokens" in refused(made(byte_level()), none).message


def test_an_end_that_the_other_model_has_no_end_for_is_refused() -> None:
    ours = made(byte_level(special=["<a>"]), ["<a>"])
    error = refused(ours, made(byte_level(special=["<x>"])))
    assert f"the SLM ends an answer with {len(PIECES)} <a>, and the LLM has no stop token" in error.message
    assert "generation_config.json" in (error.remedy or "")
