"""From a request's body to the question that the router is asked; what we cannot do is refused by name, at once."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request as HTTPRequest

from gateway.errors import ApiError, bad
from gateway.names import spec_of
from gateway.openai.formats import schema_of
from gateway.openai.messages import chat_of
from gateway.openai.requests import ChatRequest, CompletionRequest, Request, RstitchOptions
from rstitch.client import Budget, EarlyExit, Profile, Sampling, Threshold
from rstitch.client.question import Question
from rstitch.client.specs import Spec, parse
from rstitch.errors import RstitchError

POLICY_HEADER, SESSION_HEADER = "x-rstitch-policy", "x-session-id"
IDEMPOTENCY_HEADER = "idempotency-key"
_MAX_STOPS = 4
# Of a plain completion that does not say how long it may be: OpenAI's own.
_FEW_TOKENS = 16


def chat_questions(request: ChatRequest, headers: Mapping[str, str], served: Sequence[str]) -> list[Question]:
    """Makes a question for each of the `n` choices. Raises: ApiError naming the parameter at fault."""
    _refuse_of_chat(request)
    question: Question = {"chat": chat_of(request.messages)}
    if request.chat_template_kwargs:
        question["chat_template_kwargs"] = request.chat_template_kwargs
    if request.documents:
        question["documents"] = request.documents
    if (schema := schema_of(request.response_format)) is not None:
        question["json_schema"] = schema
    limit = request.max_completion_tokens or request.max_tokens
    return _questions(request, question, limit, headers, served)


def completion_questions(
    request: CompletionRequest, headers: Mapping[str, str], served: Sequence[str]
) -> list[tuple[str | None, Question]]:
    """Makes, for each prompt and each of its `n` choices, a text (None: the question has tokens) and a question."""
    _refuse_of_completion(request)
    made: list[tuple[str | None, Question]] = []
    for prompt in _prompts(request.prompt):
        question: Question = {} if isinstance(prompt, str) else {"tokens": prompt}
        for each in _questions(request, question, request.max_tokens or _FEW_TOKENS, headers, served):
            made.append((prompt if isinstance(prompt, str) else None, each))
    if len(made) > 1 and made[0][1].get("session_id"):
        raise bad("prompt", "several answers cannot be written in one session.", "Send one, or name no session.")
    return made


def idempotent_id(key: str, request: HTTPRequest, body: bytes) -> str:
    """Gives the id of a request that may come twice: the same key, path, policy, session and body have the same.

    It is also the id of its session if it names none.
    """
    headers = (request.headers.get(name, "") for name in (POLICY_HEADER, SESSION_HEADER))
    told = "\0".join((key, request.url.path, *headers))
    digest = hashlib.sha256(told.encode() + b"\0" + body).hexdigest()
    return f"idem-{digest[:40]}"


def _questions(
    request: Request, question: Question, limit: int | None, headers: Mapping[str, str], served: Sequence[str]
) -> list[Question]:
    own = request.rstitch or RstitchOptions()
    spec = _spec(request, own, headers, served)
    question |= {"policy": spec.policy, "budget": spec.budget, "early_exit": spec.early_exit, "guard": own.guard}
    question["on_disconnect"] = own.on_disconnect or "stop"
    question["stop"] = _stops(request.stop, own.stop)
    if limit is not None:
        question["max_new_tokens"] = limit
    if request.stop_token_ids:
        question["stop_token_ids"] = request.stop_token_ids
    if request.cache_salt:
        question["cache_salt"] = request.cache_salt
    session_id = own.session_id or headers.get(SESSION_HEADER, "")
    if session_id:
        question["session_id"] = session_id
    return _choices(request, question)


def _choices(request: Request, question: Question) -> list[Question]:
    num, temperature, seed = request.n or 1, request.temperature or 0.0, request.seed or 0
    if temperature and request.seed is None:
        seed = secrets.randbits(63)  # who asks again wants another answer
    sampling = Sampling(
        temperature,
        request.top_p or 0.0,
        max(request.top_k or 0, 0),
        seed % (1 << 64),
        request.min_p or 0.0,
        {int(token): bias for token, bias in (request.logit_bias or {}).items()} or None,
        request.presence_penalty or 0.0,
        request.frequency_penalty or 0.0,
        request.repetition_penalty or 0.0,
    )
    if num == 1:
        return [question | {"sampling": sampling}]
    if not temperature:
        raise bad("n", f"{num} greedy answers are {num} times the same.", "Send a temperature over 0, or n=1.")
    if question.get("session_id"):
        raise bad("n", "several answers cannot be written in one session.", "Send n=1, or name no session.")
    seeds = ((seed + index) % (1 << 64) for index in range(num))
    return [question | {"sampling": dataclasses.replace(sampling, seed=each)} for each in seeds]


def _spec(request: Request, own: RstitchOptions, headers: Mapping[str, str], served: Sequence[str]) -> Spec:
    """Who writes: what the body says goes before the header, and that before the model's name."""
    spec = spec_of(request.model, served)
    if word := headers.get(POLICY_HEADER, ""):
        spec = _parsed(word, POLICY_HEADER)
    given = [name for name in ("policy", "tau", "profile") if getattr(own, name) is not None]
    if len(given) > 1:
        raise bad(f"rstitch.{given[1]}", f"there is rstitch.{given[0]}, too.", "Say in one way who writes.")
    if own.policy is not None:
        spec = _parsed(own.policy, "rstitch.policy")
    elif own.tau is not None:
        spec = dataclasses.replace(spec, policy=Threshold(own.tau))
    elif own.profile is not None:
        spec = dataclasses.replace(spec, policy=Profile(own.profile))
    if own.budget is not None:
        spec = dataclasses.replace(spec, budget=Budget(**_known(own.budget)))
    if own.early_exit is not None:
        known = _known(own.early_exit)
        known["boundaries"] = tuple(known["boundaries"])
        spec = dataclasses.replace(spec, early_exit=EarlyExit(**known))
    return spec


def _known(options: Any) -> dict[str, Any]:
    if unknown := sorted(options.model_extra or ()):
        raise bad(f"rstitch.{unknown[0]}", "nobody knows it.", "Leave it out.", "unknown_parameter")
    return {name: getattr(options, name) for name in type(options).model_fields}


def _parsed(word: str, param: str) -> Spec:
    try:
        return parse(word)
    except RstitchError as error:
        raise ApiError(400, f"{param}: {error}", param, "invalid_value") from None


def _stops(theirs: str | list[str] | None, ours: list[str] | None) -> tuple[str, ...]:
    stops = [theirs] if isinstance(theirs, str) else list(theirs or ())
    if len(stops) > _MAX_STOPS:
        raise bad("stop", f"{len(stops)} are too many.", f"Send at most {_MAX_STOPS}, or rstitch.stop, at most 16.")
    if "" in stops:
        raise bad("stop", "an empty text would end every answer.", "Leave it out.")
    return tuple(dict.fromkeys([*stops, *(ours or ())]))


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise bad("prompt", "it is empty.", "Send a text, token ids, or a list of either.")
    if isinstance(prompt[0], int):
        return [prompt]
    if len(prompt) > 64:
        raise bad("prompt", f"{len(prompt)} prompts are too many.", "Send at most 64 at once.")
    return list(prompt)


def _refuse(param: str, what: str) -> ApiError:
    return bad(param, what, "Leave it out.", "unsupported_parameter")


def _refuse_common(request: Request) -> None:
    if request.stream_options is not None and not request.stream:
        raise bad("stream_options", "nothing is streamed.", "Send stream=true with it.")


def _refuse_of_chat(request: ChatRequest) -> None:
    _refuse_common(request)
    if request.top_logprobs is not None and not request.logprobs:
        raise bad("top_logprobs", "logprobs is not asked for.", "Send logprobs=true with it.")
    if request.tools and request.tool_choice != "none":
        raise _refuse("tools", "calls of tools are not supported.")
    if request.functions and request.function_call != "none":
        raise _refuse("functions", "calls of functions are not supported.")
    for name, choice, things in (
        ("tool_choice", request.tool_choice, request.tools),
        ("function_call", request.function_call, request.functions),
    ):
        if choice not in (None, "none", "auto") and not things:
            raise _refuse(name, "there is nothing to be called.")
    if request.modalities and set(request.modalities) != {"text"}:
        raise _refuse("modalities", "only text can be answered.")
    for name in ("audio", "web_search_options"):
        if getattr(request, name):
            raise _refuse(name, "it is not supported.")


def _refuse_of_completion(request: CompletionRequest) -> None:
    _refuse_common(request)
    if request.suffix:
        raise _refuse("suffix", "text is only written at the end.")
    if (request.best_of or 1) > 1:
        raise _refuse("best_of", "answers are not chosen among.")
