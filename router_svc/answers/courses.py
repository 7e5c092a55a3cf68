"""An answer as the SLM reads it, one that is kept or one that is given, and whose its tokens are. It asks no worker.

    SLM's ids   [its prompt | its tokens of the answer ...
    positions               | where each of them stands for whoever asks
    writers                 | who wrote it

To make a course of a long answer takes its time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import grpc

from router_svc.answers.log import chunks_of_answer
from router_svc.answers.prompts import make_prompt
from router_svc.answers.request import Chat, GivenAnswer
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.text.conversation import stop_token
from router_svc.text.encoding import TooLong
from router_svc.text.segments import SegmentText, readings
from router_svc.text.session_tokens import SessionTokens
from router_svc.text.turns import Turn
from router_svc.text.views import View
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.session_names import salt_of
from router_svc.trajectory.types import Chunk, Model, Source, Trajectory, joined
from rstitch.errors import RstitchError, invalid

# What decoders put for bytes that are no character, or not yet one.
_UNFINISHED = "\ufffd"


@dataclass(frozen=True, slots=True)
class Course:
    """What the SLM is led along.

    Attributes:
        tokens: all that it reads, in its own ids.
        start: the position in them of the answer's first token, at least 1.
        positions: of the answer's tokens, one for each, as whoever asks counts.
        writers: of the answer's tokens, one for each; None: nobody's.
        cache_salt: workers take over what they have computed under this one only.
    """

    tokens: array[int]
    start: int
    positions: Sequence[int]
    writers: Sequence[Model | None]
    cache_salt: str = ""


def course_of_kept(trajectory: Trajectory, settings: AnswerSettings, vocabularies: Vocabularies) -> Course:
    """The last answer of a session, which is finished.

    Positions count the trajectory. Where the models have no ids in common they count what the SLM reads instead, and a
    token is whoever's its text begins in.
    """
    view = SessionTokens(trajectory.chunks, vocabularies).views[Model.SLM]
    written = chunks_of_answer(trajectory.chunks, settings.start)
    tokens, start = view.tokens[:], view.start
    if vocabularies.is_through_text:
        writers: list[Model | None] = list(_writers_in_text(written, tokens[start:], vocabularies))
        by_llm, side = _ended_by_llm(written, vocabularies), vocabularies.sides[Model.SLM]
        if by_llm and (end := stop_token(side, _last_turn(trajectory.chunks))) is not None:
            tokens.append(end)
            writers.append(Model.LLM)
        return Course(tokens, start, range(start, len(tokens)), writers, settings.cache_salt)
    places = [
        (position, chunk.source.model)
        for chunk in written
        for position, token in enumerate(chunk.tokens, chunk.position)
        if _is_read(view, token)
    ]
    assert len(places) == len(tokens) - start, "a view has what its model can read of the answer"
    positions, models = [position for position, _ in places], [model for _, model in places]
    return Course(tokens, start, positions, models, settings.cache_salt)


def course_of_given(given: GivenAnswer, vocabularies: Vocabularies, most: int, *, each_its_own: bool) -> Course:
    """An answer to a chat: prompt as for a question, its text as a continuation, the SLM's stop token, if it has any.

    Raises RstitchError for a chat that makes no prompt, or a text that makes no tokens; or more than the `most` that
    the SLM reads, if that is seen before they are all made.
    """
    try:
        prompt = make_prompt(
            Chat(given.turn), vocabularies, None, dict.fromkeys(Model, most), each_its_own=each_its_own
        )
    except RstitchError as error:
        if error.reason != "CONTEXT_FULL":
            raise
        raise _too_long("chat", most) from None
    own = prompt.notes.slm if prompt.notes is not None else None
    tokens = (own.tokens if own is not None else prompt.tokens)[:]
    start, side = len(tokens), vocabularies.sides[Model.SLM]
    try:
        tokens.extend(side.tokenizer.below(side.size).encode(given.text, begins=False, most=most))
    except TooLong:
        raise _too_long("text", most) from None
    if len(tokens) == start:
        raise invalid("text", "the SLM's tokenizer makes no token of it.", "Give the answer's text.")
    end = stop_token(side, given.turn)
    if end is not None and tokens[-1] not in side.stop_tokens:
        tokens.append(end)
    writers: list[Model | None] = [None] * (len(tokens) - start)
    return Course(tokens, start, range(start, len(tokens)), writers, salt_of(given.tenant, ""))


def _too_long(field: str, most: int) -> RstitchError:
    what = f"it is more than {most} tokens to the SLM, whose context is {most}."
    return RstitchError(grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_FULL", what, field=field, remedy="Shorten it.")


def _is_read(view: View, token: int) -> bool:
    return len(view.to_own((token,))) > 0


def _ended_by_llm(written: Sequence[Chunk], vocabularies: Vocabularies) -> bool:
    last = next((chunk for chunk in reversed(written) if chunk.tokens), None)
    return last is not None and last.source is Source.LLM and last.tokens[-1] in vocabularies.stop_tokens[Model.LLM]


def _last_turn(chunks: Sequence[Chunk]) -> Turn:
    """What the last answer was asked with; empty if it was no chat."""
    prompt = next(chunk for chunk in reversed(chunks) if chunk.source is Source.PROMPT)
    return Turn.from_json(prompt.notes.turn) if prompt.notes is not None and prompt.notes.turn else Turn()


def _writers_in_text(written: Sequence[Chunk], own: array[int], vocabularies: Vocabularies) -> list[Model]:
    """Of each of the SLM's own tokens of an answer, the writer of the segment that its first character is in."""
    texts = readings(vocabularies)
    segments = [chunk for chunk in joined(written) if chunk.tokens]
    models = [segment.source.model for segment in segments]
    ends = list(accumulate(len(texts[segment.source.model](segment.tokens)) for segment in segments))
    text = SegmentText(texts[Model.SLM])
    made = []
    for token in own:
        # Bytes that are no character yet belong to the one that they begin.
        begin = len(text.read().rstrip(_UNFINISHED))
        made.append(models[min(bisect_right(ends, begin), len(models) - 1)])
        text.tokens.append(token)
    return made
