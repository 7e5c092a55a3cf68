"""A candidate and the LLM are asked the same questions as the pair that they would be.

Each has its own prompt, its own ids and its masked tokens. What either says is told in the LLM's ids, as an answer of
the pair would have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from evals.pairs.predict import Sample
from evals.pairs.questions import Question, agrees
from evals.pairs.reading import Loaded, answers, of_pair, prompt_of, read
from evals.pairs.walk import Reading, Text
from router_svc.text.vocabularies import Vocabularies

# An LLM's answers and what it says of them, by what it is asked and what it may write.
Known: TypeAlias = dict[object, tuple[list[list[int]], list[Reading]]]


@dataclass(frozen=True, slots=True)
class Asking:
    """What both are asked, and who hears of each answer that is written or read."""

    questions: Sequence[Question]
    max_new_tokens: int
    on_written: Callable[[str, int], None]  # a model's name, and of how many questions more
    on_read: Callable[[], None]


def samples(slm: Loaded, llm: Loaded, vocabularies: Vocabularies, asking: Asking, known: Known) -> list[Sample]:
    """Both models' answers, each read by both. The LLM's are taken from `known` if they are there, and left there."""
    slm, llm = of_pair(slm, llm, vocabularies)
    for_slm, for_llm = (
        [prompt_of(one, question.text, other) for question in asking.questions]
        for one, other in ((slm, llm), (llm, slm))
    )
    of_slm = _written(slm, for_slm, asking)
    key = (llm.masked, llm.ends, tuple(map(tuple, for_llm)))
    if key not in known:
        written = _written(llm, for_llm, asking)
        known[key] = written, [read(llm, *each) for each in zip(for_llm, written, strict=True)]
    of_llm, own_readings = known[key]
    made = []
    for number, question in enumerate(asking.questions):
        answer, other = vocabularies.to_llm(of_slm[number]), of_llm[number]
        by_slm = [
            _translated(read(slm, for_slm[number], tokens), vocabularies)
            for tokens in (of_slm[number], vocabularies.to_slm(other))
        ]
        texts = [str(llm.tokenizer.decode(tokens)) for tokens in (answer, other)]
        is_right = question.is_right or agrees(texts[1])
        own = Text(answer, is_right(texts[0]), by_slm[0], read(llm, for_llm[number], answer))
        theirs = Text(other, is_right(texts[1]), by_slm[1], own_readings[number])
        made.append(Sample(len(for_llm[number]), own, theirs))
        asking.on_read()
    return made


def _written(model: Loaded, prompts: Sequence[list[int]], asking: Asking) -> list[list[int]]:
    return answers(model, prompts, asking.max_new_tokens, lambda num: asking.on_written(model.name, num))


def _translated(reading: Reading, vocabularies: Vocabularies) -> Reading:
    """What the SLM says, with its likeliest tokens in the LLM's ids."""
    if not vocabularies.is_mapped:
        return reading
    return replace(reading, top=np.array(vocabularies.matching.to_llm, np.int64)[reading.top])
