import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from rstitch.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OnDisconnect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_DISCONNECT_UNSPECIFIED: _ClassVar[OnDisconnect]
    ON_DISCONNECT_CONTINUE: _ClassVar[OnDisconnect]
    ON_DISCONNECT_STOP: _ClassVar[OnDisconnect]

class Guard(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GUARD_UNSPECIFIED: _ClassVar[Guard]
    GUARD_ON: _ClassVar[Guard]
    GUARD_OFF: _ClassVar[Guard]

class BudgetThen(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUDGET_THEN_UNSPECIFIED: _ClassVar[BudgetThen]
    BUDGET_THEN_SLM: _ClassVar[BudgetThen]
    BUDGET_THEN_STOP: _ClassVar[BudgetThen]

class SwitchReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SWITCH_REASON_UNSPECIFIED: _ClassVar[SwitchReason]
    SWITCH_REASON_ENTROPY_ABOVE: _ClassVar[SwitchReason]
    SWITCH_REASON_ENTROPY_BELOW: _ClassVar[SwitchReason]
    SWITCH_REASON_UNCERTAINTY_ABOVE: _ClassVar[SwitchReason]
    SWITCH_REASON_UNCERTAINTY_BELOW: _ClassVar[SwitchReason]
    SWITCH_REASON_HEAD: _ClassVar[SwitchReason]
    SWITCH_REASON_COIN: _ClassVar[SwitchReason]
    SWITCH_REASON_VERIFICATION: _ClassVar[SwitchReason]
    SWITCH_REASON_DRAFT: _ClassVar[SwitchReason]
    SWITCH_REASON_BUDGET: _ClassVar[SwitchReason]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_STOP_STRING: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_BUDGET: _ClassVar[FinishReason]

class TrajectoryState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRAJECTORY_STATE_UNSPECIFIED: _ClassVar[TrajectoryState]
    TRAJECTORY_STATE_RUNNING: _ClassVar[TrajectoryState]
    TRAJECTORY_STATE_FINISHED: _ClassVar[TrajectoryState]
    TRAJECTORY_STATE_INTERRUPTED: _ClassVar[TrajectoryState]

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_PROMPT: _ClassVar[Source]
    SOURCE_SLM: _ClassVar[Source]
    SOURCE_LLM: _ClassVar[Source]

class Label(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LABEL_UNSPECIFIED: _ClassVar[Label]
    LABEL_RIGHT: _ClassVar[Label]
    LABEL_WRONG: _ClassVar[Label]
ON_DISCONNECT_UNSPECIFIED: OnDisconnect
ON_DISCONNECT_CONTINUE: OnDisconnect
ON_DISCONNECT_STOP: OnDisconnect
GUARD_UNSPECIFIED: Guard
GUARD_ON: Guard
GUARD_OFF: Guard
BUDGET_THEN_UNSPECIFIED: BudgetThen
BUDGET_THEN_SLM: BudgetThen
BUDGET_THEN_STOP: BudgetThen
SWITCH_REASON_UNSPECIFIED: SwitchReason
SWITCH_REASON_ENTROPY_ABOVE: SwitchReason
SWITCH_REASON_ENTROPY_BELOW: SwitchReason
SWITCH_REASON_UNCERTAINTY_ABOVE: SwitchReason
SWITCH_REASON_UNCERTAINTY_BELOW: SwitchReason
SWITCH_REASON_HEAD: SwitchReason
SWITCH_REASON_COIN: SwitchReason
SWITCH_REASON_VERIFICATION: SwitchReason
SWITCH_REASON_DRAFT: SwitchReason
SWITCH_REASON_BUDGET: SwitchReason
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_STOP_STRING: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_BUDGET: FinishReason
TRAJECTORY_STATE_UNSPECIFIED: TrajectoryState
TRAJECTORY_STATE_RUNNING: TrajectoryState
TRAJECTORY_STATE_FINISHED: TrajectoryState
TRAJECTORY_STATE_INTERRUPTED: TrajectoryState
SOURCE_UNSPECIFIED: Source
SOURCE_PROMPT: Source
SOURCE_SLM: Source
SOURCE_LLM: Source
LABEL_UNSPECIFIED: Label
LABEL_RIGHT: Label
LABEL_WRONG: Label

class GenerateRequest(_message.Message):
    __slots__ = ("session_id", "only_if_new", "request_id", "resume_from", "text", "chat", "tokens", "policy", "early_exit", "sampling", "max_new_tokens", "stop", "guard", "budget", "cache_salt", "stop_token_ids", "keep_consultations", "on_disconnect", "details", "json_schema", "takes_more", "gather_ms")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ONLY_IF_NEW_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_FROM_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    EARLY_EXIT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    GUARD_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    KEEP_CONSULTATIONS_FIELD_NUMBER: _ClassVar[int]
    ON_DISCONNECT_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    TAKES_MORE_FIELD_NUMBER: _ClassVar[int]
    GATHER_MS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    only_if_new: bool
    request_id: str
    resume_from: int
    text: str
    chat: Chat
    tokens: TokenIds
    policy: Policy
    early_exit: EarlyExit
    sampling: _common_pb2.Sampling
    max_new_tokens: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    guard: Guard
    budget: Budget
    cache_salt: str
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    keep_consultations: int
    on_disconnect: OnDisconnect
    details: Details
    json_schema: str
    takes_more: bool
    gather_ms: int
    def __init__(self, session_id: _Optional[str] = ..., only_if_new: bool = ..., request_id: _Optional[str] = ..., resume_from: _Optional[int] = ..., text: _Optional[str] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ..., tokens: _Optional[_Union[TokenIds, _Mapping]] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., early_exit: _Optional[_Union[EarlyExit, _Mapping]] = ..., sampling: _Optional[_Union[_common_pb2.Sampling, _Mapping]] = ..., max_new_tokens: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., guard: _Optional[_Union[Guard, str]] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., cache_salt: _Optional[str] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., keep_consultations: _Optional[int] = ..., on_disconnect: _Optional[_Union[OnDisconnect, str]] = ..., details: _Optional[_Union[Details, _Mapping]] = ..., json_schema: _Optional[str] = ..., takes_more: bool = ..., gather_ms: _Optional[int] = ...) -> None: ...

class Details(_message.Message):
    __slots__ = ("top_logprobs",)
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    top_logprobs: int
    def __init__(self, top_logprobs: _Optional[int] = ...) -> None: ...

class TokenDetail(_message.Message):
    __slots__ = ("logprob", "text", "alternatives")
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    logprob: float
    text: bytes
    alternatives: _containers.RepeatedCompositeFieldContainer[Alternative]
    def __init__(self, logprob: _Optional[float] = ..., text: _Optional[bytes] = ..., alternatives: _Optional[_Iterable[_Union[Alternative, _Mapping]]] = ...) -> None: ...

class Alternative(_message.Message):
    __slots__ = ("token", "logprob", "text")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    token: int
    logprob: float
    text: bytes
    def __init__(self, token: _Optional[int] = ..., logprob: _Optional[float] = ..., text: _Optional[bytes] = ...) -> None: ...

class Chat(_message.Message):
    __slots__ = ("messages", "tools", "documents", "chat_template_kwargs")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_KWARGS_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    tools: _containers.RepeatedCompositeFieldContainer[_struct_pb2.Struct]
    documents: _containers.RepeatedCompositeFieldContainer[_struct_pb2.Struct]
    chat_template_kwargs: _struct_pb2.Struct
    def __init__(self, messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., tools: _Optional[_Iterable[_Union[_struct_pb2.Struct, _Mapping]]] = ..., documents: _Optional[_Iterable[_Union[_struct_pb2.Struct, _Mapping]]] = ..., chat_template_kwargs: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content", "text_parts", "fields")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    TEXT_PARTS_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    text_parts: _containers.RepeatedScalarFieldContainer[str]
    fields: _struct_pb2.Struct
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ..., text_parts: _Optional[_Iterable[str]] = ..., fields: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("threshold", "learned", "confidence", "llm_only", "slm_only", "random", "speculative", "profile")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    LEARNED_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    LLM_ONLY_FIELD_NUMBER: _ClassVar[int]
    SLM_ONLY_FIELD_NUMBER: _ClassVar[int]
    RANDOM_FIELD_NUMBER: _ClassVar[int]
    SPECULATIVE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    threshold: Threshold
    learned: Learned
    confidence: Confidence
    llm_only: LlmOnly
    slm_only: SlmOnly
    random: Random
    speculative: Speculative
    profile: str
    def __init__(self, threshold: _Optional[_Union[Threshold, _Mapping]] = ..., learned: _Optional[_Union[Learned, _Mapping]] = ..., confidence: _Optional[_Union[Confidence, _Mapping]] = ..., llm_only: _Optional[_Union[LlmOnly, _Mapping]] = ..., slm_only: _Optional[_Union[SlmOnly, _Mapping]] = ..., random: _Optional[_Union[Random, _Mapping]] = ..., speculative: _Optional[_Union[Speculative, _Mapping]] = ..., profile: _Optional[str] = ...) -> None: ...

class Threshold(_message.Message):
    __slots__ = ("tau", "tau_return", "signal", "window")
    TAU_FIELD_NUMBER: _ClassVar[int]
    TAU_RETURN_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    tau: float
    tau_return: float
    signal: _common_pb2.Signal
    window: int
    def __init__(self, tau: _Optional[float] = ..., tau_return: _Optional[float] = ..., signal: _Optional[_Union[_common_pb2.Signal, str]] = ..., window: _Optional[int] = ...) -> None: ...

class Learned(_message.Message):
    __slots__ = ("name", "tau", "explore_seed", "price", "price_by_load")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    EXPLORE_SEED_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    PRICE_BY_LOAD_FIELD_NUMBER: _ClassVar[int]
    name: str
    tau: float
    explore_seed: int
    price: float
    price_by_load: bool
    def __init__(self, name: _Optional[str] = ..., tau: _Optional[float] = ..., explore_seed: _Optional[int] = ..., price: _Optional[float] = ..., price_by_load: bool = ...) -> None: ...

class Confidence(_message.Message):
    __slots__ = ("threshold",)
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    def __init__(self, threshold: _Optional[float] = ...) -> None: ...

class LlmOnly(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SlmOnly(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Random(_message.Message):
    __slots__ = ("slm_probability", "seed")
    SLM_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    slm_probability: float
    seed: int
    def __init__(self, slm_probability: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Speculative(_message.Message):
    __slots__ = ("draft_tokens", "min_confidence")
    DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    draft_tokens: int
    min_confidence: float
    def __init__(self, draft_tokens: _Optional[int] = ..., min_confidence: _Optional[float] = ...) -> None: ...

class EarlyExit(_message.Message):
    __slots__ = ("threshold", "boundaries", "prompt", "end", "max_trial_tokens")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    BOUNDARIES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    MAX_TRIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    boundaries: _containers.RepeatedScalarFieldContainer[str]
    prompt: str
    end: str
    max_trial_tokens: int
    def __init__(self, threshold: _Optional[float] = ..., boundaries: _Optional[_Iterable[str]] = ..., prompt: _Optional[str] = ..., end: _Optional[str] = ..., max_trial_tokens: _Optional[int] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("llm_tokens", "max_switches", "then")
    LLM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_SWITCHES_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    llm_tokens: int
    max_switches: int
    then: BudgetThen
    def __init__(self, llm_tokens: _Optional[int] = ..., max_switches: _Optional[int] = ..., then: _Optional[_Union[BudgetThen, str]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("started", "chunk", "switch", "finished", "more")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SWITCH_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    started: Started
    chunk: Chunk
    switch: Switch
    finished: Finished
    more: _containers.RepeatedCompositeFieldContainer[GenerateResponse]
    def __init__(self, started: _Optional[_Union[Started, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., switch: _Optional[_Union[Switch, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., more: _Optional[_Iterable[_Union[GenerateResponse, _Mapping]]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("session_id", "num_prompt_tokens", "position", "trace_id", "prompt_end")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_END_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    num_prompt_tokens: int
    position: int
    trace_id: str
    prompt_end: str
    def __init__(self, session_id: _Optional[str] = ..., num_prompt_tokens: _Optional[int] = ..., position: _Optional[int] = ..., trace_id: _Optional[str] = ..., prompt_end: _Optional[str] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("model", "position", "tokens", "entropies", "text", "uncertainties", "consultations", "details")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ENTROPIES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTIES_FIELD_NUMBER: _ClassVar[int]
    CONSULTATIONS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    model: _common_pb2.Model
    position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    entropies: _containers.RepeatedScalarFieldContainer[float]
    text: str
    uncertainties: _containers.RepeatedScalarFieldContainer[float]
    consultations: _containers.RepeatedCompositeFieldContainer[_common_pb2.Consultation]
    details: _containers.RepeatedCompositeFieldContainer[TokenDetail]
    def __init__(self, model: _Optional[_Union[_common_pb2.Model, str]] = ..., position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., entropies: _Optional[_Iterable[float]] = ..., text: _Optional[str] = ..., uncertainties: _Optional[_Iterable[float]] = ..., consultations: _Optional[_Iterable[_Union[_common_pb2.Consultation, _Mapping]]] = ..., details: _Optional[_Iterable[_Union[TokenDetail, _Mapping]]] = ...) -> None: ...

class Switch(_message.Message):
    __slots__ = ("to", "position", "entropy", "reason")
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    to: _common_pb2.Model
    position: int
    entropy: float
    reason: SwitchReason
    def __init__(self, to: _Optional[_Union[_common_pb2.Model, str]] = ..., position: _Optional[int] = ..., entropy: _Optional[float] = ..., reason: _Optional[_Union[SwitchReason, str]] = ..., **kwargs) -> None: ...

class Finished(_message.Message):
    __slots__ = ("reason", "usage", "length", "policy", "guard_reason", "budget_spent", "early_exit", "profile")
    REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    GUARD_REASON_FIELD_NUMBER: _ClassVar[int]
    BUDGET_SPENT_FIELD_NUMBER: _ClassVar[int]
    EARLY_EXIT_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    reason: FinishReason
    usage: Usage
    length: int
    policy: Policy
    guard_reason: str
    budget_spent: _containers.RepeatedScalarFieldContainer[str]
    early_exit: EarlyExitTaken
    profile: str
    def __init__(self, reason: _Optional[_Union[FinishReason, str]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., length: _Optional[int] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., guard_reason: _Optional[str] = ..., budget_spent: _Optional[_Iterable[str]] = ..., early_exit: _Optional[_Union[EarlyExitTaken, _Mapping]] = ..., profile: _Optional[str] = ...) -> None: ...

class EarlyExitTaken(_message.Message):
    __slots__ = ("position", "confidence")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    position: int
    confidence: float
    def __init__(self, position: _Optional[int] = ..., confidence: _Optional[float] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("num_prompt_tokens", "num_slm_tokens", "num_llm_tokens", "num_discarded_proposals", "num_switches", "num_catch_up_tokens", "slm_time_us", "llm_time_us", "time_to_first_token_us", "total_time_us", "slm_forward_us", "llm_forward_us", "num_run_ahead_tokens", "num_run_ahead_discarded", "breakdown", "num_draft_tokens", "num_accepted_draft_tokens", "num_trials", "num_trial_tokens", "trial_time_us", "num_consultations", "num_cached_tokens", "num_kept_consultations", "num_reused_prompt_tokens")
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_SLM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_LLM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_DISCARDED_PROPOSALS_FIELD_NUMBER: _ClassVar[int]
    NUM_SWITCHES_FIELD_NUMBER: _ClassVar[int]
    NUM_CATCH_UP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SLM_TIME_US_FIELD_NUMBER: _ClassVar[int]
    LLM_TIME_US_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_TIME_US_FIELD_NUMBER: _ClassVar[int]
    SLM_FORWARD_US_FIELD_NUMBER: _ClassVar[int]
    LLM_FORWARD_US_FIELD_NUMBER: _ClassVar[int]
    NUM_RUN_AHEAD_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_RUN_AHEAD_DISCARDED_FIELD_NUMBER: _ClassVar[int]
    BREAKDOWN_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_TRIALS_FIELD_NUMBER: _ClassVar[int]
    NUM_TRIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRIAL_TIME_US_FIELD_NUMBER: _ClassVar[int]
    NUM_CONSULTATIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_KEPT_CONSULTATIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_REUSED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    num_prompt_tokens: int
    num_slm_tokens: int
    num_llm_tokens: int
    num_discarded_proposals: int
    num_switches: int
    num_catch_up_tokens: int
    slm_time_us: int
    llm_time_us: int
    time_to_first_token_us: int
    total_time_us: int
    slm_forward_us: int
    llm_forward_us: int
    num_run_ahead_tokens: int
    num_run_ahead_discarded: int
    breakdown: TimeBreakdown
    num_draft_tokens: int
    num_accepted_draft_tokens: int
    num_trials: int
    num_trial_tokens: int
    trial_time_us: int
    num_consultations: int
    num_cached_tokens: int
    num_kept_consultations: int
    num_reused_prompt_tokens: int
    def __init__(self, num_prompt_tokens: _Optional[int] = ..., num_slm_tokens: _Optional[int] = ..., num_llm_tokens: _Optional[int] = ..., num_discarded_proposals: _Optional[int] = ..., num_switches: _Optional[int] = ..., num_catch_up_tokens: _Optional[int] = ..., slm_time_us: _Optional[int] = ..., llm_time_us: _Optional[int] = ..., time_to_first_token_us: _Optional[int] = ..., total_time_us: _Optional[int] = ..., slm_forward_us: _Optional[int] = ..., llm_forward_us: _Optional[int] = ..., num_run_ahead_tokens: _Optional[int] = ..., num_run_ahead_discarded: _Optional[int] = ..., breakdown: _Optional[_Union[TimeBreakdown, _Mapping]] = ..., num_draft_tokens: _Optional[int] = ..., num_accepted_draft_tokens: _Optional[int] = ..., num_trials: _Optional[int] = ..., num_trial_tokens: _Optional[int] = ..., trial_time_us: _Optional[int] = ..., num_consultations: _Optional[int] = ..., num_cached_tokens: _Optional[int] = ..., num_kept_consultations: _Optional[int] = ..., num_reused_prompt_tokens: _Optional[int] = ...) -> None: ...

class TimeBreakdown(_message.Message):
    __slots__ = ("slm_forward_us", "llm_forward_us", "background_us", "scheduling_us", "waiting_us", "transport_us", "store_us", "routing_us")
    SLM_FORWARD_US_FIELD_NUMBER: _ClassVar[int]
    LLM_FORWARD_US_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_US_FIELD_NUMBER: _ClassVar[int]
    SCHEDULING_US_FIELD_NUMBER: _ClassVar[int]
    WAITING_US_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_US_FIELD_NUMBER: _ClassVar[int]
    STORE_US_FIELD_NUMBER: _ClassVar[int]
    ROUTING_US_FIELD_NUMBER: _ClassVar[int]
    slm_forward_us: int
    llm_forward_us: int
    background_us: int
    scheduling_us: int
    waiting_us: int
    transport_us: int
    store_us: int
    routing_us: int
    def __init__(self, slm_forward_us: _Optional[int] = ..., llm_forward_us: _Optional[int] = ..., background_us: _Optional[int] = ..., scheduling_us: _Optional[int] = ..., waiting_us: _Optional[int] = ..., transport_us: _Optional[int] = ..., store_us: _Optional[int] = ..., routing_us: _Optional[int] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("source", "position", "tokens", "entropies", "text", "reason", "switch_entropy", "uncertainties", "slm_prompt", "num_read_before", "consultations", "details")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ENTROPIES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SWITCH_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTIES_FIELD_NUMBER: _ClassVar[int]
    SLM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    NUM_READ_BEFORE_FIELD_NUMBER: _ClassVar[int]
    CONSULTATIONS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    source: Source
    position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    entropies: _containers.RepeatedScalarFieldContainer[float]
    text: str
    reason: SwitchReason
    switch_entropy: float
    uncertainties: _containers.RepeatedScalarFieldContainer[float]
    slm_prompt: PromptOfModel
    num_read_before: int
    consultations: _containers.RepeatedCompositeFieldContainer[_common_pb2.Consultation]
    details: _containers.RepeatedCompositeFieldContainer[TokenDetail]
    def __init__(self, source: _Optional[_Union[Source, str]] = ..., position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., entropies: _Optional[_Iterable[float]] = ..., text: _Optional[str] = ..., reason: _Optional[_Union[SwitchReason, str]] = ..., switch_entropy: _Optional[float] = ..., uncertainties: _Optional[_Iterable[float]] = ..., slm_prompt: _Optional[_Union[PromptOfModel, _Mapping]] = ..., num_read_before: _Optional[int] = ..., consultations: _Optional[_Iterable[_Union[_common_pb2.Consultation, _Mapping]]] = ..., details: _Optional[_Iterable[_Union[TokenDetail, _Mapping]]] = ...) -> None: ...

class PromptOfModel(_message.Message):
    __slots__ = ("tokens", "num_read_before")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_READ_BEFORE_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    num_read_before: int
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., num_read_before: _Optional[int] = ...) -> None: ...

class Trajectory(_message.Message):
    __slots__ = ("session_id", "state", "length", "epoch", "segments", "policy", "finished", "created", "updated", "early_exit", "budget", "label", "trace_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    EARLY_EXIT_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    state: TrajectoryState
    length: int
    epoch: int
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    policy: Policy
    finished: Finished
    created: _timestamp_pb2.Timestamp
    updated: _timestamp_pb2.Timestamp
    early_exit: EarlyExit
    budget: Budget
    label: Label
    trace_id: str
    def __init__(self, session_id: _Optional[str] = ..., state: _Optional[_Union[TrajectoryState, str]] = ..., length: _Optional[int] = ..., epoch: _Optional[int] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., early_exit: _Optional[_Union[EarlyExit, _Mapping]] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., label: _Optional[_Union[Label, str]] = ..., trace_id: _Optional[str] = ...) -> None: ...

class LabelTrajectoryRequest(_message.Message):
    __slots__ = ("session_id", "label")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    label: Label
    def __init__(self, session_id: _Optional[str] = ..., label: _Optional[_Union[Label, str]] = ...) -> None: ...

class LabelTrajectoryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ObserveAnswerRequest(_message.Message):
    __slots__ = ("session_id", "given", "tau")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    given: GivenAnswer
    tau: float
    def __init__(self, session_id: _Optional[str] = ..., given: _Optional[_Union[GivenAnswer, _Mapping]] = ..., tau: _Optional[float] = ...) -> None: ...

class GivenAnswer(_message.Message):
    __slots__ = ("chat", "text")
    CHAT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    chat: Chat
    text: str
    def __init__(self, chat: _Optional[_Union[Chat, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class ObserveAnswerResponse(_message.Message):
    __slots__ = ("consultations", "tokens", "writers", "num_positions")
    CONSULTATIONS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    WRITERS_FIELD_NUMBER: _ClassVar[int]
    NUM_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    consultations: _containers.RepeatedCompositeFieldContainer[_common_pb2.Consultation]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    writers: _containers.RepeatedScalarFieldContainer[_common_pb2.Model]
    num_positions: int
    def __init__(self, consultations: _Optional[_Iterable[_Union[_common_pb2.Consultation, _Mapping]]] = ..., tokens: _Optional[_Iterable[int]] = ..., writers: _Optional[_Iterable[_Union[_common_pb2.Model, str]]] = ..., num_positions: _Optional[int] = ...) -> None: ...

class StoreHeadRequest(_message.Message):
    __slots__ = ("name", "data", "inactive", "ttl_s", "description")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    INACTIVE_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    inactive: bool
    ttl_s: int
    description: str
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ..., inactive: bool = ..., ttl_s: _Optional[int] = ..., description: _Optional[str] = ...) -> None: ...

class StoreHeadResponse(_message.Message):
    __slots__ = ("full_name",)
    FULL_NAME_FIELD_NUMBER: _ClassVar[int]
    full_name: str
    def __init__(self, full_name: _Optional[str] = ...) -> None: ...

class ActivateHeadRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ActivateHeadResponse(_message.Message):
    __slots__ = ("full_name",)
    FULL_NAME_FIELD_NUMBER: _ClassVar[int]
    full_name: str
    def __init__(self, full_name: _Optional[str] = ...) -> None: ...

class DeleteHeadRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteHeadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Profile(_message.Message):
    __slots__ = ("name", "policy", "early_exit", "budget", "description", "updated")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    EARLY_EXIT_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    name: str
    policy: Policy
    early_exit: EarlyExit
    budget: Budget
    description: str
    updated: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., early_exit: _Optional[_Union[EarlyExit, _Mapping]] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., description: _Optional[str] = ..., updated: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PutProfileRequest(_message.Message):
    __slots__ = ("profile",)
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    profile: Profile
    def __init__(self, profile: _Optional[_Union[Profile, _Mapping]] = ...) -> None: ...

class PutProfileResponse(_message.Message):
    __slots__ = ("profile",)
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    profile: Profile
    def __init__(self, profile: _Optional[_Union[Profile, _Mapping]] = ...) -> None: ...

class ListProfilesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListProfilesResponse(_message.Message):
    __slots__ = ("profiles",)
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    profiles: _containers.RepeatedCompositeFieldContainer[Profile]
    def __init__(self, profiles: _Optional[_Iterable[_Union[Profile, _Mapping]]] = ...) -> None: ...

class DeleteProfileRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteProfileResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeadStatus(_message.Message):
    __slots__ = ("name", "version", "tau", "detail", "features", "active", "description", "stored", "updated", "ttl_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    tau: float
    detail: str
    features: _containers.RepeatedScalarFieldContainer[str]
    active: bool
    description: str
    stored: bool
    updated: _timestamp_pb2.Timestamp
    ttl_s: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., tau: _Optional[float] = ..., detail: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., active: bool = ..., description: _Optional[str] = ..., stored: bool = ..., updated: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ttl_s: _Optional[int] = ...) -> None: ...

class GetTrajectoryRequest(_message.Message):
    __slots__ = ("session_id", "consultations", "details")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CONSULTATIONS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    consultations: bool
    details: bool
    def __init__(self, session_id: _Optional[str] = ..., consultations: bool = ..., details: bool = ...) -> None: ...

class GetTrajectoryResponse(_message.Message):
    __slots__ = ("trajectory",)
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    trajectory: Trajectory
    def __init__(self, trajectory: _Optional[_Union[Trajectory, _Mapping]] = ...) -> None: ...

class ListTrajectoriesRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "labelled")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    labelled: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., labelled: bool = ...) -> None: ...

class ListTrajectoriesResponse(_message.Message):
    __slots__ = ("trajectories", "next_page_token")
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    trajectories: _containers.RepeatedCompositeFieldContainer[Trajectory]
    next_page_token: str
    def __init__(self, trajectories: _Optional[_Iterable[_Union[Trajectory, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelGenerationRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class CancelGenerationResponse(_message.Message):
    __slots__ = ("cancelled", "state", "length")
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    cancelled: bool
    state: TrajectoryState
    length: int
    def __init__(self, cancelled: bool = ..., state: _Optional[_Union[TrajectoryState, str]] = ..., length: _Optional[int] = ...) -> None: ...

class DeleteTrajectoryRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class DeleteTrajectoryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TokenizeRequest(_message.Message):
    __slots__ = ("text", "chat", "model")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    text: str
    chat: Chat
    model: _common_pb2.Model
    def __init__(self, text: _Optional[str] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ..., model: _Optional[_Union[_common_pb2.Model, str]] = ...) -> None: ...

class TokenizeResponse(_message.Message):
    __slots__ = ("tokens", "texts", "context_length")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    texts: _containers.RepeatedScalarFieldContainer[bytes]
    context_length: int
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., texts: _Optional[_Iterable[bytes]] = ..., context_length: _Optional[int] = ...) -> None: ...

class DetokenizeRequest(_message.Message):
    __slots__ = ("tokens", "model")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    model: _common_pb2.Model
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., model: _Optional[_Union[_common_pb2.Model, str]] = ...) -> None: ...

class DetokenizeResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("role", "address", "ready", "detail", "model", "device", "dtype", "num_parameters", "context_length")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    role: _common_pb2.Model
    address: str
    ready: bool
    detail: str
    model: str
    device: str
    dtype: str
    num_parameters: int
    context_length: int
    def __init__(self, role: _Optional[_Union[_common_pb2.Model, str]] = ..., address: _Optional[str] = ..., ready: bool = ..., detail: _Optional[str] = ..., model: _Optional[str] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., num_parameters: _Optional[int] = ..., context_length: _Optional[int] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("ready", "detail", "workers", "policies", "default_tau", "num_running", "version", "guard", "heads", "vocabularies", "members")
    READY_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TAU_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GUARD_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARIES_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    detail: str
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    policies: _containers.RepeatedScalarFieldContainer[str]
    default_tau: float
    num_running: int
    version: str
    guard: GuardStatus
    heads: _containers.RepeatedCompositeFieldContainer[HeadStatus]
    vocabularies: str
    members: _containers.RepeatedCompositeFieldContainer[WorkerMember]
    def __init__(self, ready: bool = ..., detail: _Optional[str] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., policies: _Optional[_Iterable[str]] = ..., default_tau: _Optional[float] = ..., num_running: _Optional[int] = ..., version: _Optional[str] = ..., guard: _Optional[_Union[GuardStatus, _Mapping]] = ..., heads: _Optional[_Iterable[_Union[HeadStatus, _Mapping]]] = ..., vocabularies: _Optional[str] = ..., members: _Optional[_Iterable[_Union[WorkerMember, _Mapping]]] = ...) -> None: ...

class WorkerMember(_message.Message):
    __slots__ = ("id", "role", "address", "ready", "draining", "detail", "num_running", "num_sessions", "num_free_pages", "num_pages", "fingerprint", "num_cards")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    NUM_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_PAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_PAGES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NUM_CARDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    role: _common_pb2.Model
    address: str
    ready: bool
    draining: bool
    detail: str
    num_running: int
    num_sessions: int
    num_free_pages: int
    num_pages: int
    fingerprint: str
    num_cards: int
    def __init__(self, id: _Optional[str] = ..., role: _Optional[_Union[_common_pb2.Model, str]] = ..., address: _Optional[str] = ..., ready: bool = ..., draining: bool = ..., detail: _Optional[str] = ..., num_running: _Optional[int] = ..., num_sessions: _Optional[int] = ..., num_free_pages: _Optional[int] = ..., num_pages: _Optional[int] = ..., fingerprint: _Optional[str] = ..., num_cards: _Optional[int] = ...) -> None: ...

class DrainWorkerRequest(_message.Message):
    __slots__ = ("worker_id", "undo")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    undo: bool
    def __init__(self, worker_id: _Optional[str] = ..., undo: bool = ...) -> None: ...

class DrainWorkerResponse(_message.Message):
    __slots__ = ("num_running", "num_streams", "is_empty")
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    NUM_STREAMS_FIELD_NUMBER: _ClassVar[int]
    IS_EMPTY_FIELD_NUMBER: _ClassVar[int]
    num_running: int
    num_streams: int
    is_empty: bool
    def __init__(self, num_running: _Optional[int] = ..., num_streams: _Optional[int] = ..., is_empty: bool = ...) -> None: ...

class GuardStatus(_message.Message):
    __slots__ = ("llm_only", "reason", "routed_us", "llm_only_us", "num_routed", "num_llm_only", "default_guard")
    LLM_ONLY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROUTED_US_FIELD_NUMBER: _ClassVar[int]
    LLM_ONLY_US_FIELD_NUMBER: _ClassVar[int]
    NUM_ROUTED_FIELD_NUMBER: _ClassVar[int]
    NUM_LLM_ONLY_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_GUARD_FIELD_NUMBER: _ClassVar[int]
    llm_only: bool
    reason: str
    routed_us: int
    llm_only_us: int
    num_routed: int
    num_llm_only: int
    default_guard: Guard
    def __init__(self, llm_only: bool = ..., reason: _Optional[str] = ..., routed_us: _Optional[int] = ..., llm_only_us: _Optional[int] = ..., num_routed: _Optional[int] = ..., num_llm_only: _Optional[int] = ..., default_guard: _Optional[_Union[Guard, str]] = ...) -> None: ...
