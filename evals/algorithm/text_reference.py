"""Algorithm 1 over two models whose tokenizers have nothing in common: they hand over through text.

The oracle of the served system for such pairs, as `reference.py` is for pairs that share their ids: no cache, no batch,
no service, no torch. It departs from that in two things:

1. Whoever becomes the writer reads its own prompt, then the answer's text so far by its own tokenizer, then its own
   tokens. That also holds where it hands over again at once.
2. The writer changes only where the answer's text ends with a whole character. Until then the writer goes on, also
   where the SLM is unsure or a budget is spent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from evals.algorithm.reference import NO_BUDGET, Answer, Author, Budget, EarlyExit, Proposal, Rule, Token

# More tokens than this without a whole character behind them are no text: nobody waits for them.
MAX_WITHIN_CHARACTER = 15


class TextModel(Protocol):
    """A language model with a tokenizer of its own."""

    @property
    def stop_tokens(self) -> Collection[int]:
        """End the answer and are kept; nobody else reads them."""

    def next(self, tokens: Sequence[int]) -> Proposal:
        """The proposal for the position behind `tokens`, at least one."""

    def encode(self, text: str) -> list[int]:
        """Tokens of text that continues other text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens that continue other text, special ones spelled out; U+FFFD where bytes are no characters."""


@dataclass(slots=True)
class TextAnswer(Answer):
    """An answer as far as it is written; `tokens` are what its writer reads.

    Attributes:
        segments: who wrote, and what tokens came of it; none where the writer handed over at once.
    """

    segments: list[tuple[Author, list[int]]] = field(default_factory=list)


def stitch_text(
    models: Mapping[Author, TextModel],
    prompts: Mapping[Author, Sequence[int]],
    rule: Rule,
    *,
    max_new_tokens: int,
    start: int = 0,
    budget: Budget = NO_BUDGET,
    context_lengths: Mapping[Author, int] | None = None,
    early_exit: Mapping[Author, EarlyExit] | None = None,
) -> TextAnswer:
    """Decodes greedily.

    Args:
        prompts: what each model reads before the answer, in its own token ids.
        max_new_tokens: only kept tokens count.
        start: the position of the answer's first token, for a rule that looks at positions.
        context_lengths: how many tokens each model can read; an answer ends where its writer can read no more.
        early_exit: in each model's tokens; whoever writes behind a boundary tries an answer.
    """
    first = rule.first(start) if budget.llm_tokens else "slm"
    answer = TextAnswer(list(prompts[first]), first, segments=[(first, [])])

    def complete() -> bool:
        last = answer.written[-1] if answer.written else None
        stopped = last is not None and last.id in models[last.model].stop_tokens  # an id is its author's
        is_full = context_lengths is not None and len(answer.tokens) >= context_lengths[answer.writer]
        return stopped or is_full or len(answer.written) >= max_new_tokens or answer.is_over_budget

    def pass_to(writer: Author) -> Author | None:
        """Returns who writes next; None: nobody, since the budget is spent."""
        if writer == "llm" and not budget.allows_llm(answer):
            answer.is_over_budget, writer = budget.ends, "slm"
        if writer != answer.writer and not answer.is_over_budget:
            answer.num_switches += 1
            answer.writer = writer
            answer.tokens = [*prompts[writer], *models[writer].encode(text_of(answer.segments, models))]
            answer.segments.append((writer, []))
        return None if answer.is_over_budget else writer

    def keep(tokens: Sequence[Token]) -> None:
        answer.written += tokens
        answer.tokens += [token.id for token in tokens]
        segment = answer.segments[-1][1]
        segment += [token.id for token in tokens]
        if not complete() and not is_within_character(models[answer.writer], segment):
            pass_to(rule.following(answer.writer, tokens[-1].uncertainty, start + len(answer.written)))

    while not complete():
        model, segment = models[answer.writer], answer.segments[-1][1]
        proposal = model.next(answer.tokens)
        value = rule.value(proposal, answer.written)
        discards = answer.writer == "slm" and rule.discards(value, answer.tokens)
        if discards and not is_within_character(model, segment) and pass_to("llm") != "slm":
            continue
        keep([Token(proposal.token, answer.writer, proposal.entropy, value)])
        if early_exit is not None and not complete():
            room: float = max_new_tokens - len(answer.written)
            if answer.writer == "llm":
                room = min(room, budget.llm_tokens - answer.num_llm_tokens)
            if trial := _trial(models, answer, rule, early_exit, room):
                keep(trial)
    return answer


def _trial(
    models: Mapping[Author, TextModel],
    answer: TextAnswer,
    rule: Rule,
    early_exit: Mapping[Author, EarlyExit],
    room: float,
) -> list[Token]:
    """The tokens of an early exit; none if no trial is due or the model is not sure of it."""
    last, own, model = answer.written[-1], early_exit[answer.writer], models[answer.writer]
    at_boundary = any(boundary in models[last.model].decode([last.id]) for boundary in own.boundaries)
    thinking = answer.exited is None and own.thinking_end not in text_of(answer.segments, models)
    most = min(own.max_trial_tokens, room - len(own.prompt))
    if not at_boundary or not thinking or most < 1:
        return []
    trial = [Token(token, answer.writer, 0.0, 0.0) for token in own.prompt]
    probabilities: list[float] = []
    ended = False
    while len(probabilities) < most and not ended:
        proposal = model.next([*answer.tokens, *(token.id for token in trial)])
        value = rule.value(proposal, [*answer.written, *trial])
        trial.append(Token(proposal.token, answer.writer, proposal.entropy, value))
        probabilities.append(proposal.probability)
        ended = proposal.token in model.stop_tokens or own.end in model.decode([proposal.token])
    answer.num_trials += 1
    answer.num_trial_tokens += len(trial)
    confidence = sum(probabilities) / len(probabilities)
    if confidence <= own.threshold:
        return []
    answer.exited = len(answer.written), confidence  # behind so many tokens of the answer
    return trial


def read_by(author: Author, answer: TextAnswer, models: Mapping[Author, TextModel]) -> list[int]:
    """A finished answer as a model reads it in the next turn: the last segment as it wrote that itself, if it did."""
    segments = [(writer, tokens) for writer, tokens in answer.segments if tokens]
    own = segments.pop()[1] if segments and segments[-1][0] == author else []
    return [*models[author].encode(text_of(segments, models)), *own]


def text_of(segments: Sequence[tuple[Author, Sequence[int]]], models: Mapping[Author, TextModel]) -> str:
    """What others read of an answer."""
    texts = []
    for author, tokens in segments:
        model = models[author]
        texts.append(model.decode([token for token in tokens if token not in model.stop_tokens]))
    return "".join(texts)


def is_within_character(model: TextModel, segment: Sequence[int]) -> bool:
    """Whether a segment ends within a character: its text with U+FFFD, and has so for no more than a few tokens."""
    num = 0
    while num < len(segment) and model.decode(segment[: len(segment) - num]).endswith("\ufffd"):
        num += 1
    return 0 < num <= MAX_WITHIN_CHARACTER
