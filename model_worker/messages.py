"""Messages to engine types and back, and what a request may not hold.

Generated messages stop here, in `handoffs.py`, `infos.py`, `service.py` and `main.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import grpc

from model_worker.engine import errors
from model_worker.engine.bookkeeping.cost_model import CostModel
from model_worker.engine.counters import Capacity, Counters
from model_worker.engine.engine import Engine
from model_worker.engine.observing import Observe, Observed
from model_worker.engine.types import Alternatives, ForkRequest, Proposal, Returns, RunFinished, RunRequest, Timing
from model_worker.grammars import AskedGrammar
from model_worker.handoffs import handoff_of
from model_worker.heads import HeadTable
from model_worker.samplings import sampling_of
from rstitch.errors import RstitchError, invalid
from rstitch.limits import MAX_SALT_CHARS, MAX_TAU, MAX_TOP_LOGPROBS, MIN_TAU
from rstitch.service.failures import internal
from rstitch.v1 import common_pb2, worker_pb2

MAX_SESSION_ID_LENGTH = 256  # a router puts the tenant before its client's, which has at most 128
_MAX_MARK_CHARS = 64  # of what begins or ends the thinking
_RETRY_AFTER_S = 0.05
_COUNTERS, _PROPOSAL, _STEP_COST, _TIMING = (
    tuple(name for name, field in message.DESCRIPTOR.fields_by_name.items() if field.message_type is None)
    for message in (worker_pb2.Counters, worker_pb2.Proposal, worker_pb2.StepCost, worker_pb2.Timing)
)

_CODES = {
    errors.InvalidRun: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ContextFull: grpc.StatusCode.OUT_OF_RANGE,
    errors.HeldTooShort: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PrefixMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SessionUnknown: grpc.StatusCode.NOT_FOUND,
    errors.SaltMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SessionBusy: grpc.StatusCode.ABORTED,
    errors.SessionClosed: grpc.StatusCode.ABORTED,
    errors.NoCapacity: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ForwardFailed: grpc.StatusCode.INTERNAL,
    errors.GrammarStuck: grpc.StatusCode.FAILED_PRECONDITION,
}


def to_rstitch_error(error: Exception) -> RstitchError:
    """Translates engine errors to statuses, by one table. Other exceptions are bugs and become INTERNAL."""
    if not isinstance(error, errors.EngineError):
        return internal(error, "a run failed")
    return RstitchError(
        _CODES[type(error)],
        error.reason,
        str(error),
        field=error.field,
        remedy=error.remedy,
        metadata={} if error.held is None else {"held": str(error.held)},
        retry_after_s=_RETRY_AFTER_S if isinstance(error, errors.NoCapacity) else None,
    )


def step_request(message: worker_pb2.StepRequest, vocab_size: int) -> RunRequest:
    """Reads a step. Raises RstitchError INVALID_ARGUMENT, naming the field."""
    return replace(_run_request(message), returns=_returns(message.returns, vocab_size))


def decode_request(message: worker_pb2.DecodeRequest, vocab_size: int, heads: HeadTable) -> RunRequest:
    """Reads a run. Raises RstitchError: INVALID_ARGUMENT with the field, FAILED_PRECONDITION for a missing head."""
    for token in message.stop_tokens:
        if token >= vocab_size:
            told = f"token id {token} is outside the vocabulary of {vocab_size}."
            raise invalid("stop_tokens", told, f"Send ids below {vocab_size}.")
    if message.draft and not message.max_tokens:
        raise invalid("max_tokens", "nothing of a draft can be kept.", "Send how many tokens may be kept, at least 1.")
    if message.draft and message.HasField("handoff"):
        raise invalid("handoff", "a run that verifies a draft has no hand-off.", "Leave handoff or draft unset.")
    if message.top_logprobs > MAX_TOP_LOGPROBS:
        told = f"{message.top_logprobs} alternatives are too many."
        raise invalid("top_logprobs", told, f"Ask for at most {MAX_TOP_LOGPROBS}.")
    return replace(
        _run_request(message),
        max_tokens=message.max_tokens,
        stop_tokens=frozenset(message.stop_tokens),
        handoff=handoff_of(message.handoff, heads) if message.HasField("handoff") else None,
        background=message.priority == worker_pb2.PRIORITY_BACKGROUND,
        top_logprobs=message.top_logprobs,
        draft=message.draft,
    )


def asked_grammar(message: worker_pb2.DecodeRequest) -> AskedGrammar | None:
    """Reads what a run's answer must be, None if anything. Raises RstitchError INVALID_ARGUMENT, naming the field."""
    if not message.HasField("grammar") or not message.max_tokens:
        return None
    asked = message.grammar
    for name in ("thinking_begin", "thinking_end"):
        if (length := len(getattr(asked, name))) > _MAX_MARK_CHARS:
            told = f"it has {length} characters."
            raise invalid(f"grammar.{name}", told, f"Send at most {_MAX_MARK_CHARS}.")
    return AskedGrammar(
        asked.json_schema,
        asked.start,
        asked.thinking_end,
        asked.thinking_begin,
        frozenset(message.stop_tokens),
        frozenset(message.masked_tokens),
    )


def observe_request(message: worker_pb2.ObserveRequest, vocab_size: int, context_length: int) -> RunRequest:
    """Reads what is to be observed, without a session. Raises RstitchError: INVALID_ARGUMENT or OUT_OF_RANGE."""
    tokens, num_tokens = message.tokens, len(message.tokens)
    if num_tokens < 2:
        raise invalid("tokens", f"{num_tokens} tokens leave nothing to observe.", "Send at least two.")
    if max(tokens) >= vocab_size:
        told = f"token id {max(tokens)} is outside the vocabulary of {vocab_size}."
        raise invalid("tokens", told, f"Send ids below {vocab_size}.")
    if num_tokens > context_length:
        full = errors.ContextFull(
            f"{num_tokens} tokens do not fit the context of {context_length}.",
            field="tokens",
            remedy=f"Send at most {context_length}.",
        )
        raise to_rstitch_error(full)
    if not 1 <= message.start < num_tokens:
        told = f"{message.start} is not in [1, {num_tokens - 1}], the positions of tokens with one before them."
        raise invalid("start", told, "Send the first position to be told, such as where the answer begins.")
    if not MIN_TAU <= message.above <= MAX_TAU:  # NaN fails, too
        told = f"{message.above} is not in [{MIN_TAU:g}, {MAX_TAU:g}]."
        raise invalid("above", told, "Send a bound of the entropy; below 0 tells all positions.")
    _check_salt(message.cache_salt)
    return RunRequest(
        session_id="",
        position=0,
        tokens=tokens[:-1],  # after the last one there is no position
        observe=Observe(message.start, message.above),
        cache_salt=message.cache_salt,
        masked_tokens=tuple(message.masked_tokens),
    )


def fork_request(message: worker_pb2.ForkSessionRequest) -> ForkRequest:
    """Reads a fork. Raises RstitchError INVALID_ARGUMENT, naming the field."""
    _check_session_id("source_session_id", message.source_session_id)
    _check_session_id("session_id", message.session_id)
    _check_salt(message.cache_salt)
    return ForkRequest(message.source_session_id, message.session_id, message.position, message.cache_salt)


def step_response(finished: RunFinished) -> worker_pb2.StepResponse:
    """Returns the reply to a step, which always ends with a proposal."""
    proposal = finished.proposal
    assert proposal is not None
    return worker_pb2.StepResponse(
        token=proposal.token,
        logprob=proposal.logprob,
        entropy=proposal.entropy,
        logits=proposal.logits,
        top_logits=[worker_pb2.TopLogit(token=token, logit=logit) for token, logit in proposal.top_logits],
        hidden_state=proposal.hidden_state,
        held=finished.held,
        timing=timing(finished.timing),
    )


def alternatives(found: Alternatives) -> worker_pb2.Alternatives:
    """Says what else could stand in a token's place."""
    return worker_pb2.Alternatives(tokens=[token for token, _ in found], logprobs=[logprob for _, logprob in found])


def finish(finished: RunFinished) -> worker_pb2.Finish:
    """Returns the last message of a run on its stream."""
    return worker_pb2.Finish(
        reason=f"REASON_{finished.reason.name}",
        held=finished.held,
        proposal=_proposal(finished.proposal) if finished.proposal else None,
        timing=timing(finished.timing),
        num_accepted=finished.num_accepted,
        num_consultations=finished.num_consultations,
    )


def _proposal(value: Proposal) -> worker_pb2.Proposal:
    found = alternatives(value.alternatives) if value.alternatives is not None else None
    return worker_pb2.Proposal(**_fields(value, _PROPOSAL), alternatives=found)


def observations(told: Observed) -> list[common_pb2.Consultation]:
    """Says what the SLM would have written along given tokens; no head was asked."""
    halves = told.hidden_states
    size = len(halves) // max(len(told.positions), 1)
    return [
        common_pb2.Consultation(
            position=position,
            hidden_state=halves[place * size : (place + 1) * size],
            entropy=entropy,
            proposal=token,
            context_length=position,
        )
        for place, (position, entropy, token) in enumerate(
            zip(told.positions, told.entropies, told.tokens, strict=True)
        )
    ]


def timing(value: Timing) -> worker_pb2.Timing:
    """Where the time of a run went, in microseconds."""
    return worker_pb2.Timing(**_fields(value, _TIMING))


def capacity(value: Capacity) -> worker_pb2.Capacity:
    """Free KV tokens and pages at this moment, and who is in them."""
    return worker_pb2.Capacity(**asdict(value))


def counters(value: Counters) -> worker_pb2.Counters:
    """Returns what the engine has counted since it started; the contract has its names."""
    return worker_pb2.Counters(**_fields(value, _COUNTERS))


def step_costs(costs: CostModel | None) -> list[worker_pb2.StepCost]:
    """Returns the steps that were measured at the start; none if measuring was off."""
    points = costs.step_costs if costs is not None else ()
    return [worker_pb2.StepCost(**_fields(point, _STEP_COST)) for point in points]


def state_of(engine: Engine) -> tuple[Capacity, Counters]:
    """Room and counters of one moment; to be asked in the engine's thread."""
    return engine.capacity, replace(engine.counters)


def _fields(value: object, names: Iterable[str]) -> dict[str, Any]:
    """Returns what a message takes of an engine's value, whose attributes have the contract's names; None is unset."""
    return {name: getattr(value, name) for name in names}


def _run_request(message: worker_pb2.StepRequest | worker_pb2.DecodeRequest) -> RunRequest:
    """Reads what steps and runs have in common."""
    _check_session_id("session_id", message.session_id)
    _check_salt(message.cache_salt)
    return RunRequest(
        session_id=message.session_id,
        position=message.position,
        tokens=message.tokens,
        sampling=sampling_of(message),
        prefix_checksum=message.prefix_checksum if message.HasField("prefix_checksum") else None,
        cache_salt=message.cache_salt,
        masked_tokens=tuple(message.masked_tokens),
    )


def _check_session_id(field: str, session_id: str) -> None:
    length = len(session_id)
    if not 1 <= length <= MAX_SESSION_ID_LENGTH:
        told = f"a session id has 1 to {MAX_SESSION_ID_LENGTH} characters, not {length}."
        raise invalid(field, told, "Choose one, such as a UUID.")


def _check_salt(salt: str) -> None:
    if len(salt) > MAX_SALT_CHARS:
        told = f"a salt has at most {MAX_SALT_CHARS} characters, not {len(salt)}."
        raise invalid("cache_salt", told, "Send a short one, such as a hash of it.")


def _returns(message: worker_pb2.Returns, vocab_size: int) -> Returns:
    if message.logits == worker_pb2.LOGITS_FULL:
        return Returns(-1, message.hidden_state)
    if message.logits == worker_pb2.LOGITS_TOP_K:
        if not 1 <= message.top_k <= vocab_size:
            raise invalid("returns.top_k", f"{message.top_k} is not in [1, {vocab_size}].", "Say how many logits.")
        return Returns(message.top_k, message.hidden_state)
    if message.logits in (worker_pb2.LOGITS_UNSPECIFIED, worker_pb2.LOGITS_NONE):
        return Returns(0, message.hidden_state)
    raise invalid("returns.logits", f"{message.logits} is no way to return logits.", "Send one of the enum Logits.")
