"""What each model of an unrelated pair reads of a session, and when its text ends within a character."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from itertools import pairwise

import pytest

from evals.algorithm.text_reference import is_within_character
from router_svc.policies.bounded import within
from router_svc.policies.budget import Budget
from router_svc.policies.kinds import Random, Threshold
from router_svc.policies.policy import History
from router_svc.policies.whole_characters import WholeCharacters
from router_svc.text.matching import Vocabulary
from router_svc.text.segments import CharacterWatch, Reading, SegmentText
from router_svc.text.session_tokens import SessionTokens
from router_svc.text.text_view import TextView
from router_svc.text.tokenizer import Tokenizer, TokenizerFiles
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Chunk, Model, ModelPrompt, Source, common_prefix, entropies_of, tokens_of
from router_svc.trajectory.usage import Usage
from tests.support.toy import ToyModel
from tests.support.unrelated import PIECES, byte_level, naive_models, sentencepiece

SLM, LLM = Model.SLM, Model.LLM
NAIVE = dict(zip(Model, naive_models(ToyModel(1), ToyModel(2)).values(), strict=True))


def served(*, legacy: bool = False) -> dict[Model, Tokenizer]:
    made = {SLM: byte_level(), LLM: sentencepiece(legacy=legacy)}
    return {model: Tokenizer(TokenizerFiles(one.to_str().encode())) for model, one in made.items()}


TOKENIZERS = served()


def reading(tokenizer: Tokenizer, model: Model) -> Reading:
    return Reading(tokenizer, frozenset(NAIVE[model].stop_tokens))


TEXTS = {model: reading(tokenizer, model) for model, tokenizer in TOKENIZERS.items()}


def view_of(model: Model, *prompt: int) -> TextView:
    view = TextView(model, TOKENIZERS[model], TEXTS)
    view.add_prompt(ModelPrompt(0, tokens_of(prompt)))
    return view


def write(view: TextView, writer: Model, text: str) -> list[int]:
    """A segment; the writer's worker has begun a run."""
    view.begin_segment(writer)
    view.refresh()
    tokens = NAIVE[writer].encode(text)
    view.keep(writer, tokens)
    return tokens


def random_segment(rng: random.Random, model: Model) -> list[int]:
    """Tokens of text, and any others."""
    size = (byte_level() if model is SLM else sentencepiece()).get_vocab_size()
    tokens: list[int] = []
    for _ in range(rng.randrange(6)):
        if rng.random() < 0.6:
            tokens += NAIVE[model].encode(rng.choice(PIECES))
        else:
            tokens += rng.choices(range(size), k=rng.randrange(1, 4))
    return tokens


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("model", list(Model))
def test_a_segment_reads_as_text_that_goes_on(model: Model, legacy: bool) -> None:
    text = reading(served(legacy=legacy)[model], model)
    for piece in (*PIECES, " the stones", "  ", "\n a"):
        tokens = NAIVE[model].encode(piece)
        assert text(tokens) == NAIVE[model].decode(tokens) == piece
    stop = next(iter(NAIVE[model].stop_tokens))
    assert text([*NAIVE[model].encode(" so"), stop]) == " so"
    special = {SLM: byte_level().token_to_id("<|user|>"), LLM: 1}[model]
    assert text([special]) == {SLM: "<|user|>", LLM: "<s>"}[model]


def test_whoever_begins_to_write_reads_the_text_so_far_and_then_its_own_tokens() -> None:
    slm, llm = view_of(SLM, 7, 8), view_of(LLM, 1, 300)
    for view in (slm, llm):
        write(view, SLM, "the 你")
    assert list(slm.tokens) == [7, 8, *NAIVE[SLM].encode("the 你")]
    for view in (slm, llm):
        view.begin_segment(LLM)
        assert view.refresh() is None
    assert list(llm.tokens) == [1, 300, *NAIVE[LLM].encode("the 你")]
    # "你好" is one token of the LLM's in a text, but it wrote "好" as one of its own.
    own = NAIVE[LLM].encode("好 on")
    for view in (slm, llm):
        view.keep(LLM, own)
    assert list(llm.tokens) == [1, 300, *NAIVE[LLM].encode("the 你"), *own]
    assert llm.refresh() is None
    slm.refresh()
    assert list(slm.tokens) == [7, 8, *NAIVE[SLM].encode("the 你好 on")]
    # It hands over and is the writer again: now it reads the whole as text.
    for view in (slm, llm):
        view.begin_segment(SLM)
        view.begin_segment(LLM)
    changed = llm.refresh()
    assert list(llm.tokens) == [1, 300, *NAIVE[LLM].encode("the 你好 on")]
    assert changed == 2 + len(NAIVE[LLM].encode("the "))


def test_a_view_is_a_function_of_what_was_written_however_it_came() -> None:
    """Refreshed now and then, or read at once as another router does; and what did not change is said to stay."""
    rng = random.Random(5)
    for _ in range(60):
        live = {model: view_of(model, 9, 10) for model in Model}
        anew = {model: view_of(model, 9, 10) for model in Model}
        for writer in rng.choices(list(Model), k=rng.randrange(1, 6)):
            for model in Model:
                live[model].begin_segment(writer)
                anew[model].begin_segment(writer)
            _refreshed(live[writer])
            for token in random_segment(rng, writer):
                for model in Model:
                    live[model].keep(writer, [token])
                    anew[model].keep(writer, [token])
                    if rng.random() < 0.3:
                        _refreshed(live[model])
        for model in Model:
            _refreshed(live[model])
            anew[model].refresh()
            assert live[model].tokens == anew[model].tokens
            prompt = ModelPrompt(len(anew[model].tokens), tokens_of([11]))
            live[model].add_prompt(prompt)
            anew[model].add_prompt(prompt)
            assert live[model].tokens == anew[model].tokens
            assert live[model].tokens[-1] == 11


def _refreshed(view: TextView) -> None:
    before = view.tokens[:]
    changed = view.refresh()
    num = len(before) if changed is None else changed
    assert view.tokens[:num] == before[:num]
    assert changed is None or view.tokens[: num + 1] != before[: num + 1]


def test_the_next_prompt_stands_behind_the_answer_as_it_is_read() -> None:
    slm, llm = view_of(SLM, 7), view_of(LLM, 1)
    stop = next(iter(NAIVE[LLM].stop_tokens))
    for view in (slm, llm):
        write(view, SLM, "你")
        own = write(view, LLM, "好")
        view.keep(LLM, [stop])
    slm.refresh()
    slm.add_prompt(ModelPrompt(1 + len(NAIVE[SLM].encode("你好")), tokens_of([50])))
    assert list(slm.tokens) == [7, *NAIVE[SLM].encode("你好"), 50]
    llm.add_prompt(ModelPrompt(1 + len(NAIVE[LLM].encode("你")) + len(own) + 1, tokens_of([51])))
    assert list(llm.tokens) == [1, *NAIVE[LLM].encode("你"), *own, stop, 51]
    write(slm, LLM, "x")
    assert slm.refresh() is None
    assert list(slm.tokens) == [7, *NAIVE[SLM].encode("你好"), 50, *NAIVE[SLM].encode("x")]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("model", list(Model))
def test_the_text_of_a_segment_is_that_of_all_its_tokens_whenever_it_is_read(model: Model, legacy: bool) -> None:
    """Bytes that are no characters spoil whole runs of them, also behind what is left out and what has no token."""
    rng = random.Random(9)
    whole = reading(served(legacy=legacy)[model], model)
    size = whole.tokenizer.size()
    apart = [*[*NAIVE[model].stop_tokens, size] * 3, *whole.tokenizer.added_tokens().values()]
    num_certain = []
    for _ in range(120):
        segment = SegmentText(whole)
        for _ in range(rng.randrange(1, 8)):
            tokens = random_segment(rng, model) + rng.choices(_broken(model), k=rng.choice((0, 0, 1, 3)))
            for character in rng.choices("語😀éん🇩 a", k=rng.randrange(3)):
                tokens += NAIVE[model].encode(character)
                tokens += rng.choices(apart, k=rng.choice((0, 1)))
                tokens += rng.choices(_broken(model), k=rng.choice((0, 0, 1)))
            for token in tokens:
                segment.tokens.append(token)
                if rng.random() < 0.5:
                    assert segment.read() == whole(segment.tokens)
                    num_certain.append(segment.num_certain)
        assert segment.read() == whole(segment.tokens)
    assert max(num_certain) > 20


def test_what_was_read_of_a_segment_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = SegmentText(TEXTS[LLM])
    num_decoded = 0
    plain = Tokenizer.decode_within

    def counted(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
        nonlocal num_decoded
        num_decoded += len(tokens)
        return plain(tokenizer, tokens)

    monkeypatch.setattr(Tokenizer, "decode_within", counted)
    piece = NAIVE[LLM].encode("the stones 你好 lie")
    for _ in range(50):
        segment.tokens.extend(piece)
        segment.read()
    assert num_decoded < 2 * len(segment.tokens)


def test_only_the_answer_that_is_being_written_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read a session again does not decode each token of its earlier answers."""
    sides = [
        Vocabulary(TOKENIZERS[model], TOKENIZERS[model].size(), frozenset(NAIVE[model].stop_tokens)) for model in Model
    ]
    vocabularies = Vocabularies.of(*sides)
    smile = tokens_of(byte_level().encode("😀").ids)
    none = entropies_of()
    chunks = [
        Chunk(Source.PROMPT, 0, tokens_of([5]), none),
        Chunk(Source.SLM, 1, smile[:-1], none),
        Chunk(Source.PROMPT, len(smile), tokens_of([6]), none),
    ]
    watched: list[int] = []
    keep = CharacterWatch.keep
    monkeypatch.setattr(CharacterWatch, "keep", lambda *args: (watched.extend(args[2]), keep(*args)))
    session = SessionTokens(chunks, vocabularies)
    assert (watched, session.mid_character) == ([], False)
    begun = [*chunks, Chunk(Source.SLM, len(smile) + 1, smile[:-1], none)]
    session = SessionTokens(begun, vocabularies)
    assert (watched, session.mid_character) == (list(smile[:-1]), True)
    session.keep(SLM, smile[-1:])
    assert not session.mid_character


def test_the_watch_sees_what_the_reference_sees() -> None:
    rng = random.Random(6)
    seen = set()
    for _ in range(80):
        watch = CharacterWatch(TEXTS)
        for writer in rng.choices(list(Model), k=2):
            watch.begin_segment(writer)
            tokens = random_segment(rng, writer) + (rng.choices(_broken(writer), k=rng.choice((0, 3, 20))))
            for num, token in enumerate(tokens, 1):
                watch.keep(writer, [token])
                assert watch.mid_character == is_within_character(NAIVE[writer], tokens[:num])
                seen.add(watch.mid_character)
    assert seen == {False, True}
    together = CharacterWatch(TEXTS)
    together.begin_segment(SLM)
    together.keep(SLM, byte_level().encode("😀").ids[:-1])
    assert together.mid_character
    together.keep(SLM, byte_level().encode("😀").ids[-1:])
    assert not together.mid_character


def _broken(model: Model) -> list[int]:
    """Tokens of bytes that begin no character."""
    vocab = (byte_level() if model is SLM else sentencepiece()).get_vocab()
    return [vocab["ÿ"], vocab["þ"]] if model is SLM else [vocab["<0xFF>"], vocab["<0x9F>"]]


@pytest.mark.parametrize("mid", [False, True])
def test_within_a_character_the_writer_stays(mid: bool) -> None:
    history = History(5, entropies_of([0.1, 0.1]), 0.1, mid_character=mid)
    policy = WholeCharacters(Threshold(0.5, 0.5))
    assert policy.may_switch(history) is not mid
    assert policy.next_writer(LLM, history) is (LLM if mid else SLM)
    coin = Random(0.5, 3)
    policy = WholeCharacters(coin)
    for position in range(5, 40):
        history.start = position
        for writer in Model:
            assert policy.next_writer(writer, history) is (writer if mid else coin.author(history.position))
    assert not policy.runs_ahead


def test_a_spent_budget_lets_a_character_be_ended() -> None:
    spent = History(5, entropies_of([0.9]), 0.9, Usage(num_llm_tokens=3), mid_character=True)
    for stop in (False, True):
        policy = WholeCharacters(within(Threshold(0.5, 0.5), Budget(llm_tokens=3, stop=stop)))
        assert policy.next_writer(LLM, spent) is LLM
        assert policy.tokens_left(LLM, spent) == 1
    whole = History(5, entropies_of([0.9]), 0.9, Usage(num_llm_tokens=3))
    assert policy.next_writer(LLM, whole) is None
    assert policy.tokens_left(LLM, whole) == 0
    assert WholeCharacters(Threshold(0.5, 0.5)).tokens_left(LLM, spent) is None


def test_common_prefix() -> None:
    rng = random.Random(1)
    for _ in range(300):
        left, right = (array("I", rng.choices(range(2), k=rng.randrange(9))) for _ in range(2))
        num = common_prefix(left, right)
        assert left[:num] == right[:num]
        assert num in (len(left), len(right)) or left[num] != right[num]
    rows = [array("I", [*range(1000), *[0] * num]) for num in range(3)]
    assert [common_prefix(a, b) for a, b in pairwise(rows)] == [1000, 1001]
