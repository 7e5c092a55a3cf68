"""Between the client's values and the contract's messages, both ways; shared by the sync and the async client.

It checks only what cannot be said in a message; whether a value is allowed is the router's to judge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from enum import StrEnum
from typing import Any, TypeVar

import grpc

from rstitch.client import types as t
from rstitch.errors import RstitchError, invalid
from rstitch.v1 import common_pb2, router_pb2

E = TypeVar("E", bound=StrEnum)


def generate_request(
    text: str | None = None,
    *,
    chat: t.ChatInput | None = None,
    tokens: Sequence[int] | None = None,
    policy: t.Policy | None = None,
    early_exit: t.EarlyExit | None = None,
    budget: t.Budget | None = None,
    sampling: t.Sampling | None = None,
    max_new_tokens: int = 0,
    stop: Sequence[str] = (),
    guard: bool | None = None,
    session_id: str = "",
) -> router_pb2.GenerateRequest:
    """Writes a text and a `Question` as a message. Raises: InvalidArgument naming the argument."""
    if sum(given is not None for given in (text, chat, tokens)) != 1:
        raise invalid("input", "one of text, chat and tokens is needed.", "Give exactly one of them.")
    if isinstance(stop, str):
        raise invalid("stop", "stop is a list of strings, not one string.", f"Write stop=({stop!r},).")
    request = router_pb2.GenerateRequest()
    with _naming("session_id"):
        request.session_id = session_id
    if text is not None:
        with _naming("text"):
            request.text = text
    if chat is not None:
        with _naming("chat"):
            request.chat.messages.extend(_chat_message(message) for message in chat)
            request.chat.SetInParent()
    if tokens is not None:
        with _naming("tokens"):
            request.tokens.ids.extend(tokens)
            request.tokens.SetInParent()
    if policy is not None:
        with _naming("policy"):
            request.policy.CopyFrom(policy_message(policy))
    if early_exit is not None:
        with _naming("early_exit"):
            request.early_exit.CopyFrom(early_exit_message(early_exit))
    if budget is not None:
        with _naming("budget"):
            request.budget.CopyFrom(budget_message(budget))
    if sampling is not None:
        with _naming("sampling"):
            request.sampling.CopyFrom(common_pb2.Sampling(**dataclasses.asdict(sampling)))
    with _naming("max_new_tokens"):
        request.max_new_tokens = max_new_tokens
    with _naming("stop"):
        request.stop.extend(stop)
    if guard is not None:
        request.guard = router_pb2.GUARD_ON if guard else router_pb2.GUARD_OFF
    return request


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Names the field whose value is of the wrong type, out of its number's range or not encodable as UTF-8."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise invalid(field, f"cannot be sent: {error}.", "See protos/rstitch/v1/router.proto for its type.") from error


def attach_request(session_id: str, resume_from: int) -> router_pb2.GenerateRequest:
    """Writes the wish to go on with an answer at a position. Raises: InvalidArgument."""
    with _naming("resume_from"):
        return router_pb2.GenerateRequest(session_id=session_id, resume_from=resume_from)


def event(response: router_pb2.GenerateResponse) -> t.Event:
    """Reads one event of an answer. Raises: RstitchError (UNIMPLEMENTED) if it is of a kind not known here."""
    kind = response.WhichOneof("event")
    if kind == "started":
        m = response.started
        return t.Started(m.session_id, m.num_prompt_tokens, m.position, m.trace_id)
    if kind == "chunk":
        c = response.chunk
        uncertainties = tuple(c.uncertainties)
        return t.Chunk(_model(c.model), c.position, tuple(c.tokens), tuple(c.entropies), c.text, uncertainties)
    if kind == "switch":
        s = response.switch
        from_model = getattr(s, "from")  # a keyword of Python
        return t.Switch(_model(from_model), _model(s.to), s.position, s.entropy, _switch_reason(s.reason))
    if kind == "finished":
        return _finished(response.finished)
    raise _unknown("an event")


def trajectory(m: router_pb2.Trajectory) -> t.Trajectory:
    """Reads a trajectory, whose segments a listing leaves out."""
    return t.Trajectory(
        session_id=m.session_id,
        state=_enum(t.TrajectoryState, router_pb2.TrajectoryState.Name, "TRAJECTORY_STATE_", m.state),
        length=m.length,
        epoch=m.epoch,
        segments=tuple(_segment(segment) for segment in m.segments),
        policy=_policy(m.policy),
        finished=_finished(m.finished) if m.HasField("finished") else None,
        created=m.created.ToDatetime(tzinfo=UTC),
        updated=m.updated.ToDatetime(tzinfo=UTC),
    )


def status(m: router_pb2.GetStatusResponse) -> t.Status:
    """Reads the state of a router and its workers."""
    workers = tuple(
        t.WorkerStatus(
            role=_model(w.role),
            address=w.address,
            ready=w.ready,
            detail=w.detail,
            model=w.model,
            device=w.device,
            dtype=w.dtype,
            num_parameters=w.num_parameters,
            context_length=w.context_length,
        )
        for w in m.workers
    )
    guard = t.GuardStatus(
        llm_only=m.guard.llm_only,
        reason=m.guard.reason,
        routed_us=m.guard.routed_us,
        llm_only_us=m.guard.llm_only_us,
        num_routed=m.guard.num_routed,
        num_llm_only=m.guard.num_llm_only,
        on=m.guard.default_guard == router_pb2.GUARD_ON,
    )
    return t.Status(m.ready, m.detail, workers, tuple(m.policies), m.default_tau, m.num_running, m.version, guard)


def profile(m: router_pb2.Profile) -> t.KeptProfile:
    """Reads a profile. Raises: RstitchError (UNIMPLEMENTED) if its policy is not known here."""
    policy = _policy(m.policy)
    if policy is None:
        raise _unknown("a policy")
    return t.KeptProfile(
        name=m.name,
        policy=policy,
        early_exit=_early_exit(m.early_exit) if m.HasField("early_exit") else None,
        budget=_budget(m.budget) if m.HasField("budget") else None,
        description=m.description,
        updated=m.updated.ToDatetime(tzinfo=UTC),
    )


def put_profile_request(kept: t.KeptProfile) -> router_pb2.PutProfileRequest:
    """Writes the request to keep a profile."""
    m = router_pb2.Profile(name=kept.name, policy=policy_message(kept.policy), description=kept.description)
    if kept.early_exit is not None:
        m.early_exit.CopyFrom(early_exit_message(kept.early_exit))
    if kept.budget is not None:
        m.budget.CopyFrom(budget_message(kept.budget))
    return router_pb2.PutProfileRequest(profile=m)


def policy_message(policy: t.Policy) -> router_pb2.Policy:
    """Writes a policy as a message. Raises: TypeError if it is none."""
    p = router_pb2
    match policy:
        case t.Threshold(tau, tau_return, signal, window):
            name = f"SIGNAL_{signal.upper()}"
            return p.Policy(threshold=p.Threshold(tau=tau, tau_return=tau_return, signal=name, window=window))
        case t.Learned(name, tau):
            return p.Policy(learned=p.Learned(name=name, tau=tau))
        case t.Confidence(threshold):
            return p.Policy(confidence=p.Confidence(threshold=threshold))
        case t.LlmOnly():
            return p.Policy(llm_only=p.LlmOnly())
        case t.SlmOnly():
            return p.Policy(slm_only=p.SlmOnly())
        case t.Random(slm_probability, seed):
            return p.Policy(random=p.Random(slm_probability=slm_probability, seed=seed))
        case t.Speculative(draft_tokens, min_confidence):
            return p.Policy(speculative=p.Speculative(draft_tokens=draft_tokens, min_confidence=min_confidence))
        case t.Profile(name):
            return p.Policy(profile=name)
    raise TypeError(f"{policy!r} is no policy")


def early_exit_message(value: t.EarlyExit) -> router_pb2.EarlyExit:
    """Writes early exit as a message."""
    return router_pb2.EarlyExit(**dataclasses.asdict(value))


def budget_message(value: t.Budget) -> router_pb2.Budget:
    """Writes a budget as a message."""
    then = router_pb2.BUDGET_THEN_STOP if value.stop else router_pb2.BUDGET_THEN_UNSPECIFIED
    return router_pb2.Budget(llm_tokens=value.llm_tokens, max_switches=value.max_switches, then=then)


def _policy(m: router_pb2.Policy) -> t.Policy | None:
    match m.WhichOneof("kind"):
        case "threshold":
            returns = m.threshold.tau_return if m.threshold.HasField("tau_return") else None
            signal = _enum(t.Signal, common_pb2.Signal.Name, "SIGNAL_", m.threshold.signal)
            return t.Threshold(m.threshold.tau, returns, signal, m.threshold.window)
        case "learned":
            return t.Learned(m.learned.name, m.learned.tau if m.learned.HasField("tau") else None)
        case "confidence":
            return t.Confidence(m.confidence.threshold)
        case "llm_only":
            return t.LlmOnly()
        case "slm_only":
            return t.SlmOnly()
        case "random":
            return t.Random(m.random.slm_probability, m.random.seed if m.random.HasField("seed") else None)
        case "speculative":
            return t.Speculative(m.speculative.draft_tokens, m.speculative.min_confidence)
        case "profile":
            return t.Profile(m.profile)
    return None


def _early_exit(m: router_pb2.EarlyExit) -> t.EarlyExit:
    return t.EarlyExit(m.threshold, tuple(m.boundaries), m.prompt, m.end, m.max_trial_tokens)


def _budget(m: router_pb2.Budget) -> t.Budget:
    llm_tokens = m.llm_tokens if m.HasField("llm_tokens") else None
    max_switches = m.max_switches if m.HasField("max_switches") else None
    return t.Budget(llm_tokens, max_switches, m.then == router_pb2.BUDGET_THEN_STOP)


def _unknown(what: str) -> RstitchError:
    return RstitchError(
        grpc.StatusCode.UNIMPLEMENTED,
        f"UNKNOWN_{what.split()[-1].upper()}",
        f"the router sent {what} that this client does not know.",
        remedy="Update the client to the router's version.",
    )


def _chat_message(message: t.Message | Mapping[str, str]) -> router_pb2.ChatMessage:
    if isinstance(message, t.Message):
        return router_pb2.ChatMessage(role=message.role, content=message.content)
    return router_pb2.ChatMessage(**message)


def _finished(m: router_pb2.Finished) -> t.Finished:
    reason = _enum(t.FinishReason, router_pb2.FinishReason.Name, "FINISH_REASON_", m.reason)
    taken = t.EarlyExitTaken(m.early_exit.position, m.early_exit.confidence) if m.HasField("early_exit") else None
    return t.Finished(
        reason,
        _usage(m.usage),
        m.length,
        _policy(m.policy),
        m.guard_reason,
        budget_spent=tuple(m.budget_spent),
        early_exit=taken,
        profile=m.profile,
    )


def _usage(m: router_pb2.Usage) -> t.Usage:
    fields = {field.name: getattr(m, field.name) for field in dataclasses.fields(t.Usage)}
    parts = dataclasses.fields(t.TimeBreakdown)
    fields["breakdown"] = t.TimeBreakdown(**{part.name: getattr(m.breakdown, part.name) for part in parts})
    return t.Usage(**fields)


def _segment(m: router_pb2.Segment) -> t.Segment:
    return t.Segment(
        source=_enum(t.Source, router_pb2.Source.Name, "SOURCE_", m.source),
        position=m.position,
        tokens=tuple(m.tokens),
        entropies=tuple(m.entropies),
        text=m.text,
        reason=_switch_reason(m.reason),
        switch_entropy=m.switch_entropy,
        uncertainties=tuple(m.uncertainties),
    )


def _model(value: common_pb2.Model) -> t.Model:
    return _enum(t.Model, common_pb2.Model.Name, "MODEL_", value)


def _switch_reason(value: router_pb2.SwitchReason) -> t.SwitchReason:
    return _enum(t.SwitchReason, router_pb2.SwitchReason.Name, "SWITCH_REASON_", value)


def _enum(kind: type[E], name_of: Callable[[Any], str], prefix: str, value: Any) -> E:
    """Finds the member of `kind` for a number of the wire; what a newer router invented becomes UNSPECIFIED."""
    try:
        return kind(name_of(value).removeprefix(prefix).lower())
    except ValueError:
        return kind("unspecified")
