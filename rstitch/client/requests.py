"""Writes the requests of a client as the contract's messages; shared by the sync and the async client.

It checks only what cannot be said in a message; whether a value is allowed is the router's to judge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rstitch.client import chats
from rstitch.client import types as t
from rstitch.client.reading import plain_fields
from rstitch.client.specs import name_of
from rstitch.errors import invalid
from rstitch.v1 import common_pb2, router_pb2


def generate_request(
    text: str | None = None,
    *,
    chat: t.ChatInput | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    documents: Sequence[Mapping[str, Any]] = (),
    chat_template_kwargs: Mapping[str, Any] | None = None,
    tokens: Sequence[int] | None = None,
    policy: t.Policy | None = None,
    early_exit: t.EarlyExit | None = None,
    budget: t.Budget | None = None,
    sampling: t.Sampling | None = None,
    max_new_tokens: int = 0,
    stop: Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
    json_schema: str = "",
    guard: bool | None = None,
    session_id: str = "",
    only_if_new: bool = False,
    request_id: str = "",
    cache_salt: str = "",
    keep_consultations: int = 0,
    details: t.Details | None = None,
    on_disconnect: str | None = None,
    gather_ms: int = 0,
) -> router_pb2.GenerateRequest:
    """Writes a text and a `Question` as a message. Raises: InvalidArgument naming the argument."""
    if sum(given is not None for given in (text, chat, tokens)) != 1:
        raise invalid("input", "one of text, chat and tokens is needed.", "Give exactly one of them.")
    beside: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "tools": (tools, chats.structs),
        "documents": (documents, chats.structs),
        "chat_template_kwargs": (chat_template_kwargs, chats.struct),
    }
    for field, (given, _) in beside.items():
        if given and chat is None:
            raise invalid(field, "only a chat template takes it.", "Give chat, not text or tokens.")
    if isinstance(stop, str):
        raise invalid("stop", "stop is a list of strings, not one string.", f"Write stop=({stop!r},).")
    request = router_pb2.GenerateRequest()
    request.only_if_new = only_if_new
    texts = {"session_id": session_id, "request_id": request_id, "cache_salt": cache_salt, "json_schema": json_schema}
    numbers = {"max_new_tokens": max_new_tokens, "keep_consultations": keep_consultations, "gather_ms": gather_ms}
    for field, value in (texts | numbers).items():
        with _naming(field):
            setattr(request, field, value)
    if text is not None:
        with _naming("text"):
            request.text = text
    optional: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "chat": (chat, lambda given: router_pb2.Chat(messages=map(chats.chat_message, given))),
        "tokens": (tokens, lambda given: router_pb2.TokenIds(ids=given)),
        "policy": (policy, policy_message),
        "early_exit": (early_exit, early_exit_message),
        "budget": (budget, budget_message),
        "sampling": (sampling, lambda given: common_pb2.Sampling(**plain_fields(given))),
        "details": (details, lambda given: router_pb2.Details(**dataclasses.asdict(given))),
    }
    for field, (given, message_of) in optional.items():
        if given is not None:
            with _naming(field):
                getattr(request, field).CopyFrom(message_of(given))
    for field, (given, message_of) in beside.items():
        if given:
            with _naming(field):
                request.chat.MergeFrom(router_pb2.Chat(**{field: message_of(given)}))
    with _naming("stop"):
        request.stop.extend(stop)
    with _naming("stop_token_ids"):
        request.stop_token_ids.extend(stop_token_ids)
    if guard is not None:
        request.guard = router_pb2.GUARD_ON if guard else router_pb2.GUARD_OFF
    if on_disconnect is not None:
        wishes = {"continue": router_pb2.ON_DISCONNECT_CONTINUE, "stop": router_pb2.ON_DISCONNECT_STOP}
        if on_disconnect not in wishes:
            remedy = "Give 'continue' or 'stop', or leave it out."
            raise invalid("on_disconnect", f"{on_disconnect!r} is neither.", remedy)
        request.on_disconnect = wishes[on_disconnect]
    return request


def attach_request(session_id: str, resume_from: int, request_id: str = "") -> router_pb2.GenerateRequest:
    """Writes the wish to go on with an answer at a position. Raises: InvalidArgument."""
    with _naming("resume_from"):
        return router_pb2.GenerateRequest(session_id=session_id, resume_from=resume_from, request_id=request_id)


def trajectory_request(session_id: str, consultations: bool, details: bool) -> router_pb2.GetTrajectoryRequest:
    """Writes which trajectory is wanted, and what beside its tokens."""
    return router_pb2.GetTrajectoryRequest(session_id=session_id, consultations=consultations, details=details)


def observe_request(
    tau: float,
    *,
    session_id: str = "",
    chat: t.ChatInput | None = None,
    text: str | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    documents: Sequence[Mapping[str, Any]] = (),
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> router_pb2.ObserveAnswerRequest:
    """Writes which answer is to be observed, a session's or a given one. Raises: InvalidArgument."""
    request = router_pb2.ObserveAnswerRequest()
    with _naming("tau"):
        request.tau = tau
    if chat is None and text is None and session_id:
        with _naming("session_id"):
            request.session_id = session_id
        return request
    if chat is None or text is None or session_id:
        remedy = "Give session_id, or chat and text."
        raise invalid("answer", "a session is needed, or a chat with the text of its answer.", remedy)
    template = {"tools": tools, "documents": documents, "chat_template_kwargs": chat_template_kwargs}
    request.given.chat.CopyFrom(generate_request(chat=chat, **template).chat)  # type: ignore[arg-type]
    with _naming("text"):
        request.given.text = text
    return request


def tokenize_request(
    text: str | None, chat: t.ChatInput | None, model: t.Model, template: t.TemplateArguments
) -> router_pb2.TokenizeRequest:
    """Writes what is to be tokenized, a text or a chat, and by whose tokenizer. Raises: InvalidArgument."""
    asked = generate_request(text, chat=chat, **template)
    given = {"text": asked.text} if chat is None else {"chat": asked.chat}
    return router_pb2.TokenizeRequest(model=f"MODEL_{model.name}", **given)


def detokenize_request(tokens: Sequence[int], model: t.Model) -> router_pb2.DetokenizeRequest:
    """Writes which ids are to be read. Raises: InvalidArgument."""
    with _naming("tokens"):
        return router_pb2.DetokenizeRequest(tokens=tokens, model=f"MODEL_{model.name}")


def label_request(session_id: str, right: bool | None) -> router_pb2.LabelTrajectoryRequest:
    """Writes whether an answer was right; None: it has no label any more."""
    label = t.Label.UNSPECIFIED if right is None else t.Label.RIGHT if right else t.Label.WRONG
    with _naming("session_id"):
        return router_pb2.LabelTrajectoryRequest(session_id=session_id, label=f"LABEL_{label.name}")


def put_profile_request(kept: t.KeptProfile) -> router_pb2.PutProfileRequest:
    """Writes the request to keep a profile."""
    m = router_pb2.Profile(
        name=kept.name,
        policy=policy_message(kept.policy),
        early_exit=None if kept.early_exit is None else early_exit_message(kept.early_exit),
        budget=None if kept.budget is None else budget_message(kept.budget),
        description=kept.description,
    )
    return router_pb2.PutProfileRequest(profile=m)


def store_head_request(
    name: str, data: bytes, active: bool, ttl_s: int, description: str
) -> router_pb2.StoreHeadRequest:
    """Writes the request to keep a head. Raises: InvalidArgument naming the argument."""
    request = router_pb2.StoreHeadRequest(inactive=not active)
    for field, value in (("name", name), ("data", data), ("ttl_s", ttl_s), ("description", description)):
        with _naming(field):
            setattr(request, field, value)
    return request


def policy_message(policy: t.Policy) -> router_pb2.Policy:
    """Writes a policy as a message. Raises: TypeError if it is none."""
    if not isinstance(policy, t.Policy):
        raise TypeError(f"{policy!r} is no policy")
    if isinstance(policy, t.Profile):
        return router_pb2.Policy(profile=policy.name)
    fields = dataclasses.asdict(policy)
    if isinstance(policy, t.Threshold):
        fields["signal"] = f"SIGNAL_{policy.signal.upper()}"
    kind = type(policy)  # its message has the same name and fields
    return router_pb2.Policy(**{name_of(kind): getattr(router_pb2, kind.__name__)(**fields)})


def early_exit_message(value: t.EarlyExit) -> router_pb2.EarlyExit:
    """Writes early exit as a message."""
    return router_pb2.EarlyExit(**dataclasses.asdict(value))


def budget_message(value: t.Budget) -> router_pb2.Budget:
    """Writes a budget as a message."""
    then = router_pb2.BUDGET_THEN_STOP if value.stop else router_pb2.BUDGET_THEN_UNSPECIFIED
    return router_pb2.Budget(llm_tokens=value.llm_tokens, max_switches=value.max_switches, then=then)


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Names the field whose value is of the wrong type, out of its number's range or not encodable as UTF-8."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise invalid(field, f"cannot be sent: {error}.", "Give what its type takes; a number is 0 or more.") from error
