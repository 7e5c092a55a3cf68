"""Requests into the router's own values, or a refusal that names the field and the remedy.

A request is checked in four places, in this order, and the first thing that is wrong is the one that is told:

    api/profiles.py       whether there is the profile that it names, whose policy then takes the name's place
    here                  what the request says by itself: ranges, lengths, fields that exclude each other
    answers/sessions.py   whether it can be answered now: the router is ready and has room, the session is free
    answers/              what needs the session, the models or a head: token ids, whether the prompt fits

Nothing is looked up or changed here, so that a request which cannot be right costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from router_svc.answers.request import Chat, GivenAnswer, Question, Reattach, Text, Tokens
from router_svc.api.chat import chat_size, parse_turn
from router_svc.api.checks import check_probability, check_tau, require, require_known, require_text
from router_svc.api.sampling import parse_sampling
from router_svc.policies.budget import NO_BUDGET, Budget
from router_svc.policies.early_exit import MAX_BOUNDARIES, MAX_CHARS, MAX_TRIAL_TOKENS, EarlyExit, ExitStyle
from router_svc.policies.heads import split_name
from router_svc.policies.kinds import (
    DEFAULT_WINDOW,
    KINDS,
    MAX_DRAFT_TOKENS,
    Confidence,
    Learned,
    LlmOnly,
    Random,
    SlmOnly,
    Speculative,
    Threshold,
)
from router_svc.policies.policy import Policy
from router_svc.trajectory.session_names import session_name
from router_svc.trajectory.types import Label, Model, Signal, tokens_of
from rstitch.errors import RstitchError, invalid
from rstitch.limits import MAX_CONSULTATIONS, MAX_PRICE, MAX_SALT_CHARS, MAX_TOP_LOGPROBS, MAX_WINDOW
from rstitch.v1 import common_pb2, router_pb2

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ID_CHARS = "1 to 128 of the characters A-Z a-z 0-9 . _ -"
_MAX_STOPS = 16
_MAX_STOP_CHARS = 256
_MAX_STOP_TOKENS = 64
_WITHOUT_PRESENCE = (
    "max_new_tokens",
    "stop",
    "guard",
    "cache_salt",
    "stop_token_ids",
    "keep_consultations",
    "on_disconnect",
    "only_if_new",
    "json_schema",
)


def parse_question(request: router_pb2.GenerateRequest, default_tau: float, tenant: str) -> Question:
    """The question of a tenant's that a request without `resume_from` asks. Raises RstitchError."""
    wanted = (
        parse_policy(request.policy, default_tau) if request.HasField("policy") else Threshold(default_tau, default_tau)
    )
    bounds = parse_budget(request.budget) if request.HasField("budget") else NO_BUDGET
    # A budget and a policy are each right by themselves here; together they would end the answer before its first
    # token.
    could_write = not (isinstance(wanted, LlmOnly) and bounds.stop and bounds.llm_tokens == 0)
    require(could_write, "budget.llm_tokens", "llm_only could write nothing.", "Allow a token, or BUDGET_THEN_SLM.")
    num, field = request.keep_consultations, "keep_consultations"
    require(num <= MAX_CONSULTATIONS, field, f"{num} are too many.", f"Keep at most {MAX_CONSULTATIONS}.")
    asks = not num or isinstance(wanted, Learned)
    require(asks, field, f"{wanted.name} asks no head.", "Leave it out, or send policy learned.")
    return Question(
        tenant=tenant,
        session_id=check_session_id(request.session_id, may_be_empty=True),
        input=_parse_input(request),
        policy=wanted,
        sampling=parse_sampling(request.sampling),
        max_new_tokens=request.max_new_tokens,
        stop=_parse_stop(request.stop),
        guard=_parse_guard(request.guard),
        budget=bounds,
        early_exit=parse_early_exit(request.early_exit) if request.HasField("early_exit") else None,
        cache_salt=_parse_salt(request.cache_salt),
        stop_token_ids=_parse_stop_tokens(request.stop_token_ids),
        keep_consultations=num,
        top_logprobs=_parse_details(request.details) if request.HasField("details") else None,
        stops_unread=_parse_on_disconnect(request.on_disconnect),
        num_bytes=_size(request) + len(request.json_schema),
        json_schema=_parse_schema(request),
        only_if_new=request.only_if_new and bool(request.session_id),  # one of the router's is new
        request_id=_parse_request_id(request),
    )


def parse_reattach(request: router_pb2.GenerateRequest, tenant: str) -> Reattach:
    """The answer of a tenant's that a request with `resume_from` joins.

    Raises RstitchError if it asks for anything beside.
    """
    # What has no presence counts as given unless it is 0 or empty.
    given = request.WhichOneof("input")
    if given is None:
        others = ("policy", "early_exit", "sampling", "budget", "details")
        given = next((name for name in others if request.HasField(name)), None)
    if given is None:
        given = next((name for name in _WITHOUT_PRESENCE if getattr(request, name)), None)
    if given is not None:
        raise invalid(
            given,
            "an answer that is gone on with keeps what it was asked for.",
            f"Leave out {given}, or leave out resume_from to ask something new.",
        )
    session_id = check_session_id(request.session_id)
    return Reattach(tenant, session_id, request.resume_from, _parse_request_id(request))


def check_session_id(value: str, *, may_be_empty: bool = False) -> str:
    """The id as it is. Raises RstitchError if it is none: it becomes part of names, Redis keys, logs and spans."""
    if (value or not may_be_empty) and not _ID.fullmatch(value):
        what = f"{value[:140]!r} is no session id." if value else "it is empty."
        raise invalid("session_id", what, f"Use {_ID_CHARS}")
    return value


def parse_observed(request: router_pb2.ObserveAnswerRequest, tenant: str) -> tuple[str | GivenAnswer, float]:
    """The answer that is to be observed, of a session of the tenant's or a given one, and tau. Raises RstitchError."""
    tau = check_tau("tau", request.tau)
    match request.WhichOneof("answer"):
        case "session_id":
            return session_name(tenant, check_session_id(request.session_id)), tau
        case "given":
            require(request.given.text, "given.text", "the answer is empty.", "Send at least one character.")
            try:
                given = request.given
                num_bytes = len(given.text) + chat_size(given.chat)
                return GivenAnswer(tenant, parse_turn(given.chat), given.text, num_bytes), tau
            except RstitchError as error:
                error.field = f"given.{error.field}"
                raise
    raise invalid("answer", "there is none.", "Send the session_id of a finished answer, or a given one.")


def parse_tokenized(request: router_pb2.TokenizeRequest) -> tuple[Text | Chat, Model, int]:
    """What is to be tokenized, for which model, and about how many bytes it has. Raises RstitchError."""
    model = parse_model("model", request.model)
    match request.WhichOneof("input"):
        case "text":
            require(request.text, "text", "the text is empty.", "Send at least one character.")
            return Text(request.text), model, len(request.text)
        case "chat":
            return Chat(parse_turn(request.chat)), model, chat_size(request.chat)
    raise invalid("input", "there is no input.", "Send text or chat.")


def parse_model(field: str, value: common_pb2.Model) -> Model:
    """One of the two models; the LLM where none is named. Raises RstitchError for a number that is neither's."""
    require_known(common_pb2.Model, field, value, "Send MODEL_SLM or MODEL_LLM, or leave it out for the LLM.")
    return Model(value or common_pb2.MODEL_LLM)


def parse_label(value: router_pb2.Label) -> Label | None:
    """Whether an answer was right; None takes that back. Raises RstitchError for a number that says neither."""
    require_known(router_pb2.Label, "label", value, "Send LABEL_RIGHT or LABEL_WRONG, or leave it out to take it back.")
    return Label(router_pb2.Label.Name(value).removeprefix("LABEL_").lower()) if value else None


def _parse_request_id(request: router_pb2.GenerateRequest) -> str:
    value: str = request.request_id
    require(not value or _ID.fullmatch(value), "request_id", f"{value[:140]!r} is none.", f"Use {_ID_CHARS}")
    require(request.session_id or not value, "request_id", "it needs a session.", "Send a session_id, such as a UUID.")
    return value


def _parse_salt(value: str) -> str:
    what = f"{len(value)} characters are too many."
    require(len(value) <= MAX_SALT_CHARS, "cache_salt", what, f"Send at most {MAX_SALT_CHARS}, such as a hash of it.")
    return value


def _parse_details(message: router_pb2.Details) -> int:
    num, most = message.top_logprobs, MAX_TOP_LOGPROBS
    require(num <= most, "details.top_logprobs", f"{num} alternatives are too many.", f"Ask for at most {most}.")
    return num


def _parse_on_disconnect(value: router_pb2.OnDisconnect) -> bool | None:
    remedy = "Send ON_DISCONNECT_CONTINUE or ON_DISCONNECT_STOP, or leave it out."
    require_known(router_pb2.OnDisconnect, "on_disconnect", value, remedy)
    return value == router_pb2.ON_DISCONNECT_STOP if value else None


def _parse_input(request: router_pb2.GenerateRequest) -> Text | Chat | Tokens:
    match request.WhichOneof("input"):
        case "text":
            require(request.text, "text", "the prompt is empty.", "Send at least one character.")
            return Text(request.text)
        case "chat":
            return Chat(parse_turn(request.chat))
        case "tokens":
            require(request.tokens.ids, "tokens.ids", "the prompt is empty.", "Send at least one token id.")
            return Tokens(tokens_of(request.tokens.ids))
    raise invalid("input", "there is no input.", "Send text, chat or tokens; or resume_from to go on with an answer.")


def _parse_schema(request: router_pb2.GenerateRequest) -> str:
    """The schema, which is read later. Raises RstitchError for what would end an answer before that is complete."""
    schema: str = request.json_schema
    for name in ("stop", "stop_token_ids", "early_exit") if schema else ():
        given = request.HasField(name) if name == "early_exit" else getattr(request, name)
        require(not given, name, "an answer by json_schema ends where that is complete.", f"Leave out {name}.")
    return schema


def _size(request: router_pb2.GenerateRequest) -> int:
    """About how many bytes the input has; to ask the message itself would write it out."""
    return chat_size(request.chat) if request.HasField("chat") else len(request.text) + 4 * len(request.tokens.ids)


def parse_policy(message: router_pb2.Policy, default_tau: float) -> Policy:
    """The policy that a message gives; seed, version and tau that it leaves open stay open. Raises RstitchError."""
    match message.WhichOneof("kind"):
        case "threshold":
            return _parse_threshold(message.threshold)
        case "confidence":
            return Confidence(check_probability("policy.confidence.threshold", message.confidence.threshold))
        case "random":
            seed = message.random.seed if message.random.HasField("seed") else None
            return Random(check_probability("policy.random.slm_probability", message.random.slm_probability), seed)
        case "learned":
            return _parse_learned(message.learned)
        case "speculative":
            return _parse_speculative(message.speculative)
        case "llm_only":
            return LlmOnly()
        case "slm_only":
            return SlmOnly()
    remedy = f"Send one of {', '.join(KINDS)}, or leave it out."
    raise invalid("policy", "it is of no kind that this router knows.", remedy)


def parse_budget(message: router_pb2.Budget) -> Budget:
    """The budget that a message gives; one that bounds nothing is a mistake. Raises RstitchError."""
    remedy = "Send BUDGET_THEN_SLM or BUDGET_THEN_STOP, or leave it out."
    require_known(router_pb2.BudgetThen, "budget.then", message.then, remedy, "nothing that this router knows")
    llm_tokens = message.llm_tokens if message.HasField("llm_tokens") else None
    max_switches = message.max_switches if message.HasField("max_switches") else None
    bounds = llm_tokens is not None or max_switches is not None
    require(bounds, "budget", "it bounds nothing.", "Set llm_tokens or max_switches, or leave budget out.")
    return Budget(llm_tokens, max_switches, message.then == router_pb2.BUDGET_THEN_STOP)


def parse_early_exit(message: router_pb2.EarlyExit) -> EarlyExit:
    """Early exit as asked for; what is not given stays empty and is filled in later. Raises RstitchError."""
    field, bound, num = "early_exit", message.threshold, len(message.boundaries)
    require(0 < bound <= 1, f"{field}.threshold", f"{bound} is no bound of a probability.", "Use a number in (0, 1].")
    require(num <= MAX_BOUNDARIES, f"{field}.boundaries", f"{num} are too many.", f"Send at most {MAX_BOUNDARIES}.")
    for index, text in enumerate(message.boundaries):
        require_text(f"{field}.boundaries[{index}]", text, MAX_CHARS)
    for name in ("prompt", "end"):
        require_text(f"{field}.{name}", getattr(message, name), MAX_CHARS, may_be_empty=True)
    num, most = message.max_trial_tokens, MAX_TRIAL_TOKENS
    require(num <= most, f"{field}.max_trial_tokens", f"{num} are too many.", f"Use at most {most}.")
    return EarlyExit(bound, ExitStyle(tuple(message.boundaries), message.prompt, message.end), num)


def _parse_threshold(message: router_pb2.Threshold) -> Threshold:
    field = "policy.threshold"
    tau = check_tau(f"{field}.tau", message.tau)
    tau_return = check_tau(f"{field}.tau_return", message.tau_return) if message.HasField("tau_return") else tau
    names = ", ".join(common_pb2.Signal.keys()[1:])
    require_known(common_pb2.Signal, f"{field}.signal", message.signal, f"Send one of {names}.")
    signal, num = Signal(message.signal or common_pb2.SIGNAL_ENTROPY), message.window
    field = f"{field}.window"
    if signal is not Signal.ENTROPY_WINDOW:
        require(not num, field, "this signal has none.", "Leave it out, or send SIGNAL_ENTROPY_WINDOW.")
        return Threshold(tau, tau_return, signal)
    require(num <= MAX_WINDOW, field, f"{num} tokens are too many.", f"Use at most {MAX_WINDOW}.")
    return Threshold(tau, tau_return, signal, num or DEFAULT_WINDOW)


def _parse_learned(message: router_pb2.Learned) -> Learned:
    split_name(message.name)  # raises for what names no head; whether there is such a head is asked later
    tau = check_tau("policy.learned.tau", message.tau) if message.HasField("tau") else None
    seed = message.explore_seed if message.HasField("explore_seed") else None
    price, field = (message.price if message.HasField("price") else None), "policy.learned.price"
    if price is not None:
        is_one = 1 / MAX_PRICE <= price <= MAX_PRICE  # NaN is not
        require(is_one, field, f"{price} is no price.", f"Use a number in [{1 / MAX_PRICE:g}, {MAX_PRICE:g}].")
        what = "the price is given, and cannot follow the load, too."
        require(not message.price_by_load, field, what, "Leave out price or price_by_load.")
    return Learned(message.name, tau, explore_seed=seed, price=price, price_by_load=message.price_by_load)


def _parse_speculative(message: router_pb2.Speculative) -> Speculative:
    field, num = "policy.speculative", message.draft_tokens
    remedy = f"Use a number in [1, {MAX_DRAFT_TOKENS}]."
    require(1 <= num <= MAX_DRAFT_TOKENS, f"{field}.draft_tokens", f"{num} tokens are no draft.", remedy)
    return Speculative(num, check_probability(f"{field}.min_confidence", message.min_confidence))


def _parse_stop(stop: Sequence[str]) -> tuple[str, ...]:
    require(len(stop) <= _MAX_STOPS, "stop", f"{len(stop)} stop strings are too many.", f"Send at most {_MAX_STOPS}.")
    for index, text in enumerate(stop):
        require_text(f"stop[{index}]", text, _MAX_STOP_CHARS)
    return tuple(stop)


def _parse_stop_tokens(ids: Sequence[int]) -> tuple[int, ...]:
    num, field = len(ids), "stop_token_ids"
    require(num <= _MAX_STOP_TOKENS, field, f"{num} stop tokens are too many.", f"Send at most {_MAX_STOP_TOKENS}.")
    return tuple(ids)


def _parse_guard(value: router_pb2.Guard) -> bool | None:
    require_known(router_pb2.Guard, "guard", value, "Send GUARD_ON or GUARD_OFF, or leave it out.")
    return None if value == router_pb2.GUARD_UNSPECIFIED else value == router_pb2.GUARD_ON
