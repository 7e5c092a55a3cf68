"""From a question to each model's prompt, in its own tokens by its own template, and how much may be written after it.

It knows neither wire nor store.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from router_svc.answers.request import Chat, Text, Tokens
from router_svc.text.tokenizer import Tokenizer
from router_svc.text.views import SessionTokens, View
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model, ModelPrompt, PromptNotes, Trajectory
from rstitch.errors import RstitchError, invalid


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the trajectory keeps it, and how long each model's view is where the answer begins."""

    tokens: array[int]
    notes: PromptNotes | None
    lengths: Mapping[Model, int]


def make_prompt(
    asked: Text | Chat | Tokens, vocabularies: Vocabularies, before: Trajectory | None, *, each_its_own: bool
) -> Prompt:
    """Makes what is put behind the session so far; the SLM's is the LLM's unless it has its own.

    Raises RstitchError for input that makes no tokens or unknown ones.
    """
    session = SessionTokens(before.chunks if before is not None else (), vocabularies)
    llm = _prompt_of(Model.LLM, asked, vocabularies, session)
    slm = _of_slm(asked, vocabularies, session, llm, each_its_own=each_its_own)
    whole = len(session.views[Model.LLM].tokens)
    llm_num_before = llm.num_before if llm.num_before < whole else None
    notes = PromptNotes(llm_num_before, slm, "")
    return Prompt(
        llm.tokens,
        notes if notes != PromptNotes() else None,
        {
            model: prompt.num_before + len(prompt.tokens)
            for model, prompt in ((Model.LLM, llm), (Model.SLM, slm or llm))
        },
    )


def _of_slm(
    asked: Text | Chat | Tokens,
    vocabularies: Vocabularies,
    session: SessionTokens,
    llm: ModelPrompt,
    *,
    each_its_own: bool,
) -> ModelPrompt | None:
    """The SLM's prompt; None where it has the LLM's tokens behind the same view."""
    view, read_by_llm = session.views[Model.SLM], session.views[Model.LLM].tokens
    is_one = vocabularies.tokenizer(Model.SLM) is vocabularies.tokenizer(Model.LLM)
    if vocabularies.is_through_text or not (is_one or not each_its_own or isinstance(asked, Tokens)):
        own = _prompt_of(Model.SLM, asked, vocabularies, session)
    elif view.is_shared:
        return None
    elif view.tokens == view.to_own(read_by_llm):
        whole = view.to_own(read_by_llm[: llm.num_before] + llm.tokens)
        num = num_common(view.tokens, whole)
        own = ModelPrompt(num, whole[num:])
    else:
        own = ModelPrompt(len(view.tokens), view.to_own(llm.tokens))
    same = own == llm and view.tokens == read_by_llm
    return None if same and not vocabularies.is_mapped else own


def _prompt_of(
    model: Model, asked: Text | Chat | Tokens, vocabularies: Vocabularies, session: SessionTokens
) -> ModelPrompt:
    """What one model is given of the question."""
    tokenizer, view = vocabularies.tokenizer(model), session.views[model]
    match asked:
        case Text(text):
            field, prompt = "text", tokenizer.encode(text, begins=not view.tokens)
        case Chat():
            field, prompt = "chat", _chat(asked, tokenizer, view, vocabularies.sides[model].stop_tokens)
        case Tokens(ids):
            field, prompt = "tokens.ids", _given(ids, model, vocabularies, begins=not view.tokens)
    if not prompt:
        raise invalid(field, "the prompt is empty.", "Send at least one token.")
    size = vocabularies.sides[model].size
    if (most := max(prompt)) >= size:
        what = f"token id {most} is outside the {model.name}'s vocabulary of {size}."
        raise invalid(field, what, f"Send ids below {size}, made with the models' tokenizer.")
    return ModelPrompt(len(view.tokens), prompt)


def _chat(asked: Chat, tokenizer: Tokenizer, view: View, stop_tokens: frozenset[int]) -> array[int]:
    if not view.tokens:
        return tokenizer.chat(asked.messages)
    last = view.tokens[-1]
    return tokenizer.chat_after(asked.messages, last, last in stop_tokens)


def _given(ids: array[int], model: Model, vocabularies: Vocabularies, *, begins: bool) -> array[int]:
    """Tokens of a model for ids of the LLM that were sent as they are."""
    if model is Model.LLM:
        vocabularies.check_prompt("tokens.ids", ids)
        return ids
    text = vocabularies.tokenizer(Model.LLM).spelled(ids)
    return vocabularies.tokenizer(model).encode(text, begins=begins)


def num_common(left: array[int], right: array[int]) -> int:
    """How many tokens two rows begin with in common."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(left), len(right)))


def budget_for(prompt: Prompt, max_new_tokens: int, default: int, context_lengths: Mapping[Model, int]) -> int:
    """How many tokens may be written after a prompt. Raises RstitchError (OUT_OF_RANGE) if too few."""
    left, model = min((context_lengths[model] - prompt.lengths[model], model) for model in Model)
    num_tokens, context_length = prompt.lengths[model], context_lengths[model]
    if left < max(1, max_new_tokens):
        wanted = f"{num_tokens} tokens of prompt" + (f" and {max_new_tokens} new ones" if max_new_tokens else "")
        raise RstitchError(
            grpc.StatusCode.OUT_OF_RANGE,
            "CONTEXT_FULL",
            f"{wanted} do not fit the models' context of {context_length} tokens.",
            field="max_new_tokens" if left >= 1 else "input",
            remedy=f"Ask for at most {left} new tokens." if left >= 1 else "Shorten the prompt or begin a new session.",
        )
    return max_new_tokens or min(default, left)
