"""The text of an answer is what its tokens add to the text before, whatever it is read by and wherever it begins."""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping, Sequence

import pytest

from router_svc.answers.events import Reader, Written, context_of
from router_svc.api.messages import _segment_texts
from router_svc.text.answer_text import AnswerText
from router_svc.text.detokenizer import CONTEXT_TOKENS, Detokenizer
from router_svc.text.stop_strings import StopStrings
from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.types import Chunk, Model, Source, entropies_of, joined, tokens_of
from tests.support.kinds_of_tokenizers import byte_level, llama_2, metaspace, served

KINDS = {
    "byte-level": served(byte_level()),
    "Llama-2": served(llama_2()),
    "Metaspace, first": served(metaspace("first")),
    "Metaspace, always": served(metaspace("always")),
    "Metaspace, never": served(metaspace("never")),
}
TEXTS = [
    "a你好吗世界ok",
    "你好吗" * 12 + "世界",
    "a👩b c d",
    " 👩\u200d👩\u200d👧 more  🏳️\u200d🌈!\n\n x",
    "e\u0301 e\u0301世\u0301",
    "more " * 4 + "<|im_end|><s>" + "<|pad|>" * 40 + " more <think>世",
]
BYTE_RUN = "<0xF0>", "<0x9F>", "<0x91>", "<0xA9>"


def alone(tokenizer: Tokenizer) -> dict[Model, Tokenizer]:
    return dict.fromkeys(Model, tokenizer)


def chunks_of(pieces: Sequence[tuple[Source, Sequence[int]]]) -> list[Chunk]:
    made: list[Chunk] = []
    for source, tokens in pieces:
        entropies = entropies_of([0.5] * len(tokens) if source is not Source.PROMPT else ())
        made.append(Chunk(source, made[-1].end if made else 0, tokens_of(tokens), entropies))
    return made


def read(
    tokenizers: Mapping[Model, Tokenizer], chunks: Sequence[Chunk], stops: Sequence[str] = (), position: int = 0
) -> list[tuple[int, str]]:
    """How many tokens and what text a reader gets who comes in at `position`."""
    [prompt, *answer] = chunks
    reader = Reader(tokenizers, context_of(chunks, prompt.end, tokenizers), stops, position or prompt.end)
    events = [*reader.read(answer), *reader.end()]
    return [(len(event.tokens), event.text) for event in events if isinstance(event, Written)]


def text_of(events: Sequence[tuple[int, str]]) -> str:
    return "".join(text for _, text in events)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_may_begin_anywhere_in_a_text(kind: str, text: str) -> None:
    """Within a character, too: readers, the trajectory and the loop see what all tokens add to the prompt's text."""
    tokenizer = KINDS[kind]
    tokens = list(tokenizer.encode(text, begins=True))
    whole = tokenizer.decode(tokens)
    for start in range(len(tokens)):
        begun = [tokenizer.decode(tokens[:num]).rstrip("\ufffd") for num in range(start + 1)]
        expected = whole[max(len(text) for text in begun if whole.startswith(text)) :]
        middle = (start + len(tokens)) // 2
        chunks = chunks_of(
            [(Source.PROMPT, tokens[:start]), (Source.SLM, tokens[start:middle]), (Source.LLM, tokens[middle:])]
        )
        assert text_of(read(alone(tokenizer), chunks)) == expected
        assert "".join(_segment_texts(joined(chunks), alone(tokenizer))[1:]) == expected
        loop = AnswerText(alone(tokenizer), context_of(chunks, start, alone(tokenizer)), ["no such text"])
        assert "".join(loop.push(token, Model.LLM) for token in tokens[start:]) + loop.flush() == expected


def test_the_context_is_enough_wherever_it_begins() -> None:
    """A prompt of many characters without a token of their own, longer than what a detokenizer is shown."""
    for tokenizer in KINDS.values():
        for prompt in ("你" * 40, "more" * 20 + "你", "你" + "</s>" * 50, "a" + "  " * 80):
            before = tokenizer.encode(prompt, begins=True)
            for answer in (" more", "世界ok", "👩b"):
                tokens = tokenizer.encode(answer, begins=False)
                detokenizer = Detokenizer(tokenizer, before[-CONTEXT_TOKENS:])
                got = "".join(detokenizer.push(token) for token in tokens) + detokenizer.flush()
                assert got == answer


def test_an_unfinished_character_of_the_prompt_is_not_shown_if_it_stays_one() -> None:
    tokenizer = KINDS["Llama-2"]
    ids = {token: index for index, token in enumerate(map(tokenizer.spelling, range(tokenizer.size())))}
    a, b, *run = (ids[token] for token in ("a", "b", *BYTE_RUN))
    prompt = [ids["▁"], a, *run[:3]]
    assert text_of(read(alone(tokenizer), chunks_of([(Source.PROMPT, prompt), (Source.LLM, [b, a])]))) == "ba"
    assert text_of(read(alone(tokenizer), chunks_of([(Source.PROMPT, prompt), (Source.LLM, [run[3], b, a])]))) == "👩ba"
    # Bytes of its own that are no character are the answer's text.
    assert text_of(read(alone(tokenizer), chunks_of([(Source.PROMPT, [a]), (Source.LLM, [run[0], b])]))) == "\ufffdb"


def test_wrong_bytes_take_back_no_character_that_was_shown() -> None:
    """Such decoders take a whole run of bytes for no characters if one of them is wrong."""
    tokenizer = KINDS["Llama-2"]
    run = list(tokenizer.encode("世", begins=False))
    a = tokenizer.encode("a", begins=False)[0]
    detokenizer = Detokenizer(tokenizer, [a])
    pieces = [detokenizer.push(token) for token in [*run, run[0], a, *run, a]]
    assert pieces == ["", "", "世", "", "\ufffda", "", "", "世", "a"]


def test_random_bytes_lose_no_text_and_come_in_the_end() -> None:
    rng = random.Random(8)
    for name, tokenizer in KINDS.items():
        letters = tokenizer.encode("abc", begins=False)
        odd = [token for token in range(tokenizer.size()) if "\ufffd" in tokenizer.decode([token])]
        for _ in range(60):
            tokens = [rng.choice(odd if rng.random() < 0.7 else letters) for _ in range(rng.randrange(1, 60))]
            start = rng.randrange(len(tokens))
            detokenizer = Detokenizer(tokenizer, tokens[max(0, start - CONTEXT_TOKENS) : start])
            pieces = [detokenizer.push(token) for token in tokens[start:]]
            got = "".join(pieces) + detokenizer.flush()
            assert [c for c in got if c in "abc"] == [c for c in tokenizer.decode(tokens[start:]) if c in "abc"], name
            assert not detokenizer.holds


STOPS = ["<|im_end|>", "one<|im_end|>\n", "<|im_end|>\nuser", "<|pad|><|im_end|>", "<s>", "pad", "|", "ne\n", "oneu"]


def naive_stop(items: Sequence[str], stops: Sequence[str]) -> tuple[str, bool]:
    """What is to be shown of characters and special tokens, tried end by end.

    To a stop string those special tokens are their spelling that it has in it, and the others are nothing.
    """
    for end in range(1, len(items) + 1):
        for begin in range(end):
            for stop in stops:
                seen = [item if len(item) == 1 or item in stop else "" for item in items[begin:end]]
                if seen[0] and seen[-1] and "".join(seen) == stop:
                    return "".join(item for item in items[:begin] if len(item) == 1), True
    return "".join(item for item in items if len(item) == 1), False


def test_stop_strings_with_special_tokens_however_the_text_is_cut() -> None:
    rng = random.Random(9)
    specials = ("<|im_end|>", "<|pad|>", "<s>")
    num_hit = 0
    for _ in range(3000):
        parts = ["one", "one", "\n", "user", "u", "<|im", "_end|>", *specials, *specials[:2]]
        chosen = [rng.choice(parts) for _ in range(rng.randrange(1, 9))]
        stops = rng.sample(STOPS, rng.randrange(1, 4))
        finder = StopStrings(stops, specials)
        got = ""
        for part in chosen:
            if part in specials:
                got += finder.push_special(part) if part in finder.named else ""
                continue
            cut = rng.randrange(len(part) + 1)
            got += finder.push(part[:cut]) + finder.push(part[cut:])
        items = [item for part in chosen for item in ([part] if part in specials else part)]
        hit = finder.hit
        assert (got if hit else got + finder.flush(), hit) == naive_stop(items, stops), (chosen, stops)
        num_hit += hit
    assert 1000 < num_hit < 2900


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("stops", "text"),
    [
        (["<|im_end|>"], "one 世"),
        (["世<|im_end|>"], "one "),
        (["<|im_end|>\nuser"], "one 世"),
        (["e 世<|im_end|>\n", "user"], "on"),
        (["世\nus"], "one "),
        (["<|im_end|>user", "|", "im_end"], "one 世\nuser more"),
        (["never", "<s>"], "one 世\nuser"),
    ],
)
def test_a_stop_string_may_have_special_tokens_in_it(kind: str, stops: list[str], text: str) -> None:
    """The loop stops at it and no reader is shown it, wherever they come in."""
    tokenizer = KINDS[kind]
    tokens = list(tokenizer.encode("one 世<|im_end|>\nuser<s> more", begins=False))
    prompt = list(tokenizer.encode("x", begins=True))
    loop = AnswerText(alone(tokenizer), prompt, stops)
    kept: list[int] = []
    for token in tokens:
        kept.append(token)
        loop.push(token, Model.SLM)
        if loop.stopped:
            break
    assert loop.stopped == (text != "one 世\nuser more")
    chunks = chunks_of([(Source.PROMPT, prompt), *((Source.SLM, [token]) for token in kept)])
    assert text_of(read(alone(tokenizer), chunks, stops)) == text
    for cut in range(1, len(chunks)):
        reader = Reader(alone(tokenizer), prompt, stops, len(prompt))
        first = [event.text for event in reader.read(chunks[1:cut]) if isinstance(event, Written)]
        rest = read(alone(tokenizer), [chunks[0], *joined(chunks[1:])], stops, reader.position)
        assert "".join(first) + text_of(rest) == text
        assert reader.position - len(prompt) + sum(num for num, _ in rest) == len(kept)


def test_a_special_token_that_is_a_stop_string_ends_an_unfinished_character() -> None:
    tokenizer = KINDS["byte-level"]
    [end] = tokenizer.encode("<|im_end|>", begins=False)
    text = AnswerText(alone(tokenizer), [], ["<|im_end|>"])
    pieces = [text.push(token, Model.LLM) for token in [*tokenizer.encode("a世", begins=False)[:2], end]]
    assert (pieces, text.stopped) == (["a", "", "\ufffd"], True)


BOTH = {Model.SLM: KINDS["Llama-2"], Model.LLM: KINDS["byte-level"]}


def by_turns(text: str, rng: random.Random) -> tuple[list[tuple[Source, array[int]]], list[str]]:
    """The text by turns of two models with a tokenizer each, cut between characters; and its pieces."""
    cuts = sorted(rng.sample(range(len(text) + 1), min(4, len(text))))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    models = [Model.SLM if rng.random() < 0.5 else Model.LLM for _ in pieces]
    return [(m.source, BOTH[m].encode(p, begins=False)) for m, p in zip(models, pieces, strict=True)], pieces


@pytest.mark.parametrize("text", TEXTS[:5])
def test_two_tokenizers_go_on_with_one_text(text: str) -> None:
    rng = random.Random(10)
    for _ in range(30):
        turns, _ = by_turns(text, rng)
        prompt = BOTH[Model.LLM].encode("x: ", begins=True)
        chunks = chunks_of([(Source.PROMPT, prompt), *turns])
        assert text_of(read(BOTH, chunks)) == text
        # Then another prompt and another answer.
        more = [(Source.PROMPT, prompt), *turns, (Source.PROMPT, prompt[1:]), *turns]
        segments = joined(chunks_of(more))
        texts = _segment_texts(segments, BOTH)
        assert "".join(texts) == "x: " + text + ": " + text
        for cut in range(1, len(chunks)):
            reader = Reader(BOTH, prompt, (), len(prompt))
            first = [event.text for event in reader.read(chunks[1:cut]) if isinstance(event, Written)]
            rest = read(BOTH, [chunks[0], *joined(chunks[1:])], (), reader.position)
            assert "".join(first) + text_of(rest) == text


def test_stop_strings_are_found_across_two_tokenizers() -> None:
    rng = random.Random(11)
    for _ in range(50):
        turns, _ = by_turns("one 世 more", rng)
        text = AnswerText(BOTH, (), ["世 m"])
        shown = "".join(text.push(token, source.model) for source, tokens in turns for token in tokens)
        assert (shown, text.stopped) == ("one ", True)
