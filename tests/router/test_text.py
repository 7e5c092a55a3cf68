"""Text is a function of the tokens, however chunks and connections cut them."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from router_svc.answers.events import Reader, Switched, Written
from router_svc.text.answer_text import AnswerText
from router_svc.text.detokenizer import Detokenizer
from router_svc.text.stop_strings import StopStrings
from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.types import Chunk, Model, Source, SwitchReason, entropies_of, joined, tokens_of
from tests.support.toy import make_tokenizer_files

TOKENIZER = Tokenizer(make_tokenizer_files())
TEXTS = ["plain", "naïve café", "日本語のテキスト", "a👩‍👩‍👧b🏳️‍🌈", "the than zz the", "\n\n tabs\t", "x" * 40, "é"]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_and_no_character_is_cut(text: str) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.push(token) for token in TOKENIZER.encode(text, begins=True)]
    assert "".join(pieces) + detokenizer.flush() == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_special_tokens_have_no_text() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    tokens = [0, *TOKENIZER.encode("a", begins=False), 3, 3, *TOKENIZER.encode("é", begins=False), 0]
    assert "".join(detokenizer.push(token) for token in tokens) + detokenizer.flush() == "aé"


def test_random_bytes_give_what_decoding_all_at_once_gives() -> None:
    rng = random.Random(4)
    for _ in range(200):
        tokens = [rng.randrange(260) for _ in range(rng.randrange(1, 14))]
        detokenizer = Detokenizer(TOKENIZER)
        got = "".join(detokenizer.push(token) for token in tokens) + detokenizer.flush()
        assert got == TOKENIZER.decode(tokens)


def test_endless_garbage_is_let_out_and_the_text_after_it_is_whole() -> None:
    continuation = TOKENIZER.encode("é", begins=False)[1]
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.push(continuation) for _ in range(500)]
    assert max(map(len, pieces)) < 40
    assert sum(map(len, pieces)) > 450
    pieces += [detokenizer.push(token) for token in TOKENIZER.encode("日本", begins=False)]
    assert "".join(pieces).endswith("日本")


def naive_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """What is to be shown of a whole text, tried character by character."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


def test_stop_strings_however_the_text_is_cut() -> None:
    rng = random.Random(5)
    for _ in range(3000):
        text = "".join(rng.choice("ab") for _ in range(rng.randrange(12)))
        stops = ["".join(rng.choice("ab") for _ in range(rng.randrange(1, 5))) for _ in range(rng.randrange(1, 4))]
        cuts = sorted({0, len(text), *(rng.randrange(len(text) + 1) for _ in range(4))})
        finder = StopStrings(stops)
        got = "".join(finder.push(text[start:end]) for start, end in pairwise(cuts))
        hit = finder.hit
        assert (got if hit else got + finder.flush(), hit) == naive_stop(text, stops)


def chunks_of(tokens: list[int], rng: random.Random) -> list[Chunk]:
    """The tokens by turns of both models, an empty turn here and there."""
    chunks, position = [], 3
    source = Source.SLM
    reason = SwitchReason.NONE
    while position < 3 + len(tokens):
        num = rng.choice([0, 1, 2, 3])
        piece = tokens_of(tokens[position - 3 : position - 3 + num])
        chunks.append(Chunk(source, position, piece, entropies_of([0.5] * len(piece)), reason, 0.25))
        position += len(piece)
        if rng.random() < 0.5 or not piece:
            source = Source.LLM if source is Source.SLM else Source.SLM
            reason = SwitchReason.ENTROPY_ABOVE if source is Source.LLM else SwitchReason.ENTROPY_BELOW
        else:
            reason = SwitchReason.NONE
    return chunks


def read_all(chunks: list[Chunk], stops: list[str], position: int, upto: int | None) -> tuple[list[object], Reader]:
    """Events one by one: a token each, its text, and switches; up to `upto` tokens, or to the end."""
    reader = Reader(dict.fromkeys(Model, TOKENIZER), [], stops, position)
    events: list[object] = []
    for event in [*reader.read(chunks), *(reader.end() if upto is None else ())]:
        if isinstance(event, Switched):
            events.append(event)
        else:
            assert isinstance(event, Written)
            events += [(event.model, event.position + index) for index in range(len(event.tokens))]
            events.append(("text", event.text))
    return events, reader


def flat(events: list[object]) -> tuple[list[object], str]:
    """Everything but text in order, and all text joined."""
    texts = [str(event[1]) for event in events if isinstance(event, tuple) and event[0] == "text"]
    return [event for event in events if not (isinstance(event, tuple) and event[0] == "text")], "".join(texts)


@pytest.mark.parametrize("stops", [[], ["bé"], ["abc", "b日"]])
def test_a_reader_who_comes_back_gets_exactly_the_rest(stops: list[str]) -> None:
    rng = random.Random(6)
    for _ in range(150):
        text = "".join(rng.choice("abcé日👩") for _ in range(rng.randrange(1, 12)))
        tokens = list(TOKENIZER.encode(text, begins=True))[: rng.randrange(1, 30)]
        finder = AnswerText(dict.fromkeys(Model, TOKENIZER), [], stops)
        for index, token in enumerate(tokens):
            finder.push(token, Model.SLM)
            if finder.stopped:  # as the decode loop does
                tokens = tokens[: index + 1]
                break
        chunks = chunks_of(tokens, rng)
        whole, _ = read_all(chunks, stops, 3, None)
        expected = naive_stop(TOKENIZER.decode(tokens), stops)[0]
        assert flat(whole)[1] == expected

        cut = rng.randrange(len(chunks) + 1)
        first, reader = read_all(chunks[:cut], stops, 3, upto=cut)
        coarse = joined(chunks)
        rest, _ = read_all(coarse, stops, reader.position, None)
        assert flat(first)[1] + flat(rest)[1] == expected
        # The switches at the first token that the reader lacks come again with it.
        kept = [e for e in flat(first)[0] if not (isinstance(e, Switched) and e.position == reader.position)]
        assert kept + flat(rest)[0] == flat(whole)[0]
