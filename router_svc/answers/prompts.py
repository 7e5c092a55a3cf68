"""From a question to each model's prompt, in its own tokens by its own template, and how much may be written after it.

It knows neither wire nor store.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from router_svc.answers.request import Chat, Text, Tokens
from router_svc.text.conversation import answered, first_prompt, next_prompt
from router_svc.text.encoding import TooLong
from router_svc.text.session_tokens import SessionTokens
from router_svc.text.tokenizer import Tokenizer
from router_svc.text.turns import Turn
from router_svc.text.views import View
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model, ModelPrompt, PromptNotes, Source, Trajectory, common_prefix
from rstitch.errors import RstitchError, invalid


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the trajectory keeps it, and how long each model's view is where the answer begins."""

    tokens: array[int]
    notes: PromptNotes | None
    lengths: Mapping[Model, int]


def make_prompt(
    asked: Text | Chat | Tokens,
    vocabularies: Vocabularies,
    before: Trajectory | None,
    context_lengths: Mapping[Model, int],
    *,
    each_its_own: bool,
) -> Prompt:
    """Makes what is put behind the session so far; the SLM's is the LLM's unless it has its own.

    Raises RstitchError for input that makes no tokens or unknown ones, or more than a model's context has, which is
    seen before they are all made.
    """
    chunks = before.chunks if before is not None else ()
    session = SessionTokens(chunks, vocabularies)
    prompts = [chunk for chunk in chunks if chunk.source is Source.PROMPT]
    turns = [chunk.notes.turn if chunk.notes else "" for chunk in prompts]
    making = _Making(asked, vocabularies, session, turns, context_lengths)
    llm = making.prompt_of(Model.LLM)
    slm = making.of_slm(llm, each_its_own=each_its_own)
    llm_num_before = llm.num_before if llm.num_before < len(session.views[Model.LLM].tokens) else None
    notes = PromptNotes(llm_num_before, slm, asked.turn.to_json() if isinstance(asked, Chat) else "")
    return Prompt(
        llm.tokens,
        notes if notes != PromptNotes() else None,
        {model: one.num_before + len(one.tokens) for model, one in ((Model.LLM, llm), (Model.SLM, slm or llm))},
    )


def first_prompt_of(
    asked: Text | Chat, model: Model, vocabularies: Vocabularies, context_lengths: Mapping[Model, int]
) -> array[int]:
    """What a model is given of the first question of a session, by its own tokenizer and template.

    Raises RstitchError as `make_prompt` does.
    """
    making = _Making(asked, vocabularies, SessionTokens((), vocabularies), [], context_lengths)
    return making.prompt_of(model).tokens


@dataclass(frozen=True, slots=True)
class _Making:
    """What the prompts of a question are made from."""

    asked: Text | Chat | Tokens
    vocabularies: Vocabularies
    session: SessionTokens
    turns: list[str]  # of the session so far, as stored; "" for raw text or tokens
    context_lengths: Mapping[Model, int]

    def of_slm(self, llm: ModelPrompt, *, each_its_own: bool) -> ModelPrompt | None:
        """The SLM's prompt; None where it has the LLM's tokens behind the same view."""
        vocabularies = self.vocabularies
        view, read_by_llm = self.session.views[Model.SLM], self.session.views[Model.LLM].tokens
        is_one = vocabularies.tokenizer(Model.SLM) is vocabularies.tokenizer(Model.LLM)
        is_taken_over = is_one or not each_its_own or isinstance(self.asked, Tokens)
        is_own = vocabularies.is_through_text or not is_taken_over
        own = self.prompt_of(Model.SLM) if is_own else self._taken_over(llm, view, read_by_llm)
        same = own == llm and (view.is_shared or view.tokens == read_by_llm)
        return None if same and not vocabularies.is_mapped else own

    def _taken_over(self, llm: ModelPrompt, view: View, read_by_llm: array[int]) -> ModelPrompt:
        """The LLM's prompt in the SLM's ids. Raises RstitchError for a token that the SLM does not have."""
        unshared = self.vocabularies.first_unshared(llm.tokens)
        if unshared is not None:
            remedy = "Leave it out; or start the router with --prompt own, and send text or chat."
            raise invalid(self.field, self.vocabularies.told_unshared(llm.tokens[unshared]), remedy)
        if view.is_shared:
            return llm
        if view.tokens != view.to_own(read_by_llm):
            return ModelPrompt(len(view.tokens), view.to_own(llm.tokens))
        whole = view.to_own(read_by_llm[: llm.num_before] + llm.tokens)
        num = common_prefix(view.tokens, whole)
        return ModelPrompt(num, whole[num:])

    @property
    def field(self) -> str:
        """The request's field that was asked with."""
        return {Text: "text", Chat: "chat", Tokens: "tokens.ids"}[type(self.asked)]

    def prompt_of(self, model: Model) -> ModelPrompt:
        """What one model is given of the question, by its own tokenizer and template."""
        try:
            made = self._made(model)
        except TooLong as error:
            raise _does_not_fit(f"more than {error.most} tokens of prompt", error.most) from None
        if not made.tokens:
            raise invalid(self.field, "the prompt is empty.", "Send at least one token.")
        size = self.vocabularies.sides[model].size
        if (most := max(made.tokens)) >= size:
            what = f"token id {most} is outside the {model.name}'s vocabulary of {size}."
            raise invalid(self.field, what, f"Send ids below {size}, made with the models' tokenizer.")
        return made

    def _made(self, model: Model) -> ModelPrompt:
        tokenizer, view = self.vocabularies.tokenizer(model), self.session.views[model]
        begins, most = not self.turns, self.context_lengths[model]
        match self.asked:
            case Text(text):
                return ModelPrompt(len(view.tokens), tokenizer.encode(text, begins=begins, most=most))
            case Chat(turn) if begins:
                return ModelPrompt(0, first_prompt(tokenizer, turn, most))
            case Chat(turn):
                return self._next_turn(turn, model, tokenizer, view)
            case Tokens(ids):
                return ModelPrompt(len(view.tokens), self._given(ids, model, begins=begins))

    def _next_turn(self, newest: Turn, model: Model, tokenizer: Tokenizer, view: View) -> ModelPrompt:
        """The whole conversation as the model's template renders it, but for the answers' own tokens."""
        ends = frozenset(view.to_own(self.vocabularies.stop_tokens[model]))
        turns, num_raw = [], 0
        for text, answer in zip(self.turns, view.answers(), strict=True):
            turn = Turn.from_json(text) if text else Turn()
            ended = bool(answer.tokens) and answer.tokens[-1] in ends
            turns.append(turn.answered(answered(tokenizer, answer.tokens, ended=ended)))
            num_raw = answer.end if turn.is_raw else num_raw
        made = next_prompt(tokenizer, [*turns, newest], view.tokens, num_raw, self.context_lengths[model])
        return ModelPrompt(made.num_before, made.tokens)

    def _given(self, ids: array[int], model: Model, *, begins: bool) -> array[int]:
        """Tokens of a model for ids of the LLM that were sent as they are."""
        if model is Model.LLM:
            self.vocabularies.check_prompt("tokens.ids", ids)
            return ids
        text = self.vocabularies.tokenizer(Model.LLM).spelled(ids)
        return self.vocabularies.tokenizer(model).encode(text, begins=begins, most=self.context_lengths[model])


def budget_for(prompt: Prompt, max_new_tokens: int, default: int, context_lengths: Mapping[Model, int]) -> int:
    """How many tokens may be written after a prompt. Raises RstitchError (OUT_OF_RANGE) if too few."""
    left, model = min((context_lengths[model] - prompt.lengths[model], model) for model in Model)
    num_tokens, context_length = prompt.lengths[model], context_lengths[model]
    if left < max(1, max_new_tokens):
        wanted = f"{num_tokens} tokens of prompt" + (f" and {max_new_tokens} new ones" if max_new_tokens else "")
        raise _does_not_fit(wanted, context_length, left)
    return max_new_tokens or min(default, left)


def check_size(num_tokens: int, context_lengths: Mapping[Model, int]) -> None:
    """Raises RstitchError (OUT_OF_RANGE) for so many ids in a prompt, if they are more than either model reads."""
    most = min(context_lengths.values())
    if num_tokens > most:
        raise _does_not_fit(f"{num_tokens} tokens of prompt", most)


def _does_not_fit(wanted: str, context_length: int, left: int = 0) -> RstitchError:
    return RstitchError(
        grpc.StatusCode.OUT_OF_RANGE,
        "CONTEXT_FULL",
        f"{wanted} do not fit the models' context of {context_length} tokens.",
        field="max_new_tokens" if left >= 1 else "input",
        remedy=f"Ask for at most {left} new tokens." if left >= 1 else "Shorten the prompt or begin a new session.",
    )
