"""The router's values as messages of router.proto, one `encode_` function for each. The messages stop at this edge.

What policies, budgets and early exit were asked for without is filled in: a client sees what its answer was written
with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from google.protobuf import timestamp_pb2

from router_svc.answers.events import Event, Switched, context_of
from router_svc.answers.observing import Observed
from router_svc.api.details import encode_details
from router_svc.observers.guard import GuardState
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.budget import NO_BUDGET, Budget
from router_svc.policies.early_exit import EarlyExit
from router_svc.policies.heads import HeadState
from router_svc.policies.kinds import Confidence, Learned, LlmOnly, Random, SlmOnly, Speculative, Threshold
from router_svc.policies.policy import Policy
from router_svc.text.answer_text import AnswerText
from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.consultations import Consultation
from router_svc.trajectory.types import Chunk, Finished, Header, Model, PromptNotes, Source, SwitchReason, joined
from router_svc.workers.member import Member
from rstitch.v1 import common_pb2, router_pb2


def encode_event(value: Event, tokenizers: Mapping[Model, Tokenizer]) -> router_pb2.GenerateResponse:
    """An event in the middle of a stream: tokens, or a switch. The tokens are read by their writer's tokenizer."""
    if isinstance(value, Switched):
        switch = router_pb2.Switch(
            to=encode_model(value.to),
            position=value.position,
            entropy=value.entropy,
            reason=_encode_reason(value.reason),
            # `from` is a keyword of Python and cannot be written as an argument.
            **{"from": encode_model(value.to.other)},
        )
        return router_pb2.GenerateResponse(switch=switch)
    chunk = router_pb2.Chunk(
        model=encode_model(value.model),
        position=value.position,
        tokens=value.tokens,
        entropies=value.entropies,
        text=value.text,
        uncertainties=value.uncertainties,
    )
    # Most have neither: an event is made for each token, and each field takes its time.
    if value.consultations:
        chunk.consultations.extend(map(encode_consultation, value.consultations))
    if value.details:
        chunk.details.extend(encode_details(value.tokens, value.details, tokenizers[value.model]))
    return router_pb2.GenerateResponse(chunk=chunk)


def gathered(events: Sequence[router_pb2.GenerateResponse]) -> Sequence[router_pb2.GenerateResponse]:
    """Some events as one message, none as none; only for clients that take it."""
    if len(events) > 1:
        events[0].more.extend(events[1:])
    return events[:1]


def encode_consultation(value: Consultation) -> common_pb2.Consultation:
    """What a head was asked; the contract's fields have the same names."""
    return common_pb2.Consultation(**{name: getattr(value, name) for name in Consultation.__slots__})


def encode_observed(value: Observed) -> router_pb2.ObserveAnswerResponse:
    """Some positions of an answer that is observed; a token that is nobody's has an unspecified writer."""
    return router_pb2.ObserveAnswerResponse(
        consultations=map(encode_consultation, value.consultations),
        tokens=value.tokens,
        writers=[common_pb2.MODEL_UNSPECIFIED if who is None else encode_model(who) for who in value.writers],
        num_positions=value.num_positions,
    )


def encode_trajectory(
    header: Header,
    chunks: Sequence[Chunk] = (),
    tokenizers: Mapping[Model, Tokenizer] | None = None,
    *,
    consultations: bool = False,
    details: bool = False,
) -> router_pb2.Trajectory:
    """A trajectory; without `chunks` it has no segments, as in a listing, without `tokenizers` these have no texts.

    Consultations and details are of the last answer only.
    """
    settings = AnswerSettings.from_json(header.settings)
    segments = joined(chunks)
    texts = _segment_texts(segments, tokenizers) if tokenizers is not None else [""] * len(segments)
    encoded = [_encode_segment(segment, text) for segment, text in zip(segments, texts, strict=True)]
    for segment, message in zip(segments, encoded, strict=True):
        if segment.position < settings.start:
            continue
        if consultations:
            message.consultations.extend(map(encode_consultation, segment.consultations))
        if details:
            reader = tokenizers[segment.source.model] if tokenizers is not None else None
            message.details.extend(encode_details(segment.tokens, segment.details, reader))
    return router_pb2.Trajectory(
        session_id=header.session_id,
        state=f"TRAJECTORY_STATE_{header.state.name}",
        length=header.length,
        epoch=header.epoch,
        segments=encoded,
        policy=encode_policy(settings.policy),
        finished=encode_finished(header.finished, settings) if header.finished else None,
        created=_encode_timestamp(header.created_ms),
        updated=_encode_timestamp(header.updated_ms),
        early_exit=encode_early_exit(settings.early_exit) if settings.early_exit is not None else None,
        budget=encode_budget(settings.budget) if settings.budget != NO_BUDGET else None,
        label=f"LABEL_{header.label.name}" if header.label is not None else None,
        trace_id=settings.trace_id,
    )


def encode_guard(state: GuardState, on: bool) -> router_pb2.GuardStatus:
    """What the guard knows at the present load, and whether it may step in where a question does not say."""
    return router_pb2.GuardStatus(**asdict(state), default_guard=router_pb2.GUARD_ON if on else router_pb2.GUARD_OFF)


def encode_heads(states: Sequence[HeadState]) -> list[router_pb2.HeadStatus]:
    """The heads of store and folder, also those that cannot be asked for, which say why."""
    found = []
    for state in states:
        told = asdict(state)
        updated_ms = told.pop("updated_ms")
        found.append(router_pb2.HeadStatus(**told, updated=updated_ms and _encode_timestamp(updated_ms)))
    return found


def encode_model(value: Model) -> common_pb2.Model:
    """A model of the pair as the contract numbers it."""
    return common_pb2.MODEL_SLM if value is Model.SLM else common_pb2.MODEL_LLM


def _encode_reason(value: SwitchReason) -> str:
    return router_pb2.SwitchReason.Name(value.value)


def _encode_segment(segment: Chunk, text: str) -> router_pb2.Segment:
    return router_pb2.Segment(
        source=router_pb2.Source.Name(segment.source.value),
        position=segment.position,
        tokens=segment.tokens,
        entropies=segment.entropies,
        text=text,
        reason=_encode_reason(segment.reason),
        switch_entropy=segment.switch_entropy,
        uncertainties=segment.uncertainties,
        **_encode_notes(segment.notes),
    )


def _encode_notes(notes: PromptNotes | None) -> dict[str, Any]:
    """How the models read a prompt, where that is not as it stands there."""
    if notes is None:
        return {}
    slm = notes.slm
    of_slm = router_pb2.PromptOfModel(tokens=slm.tokens, num_read_before=slm.num_before) if slm is not None else None
    return {"slm_prompt": of_slm, "num_read_before": notes.llm_num_before}


def _segment_texts(segments: Sequence[Chunk], tokenizers: Mapping[Model, Tokenizer]) -> list[str]:
    """One text for each segment, cut between characters: bytes of one character go to the segment that completes it.

    Together those of an answer are what its readers got: like them, an answer begins with a text of its own, which
    sees the last tokens before it. Nothing is held back from one answer into the next prompt.
    """
    texts: list[str] = []
    text = AnswerText(tokenizers, (), ())
    for index, segment in enumerate(segments):
        if index and (segment.source is Source.PROMPT) != (segments[index - 1].source is Source.PROMPT):
            texts[-1] += text.flush()
            text = AnswerText(tokenizers, context_of(segments[:index], segment.position, tokenizers), ())
        # A prompt is in ids of the LLM.
        writer = Model.LLM if segment.source is Source.PROMPT else segment.source.model
        # One by one, as a reader pushed them: what is given for a token depends on the tokens before it alone.
        texts.append("".join(text.push(token, writer) for token in segment.tokens))
    if texts:
        texts[-1] += text.flush()
    return texts


def encode_policy(value: Policy) -> router_pb2.Policy:
    """A policy with every default filled in. Raises TypeError for one that the contract does not have: our mistake."""
    p = router_pb2
    # All kinds, by class: a policy that is added must be told to clients, too.
    match value:
        case Threshold(tau, tau_return, signal, window):
            name = common_pb2.Signal.Name(signal.value)
            return p.Policy(threshold=p.Threshold(tau=tau, tau_return=tau_return, signal=name, window=window))
        case Confidence(threshold):
            return p.Policy(confidence=p.Confidence(threshold=threshold))
        case Learned():
            return p.Policy(learned=_encode_learned(value))
        case Random(slm_probability, seed):
            return p.Policy(random=p.Random(slm_probability=slm_probability, seed=seed))
        case Speculative(draft_tokens, min_confidence):
            return p.Policy(speculative=p.Speculative(draft_tokens=draft_tokens, min_confidence=min_confidence))
        case LlmOnly():
            return p.Policy(llm_only=p.LlmOnly())
        case SlmOnly():
            return p.Policy(slm_only=p.SlmOnly())
    raise TypeError(f"{value!r} is no policy")


def _encode_learned(value: Learned) -> router_pb2.Learned:
    price = value.price if value.price != 1.0 else None  # a price of 1 says nothing
    return router_pb2.Learned(
        name=value.head,
        tau=value.tau,
        explore_seed=value.explore_seed,
        price=price,
        price_by_load=value.price_by_load,
    )


def encode_budget(value: Budget) -> router_pb2.Budget:
    """A budget with every default filled in."""
    then = router_pb2.BUDGET_THEN_STOP if value.stop else router_pb2.BUDGET_THEN_SLM
    return router_pb2.Budget(llm_tokens=value.llm_tokens, max_switches=value.max_switches, then=then)


def encode_early_exit(value: EarlyExit) -> router_pb2.EarlyExit:
    """Early exit with every default filled in; what ends the thinking without us is not part of the contract."""
    style = asdict(value.style)
    del style["thinking_end"]
    return router_pb2.EarlyExit(threshold=value.threshold, max_trial_tokens=value.max_trial_tokens, **style)


def encode_finished(value: Finished, settings: AnswerSettings) -> router_pb2.Finished:
    """How an answer ended, with the policy and the bounds that it was written with."""
    usage = value.usage.as_dict()
    position, confidence = usage.pop("exit_position"), usage.pop("exit_confidence")
    return router_pb2.Finished(
        reason=router_pb2.FinishReason.Name(value.reason.value),
        usage=router_pb2.Usage(**usage),
        length=value.length,
        policy=encode_policy(settings.policy),
        guard_reason=settings.guard_reason,
        budget_spent=settings.budget.spent(value.usage),
        # The wire has it in a message of its own; all other fields of `Usage` have the names of the contract.
        early_exit=router_pb2.EarlyExitTaken(position=position, confidence=confidence) if position else None,
        profile=settings.profile,
    )


def _encode_timestamp(unix_ms: int) -> timestamp_pb2.Timestamp:
    made = timestamp_pb2.Timestamp()
    made.FromMilliseconds(unix_ms)
    return made


def encode_member(member: Member, ready: bool, detail: str, num_sessions: int) -> router_pb2.WorkerMember:
    """A worker of the fleet, with what it waits for or why it is refused."""
    return router_pb2.WorkerMember(
        id=member.id,
        role=encode_model(member.model),
        address=member.address,
        ready=ready,
        draining=member.draining,
        detail=detail,
        num_running=member.num_running,
        num_sessions=num_sessions,
        num_free_pages=member.num_free_pages,
        num_pages=member.num_pages,
        fingerprint=member.fingerprint,
        num_cards=member.num_cards,
    )


def without_places(status: router_pb2.GetStatusResponse) -> router_pb2.GetStatusResponse:
    """Takes out of a status what tells an operator's network and folders: addresses, devices, models, reasons."""
    why = "a key with the scope admin is told why"
    status.detail = "" if status.ready else f"not ready; {why}"
    del status.members[:]
    for worker in status.workers:
        for name in ("address", "detail", "model", "device"):
            worker.ClearField(name)
    for head in status.heads:
        if head.detail:  # an empty one says that it can be asked for
            head.detail = f"it cannot be used; {why}"
    return status
