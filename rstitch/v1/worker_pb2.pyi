from rstitch.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Logits(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOGITS_UNSPECIFIED: _ClassVar[Logits]
    LOGITS_NONE: _ClassVar[Logits]
    LOGITS_TOP_K: _ClassVar[Logits]
    LOGITS_FULL: _ClassVar[Logits]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_BACKGROUND: _ClassVar[Priority]
LOGITS_UNSPECIFIED: Logits
LOGITS_NONE: Logits
LOGITS_TOP_K: Logits
LOGITS_FULL: Logits
PRIORITY_UNSPECIFIED: Priority
PRIORITY_BACKGROUND: Priority

class Returns(_message.Message):
    __slots__ = ("logits", "top_k", "hidden_state")
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_STATE_FIELD_NUMBER: _ClassVar[int]
    logits: Logits
    top_k: int
    hidden_state: bool
    def __init__(self, logits: _Optional[_Union[Logits, str]] = ..., top_k: _Optional[int] = ..., hidden_state: bool = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("session_id", "position", "tokens", "sampling", "returns", "prefix_checksum", "cache_salt", "masked_tokens")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    RETURNS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    MASKED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    sampling: _common_pb2.Sampling
    returns: Returns
    prefix_checksum: int
    cache_salt: str
    masked_tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session_id: _Optional[str] = ..., position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[_common_pb2.Sampling, _Mapping]] = ..., returns: _Optional[_Union[Returns, _Mapping]] = ..., prefix_checksum: _Optional[int] = ..., cache_salt: _Optional[str] = ..., masked_tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("token", "logprob", "entropy", "logits", "top_logits", "hidden_state", "held", "timing")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGITS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_STATE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    token: int
    logprob: float
    entropy: float
    logits: bytes
    top_logits: _containers.RepeatedCompositeFieldContainer[TopLogit]
    hidden_state: bytes
    held: int
    timing: Timing
    def __init__(self, token: _Optional[int] = ..., logprob: _Optional[float] = ..., entropy: _Optional[float] = ..., logits: _Optional[bytes] = ..., top_logits: _Optional[_Iterable[_Union[TopLogit, _Mapping]]] = ..., hidden_state: _Optional[bytes] = ..., held: _Optional[int] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class TopLogit(_message.Message):
    __slots__ = ("token", "logit")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGIT_FIELD_NUMBER: _ClassVar[int]
    token: int
    logit: float
    def __init__(self, token: _Optional[int] = ..., logit: _Optional[float] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_us", "forward_us", "total_us", "num_steps", "num_computed_tokens", "host_us", "wait_us", "num_cached_tokens")
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    FORWARD_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HOST_US_FIELD_NUMBER: _ClassVar[int]
    WAIT_US_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    queue_us: int
    forward_us: int
    total_us: int
    num_steps: int
    num_computed_tokens: int
    host_us: int
    wait_us: int
    num_cached_tokens: int
    def __init__(self, queue_us: _Optional[int] = ..., forward_us: _Optional[int] = ..., total_us: _Optional[int] = ..., num_steps: _Optional[int] = ..., num_computed_tokens: _Optional[int] = ..., host_us: _Optional[int] = ..., wait_us: _Optional[int] = ..., num_cached_tokens: _Optional[int] = ...) -> None: ...

class Handoff(_message.Message):
    __slots__ = ("above", "below", "hidden_state", "signal", "window", "recent_entropies", "head", "terms")
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_STATE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    RECENT_ENTROPIES_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    above: float
    below: float
    hidden_state: bool
    signal: _common_pb2.Signal
    window: int
    recent_entropies: _containers.RepeatedScalarFieldContainer[float]
    head: str
    terms: HeadTerms
    def __init__(self, above: _Optional[float] = ..., below: _Optional[float] = ..., hidden_state: bool = ..., signal: _Optional[_Union[_common_pb2.Signal, str]] = ..., window: _Optional[int] = ..., recent_entropies: _Optional[_Iterable[float]] = ..., head: _Optional[str] = ..., terms: _Optional[_Union[HeadTerms, _Mapping]] = ...) -> None: ...

class HeadTerms(_message.Message):
    __slots__ = ("position", "explore_seed", "price", "report", "recent_entropies", "segment_length", "num_llm_tokens", "llm_tokens_left", "max_reported")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    EXPLORE_SEED_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    RECENT_ENTROPIES_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    NUM_LLM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LLM_TOKENS_LEFT_FIELD_NUMBER: _ClassVar[int]
    MAX_REPORTED_FIELD_NUMBER: _ClassVar[int]
    position: int
    explore_seed: int
    price: float
    report: bool
    recent_entropies: _containers.RepeatedScalarFieldContainer[float]
    segment_length: int
    num_llm_tokens: int
    llm_tokens_left: int
    max_reported: int
    def __init__(self, position: _Optional[int] = ..., explore_seed: _Optional[int] = ..., price: _Optional[float] = ..., report: bool = ..., recent_entropies: _Optional[_Iterable[float]] = ..., segment_length: _Optional[int] = ..., num_llm_tokens: _Optional[int] = ..., llm_tokens_left: _Optional[int] = ..., max_reported: _Optional[int] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("session_id", "position", "tokens", "sampling", "max_tokens", "stop_tokens", "handoff", "prefix_checksum", "traceparent", "priority", "draft", "cache_salt", "masked_tokens", "top_logprobs", "grammar")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_FIELD_NUMBER: _ClassVar[int]
    PREFIX_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    MASKED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    sampling: _common_pb2.Sampling
    max_tokens: int
    stop_tokens: _containers.RepeatedScalarFieldContainer[int]
    handoff: Handoff
    prefix_checksum: int
    traceparent: str
    priority: Priority
    draft: _containers.RepeatedScalarFieldContainer[int]
    cache_salt: str
    masked_tokens: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: int
    grammar: Grammar
    def __init__(self, session_id: _Optional[str] = ..., position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[_common_pb2.Sampling, _Mapping]] = ..., max_tokens: _Optional[int] = ..., stop_tokens: _Optional[_Iterable[int]] = ..., handoff: _Optional[_Union[Handoff, _Mapping]] = ..., prefix_checksum: _Optional[int] = ..., traceparent: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ..., draft: _Optional[_Iterable[int]] = ..., cache_salt: _Optional[str] = ..., masked_tokens: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[int] = ..., grammar: _Optional[_Union[Grammar, _Mapping]] = ...) -> None: ...

class Grammar(_message.Message):
    __slots__ = ("json_schema", "start", "thinking_end", "thinking_begin")
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    THINKING_END_FIELD_NUMBER: _ClassVar[int]
    THINKING_BEGIN_FIELD_NUMBER: _ClassVar[int]
    json_schema: str
    start: int
    thinking_end: str
    thinking_begin: str
    def __init__(self, json_schema: _Optional[str] = ..., start: _Optional[int] = ..., thinking_end: _Optional[str] = ..., thinking_begin: _Optional[str] = ...) -> None: ...

class Alternatives(_message.Message):
    __slots__ = ("tokens", "logprobs")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("tokens", "entropies", "logprobs", "finish", "uncertainties", "consultations", "alternatives")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ENTROPIES_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTIES_FIELD_NUMBER: _ClassVar[int]
    CONSULTATIONS_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    entropies: _containers.RepeatedScalarFieldContainer[float]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    finish: Finish
    uncertainties: _containers.RepeatedScalarFieldContainer[float]
    consultations: _containers.RepeatedCompositeFieldContainer[_common_pb2.Consultation]
    alternatives: _containers.RepeatedCompositeFieldContainer[Alternatives]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., entropies: _Optional[_Iterable[float]] = ..., logprobs: _Optional[_Iterable[float]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ..., uncertainties: _Optional[_Iterable[float]] = ..., consultations: _Optional[_Iterable[_Union[_common_pb2.Consultation, _Mapping]]] = ..., alternatives: _Optional[_Iterable[_Union[Alternatives, _Mapping]]] = ...) -> None: ...

class DecodeManyRequest(_message.Message):
    __slots__ = ("stream", "run")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    stream: int
    run: DecodeRequest
    def __init__(self, stream: _Optional[int] = ..., run: _Optional[_Union[DecodeRequest, _Mapping]] = ...) -> None: ...

class DecodeManyResponse(_message.Message):
    __slots__ = ("parts",)
    class Part(_message.Message):
        __slots__ = ("stream", "response", "status")
        STREAM_FIELD_NUMBER: _ClassVar[int]
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        stream: int
        response: DecodeResponse
        status: bytes
        def __init__(self, stream: _Optional[int] = ..., response: _Optional[_Union[DecodeResponse, _Mapping]] = ..., status: _Optional[bytes] = ...) -> None: ...
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[DecodeManyResponse.Part]
    def __init__(self, parts: _Optional[_Iterable[_Union[DecodeManyResponse.Part, _Mapping]]] = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ("reason", "held", "proposal", "timing", "num_accepted", "num_consultations")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Finish.Reason]
        REASON_STOP: _ClassVar[Finish.Reason]
        REASON_LENGTH: _ClassVar[Finish.Reason]
        REASON_HANDOFF: _ClassVar[Finish.Reason]
        REASON_SUPERSEDED: _ClassVar[Finish.Reason]
        REASON_CONTEXT: _ClassVar[Finish.Reason]
    REASON_UNSPECIFIED: Finish.Reason
    REASON_STOP: Finish.Reason
    REASON_LENGTH: Finish.Reason
    REASON_HANDOFF: Finish.Reason
    REASON_SUPERSEDED: Finish.Reason
    REASON_CONTEXT: Finish.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NUM_CONSULTATIONS_FIELD_NUMBER: _ClassVar[int]
    reason: Finish.Reason
    held: int
    proposal: Proposal
    timing: Timing
    num_accepted: int
    num_consultations: int
    def __init__(self, reason: _Optional[_Union[Finish.Reason, str]] = ..., held: _Optional[int] = ..., proposal: _Optional[_Union[Proposal, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., num_accepted: _Optional[int] = ..., num_consultations: _Optional[int] = ...) -> None: ...

class Proposal(_message.Message):
    __slots__ = ("token", "entropy", "logprob", "hidden_state", "uncertainty", "alternatives")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_STATE_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTY_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    token: int
    entropy: float
    logprob: float
    hidden_state: bytes
    uncertainty: float
    alternatives: Alternatives
    def __init__(self, token: _Optional[int] = ..., entropy: _Optional[float] = ..., logprob: _Optional[float] = ..., hidden_state: _Optional[bytes] = ..., uncertainty: _Optional[float] = ..., alternatives: _Optional[_Union[Alternatives, _Mapping]] = ...) -> None: ...

class PutHeadRequest(_message.Message):
    __slots__ = ("name", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class PutHeadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForkSessionRequest(_message.Message):
    __slots__ = ("source_session_id", "session_id", "position", "cache_salt")
    SOURCE_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    source_session_id: str
    session_id: str
    position: int
    cache_salt: str
    def __init__(self, source_session_id: _Optional[str] = ..., session_id: _Optional[str] = ..., position: _Optional[int] = ..., cache_salt: _Optional[str] = ...) -> None: ...

class ForkSessionResponse(_message.Message):
    __slots__ = ("held", "num_cached_tokens")
    HELD_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    held: int
    num_cached_tokens: int
    def __init__(self, held: _Optional[int] = ..., num_cached_tokens: _Optional[int] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: int
    def __init__(self, held: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("undo",)
    UNDO_FIELD_NUMBER: _ClassVar[int]
    undo: bool
    def __init__(self, undo: bool = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("num_running", "num_streams")
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    NUM_STREAMS_FIELD_NUMBER: _ClassVar[int]
    num_running: int
    num_streams: int
    def __init__(self, num_running: _Optional[int] = ..., num_streams: _Optional[int] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("role", "model", "tokenizer_fingerprint", "vocab_size", "stop_tokens", "context_length", "hidden_size", "dtype", "device", "capacity", "architecture", "num_parameters", "instance_id", "version", "step_costs", "counters", "path", "batch_invariant", "head_terms", "grammars", "weights_fingerprint", "worker_id", "draining", "num_cards", "decode_many")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STEP_COSTS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BATCH_INVARIANT_FIELD_NUMBER: _ClassVar[int]
    HEAD_TERMS_FIELD_NUMBER: _ClassVar[int]
    GRAMMARS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    NUM_CARDS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MANY_FIELD_NUMBER: _ClassVar[int]
    role: _common_pb2.Model
    model: str
    tokenizer_fingerprint: str
    vocab_size: int
    stop_tokens: _containers.RepeatedScalarFieldContainer[int]
    context_length: int
    hidden_size: int
    dtype: str
    device: str
    capacity: Capacity
    architecture: str
    num_parameters: int
    instance_id: str
    version: str
    step_costs: _containers.RepeatedCompositeFieldContainer[StepCost]
    counters: Counters
    path: str
    batch_invariant: bool
    head_terms: bool
    grammars: bool
    weights_fingerprint: str
    worker_id: str
    draining: bool
    num_cards: int
    decode_many: bool
    def __init__(self, role: _Optional[_Union[_common_pb2.Model, str]] = ..., model: _Optional[str] = ..., tokenizer_fingerprint: _Optional[str] = ..., vocab_size: _Optional[int] = ..., stop_tokens: _Optional[_Iterable[int]] = ..., context_length: _Optional[int] = ..., hidden_size: _Optional[int] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., capacity: _Optional[_Union[Capacity, _Mapping]] = ..., architecture: _Optional[str] = ..., num_parameters: _Optional[int] = ..., instance_id: _Optional[str] = ..., version: _Optional[str] = ..., step_costs: _Optional[_Iterable[_Union[StepCost, _Mapping]]] = ..., counters: _Optional[_Union[Counters, _Mapping]] = ..., path: _Optional[str] = ..., batch_invariant: bool = ..., head_terms: bool = ..., grammars: bool = ..., weights_fingerprint: _Optional[str] = ..., worker_id: _Optional[str] = ..., draining: bool = ..., num_cards: _Optional[int] = ..., decode_many: bool = ...) -> None: ...

class StepCost(_message.Message):
    __slots__ = ("num_rows", "num_tokens_per_row", "step_us")
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_PER_ROW_FIELD_NUMBER: _ClassVar[int]
    STEP_US_FIELD_NUMBER: _ClassVar[int]
    num_rows: int
    num_tokens_per_row: int
    step_us: int
    def __init__(self, num_rows: _Optional[int] = ..., num_tokens_per_row: _Optional[int] = ..., step_us: _Optional[int] = ...) -> None: ...

class Counters(_message.Message):
    __slots__ = ("num_steps", "num_computed_tokens", "num_kept_tokens", "num_evictions", "num_refusals", "forward_us", "num_graph_steps", "num_graph_misses", "num_delayed_steps", "delayed_us", "num_cached_tokens", "num_cache_hits", "num_cache_evictions")
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_KEPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_REFUSALS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_US_FIELD_NUMBER: _ClassVar[int]
    NUM_GRAPH_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_GRAPH_MISSES_FIELD_NUMBER: _ClassVar[int]
    NUM_DELAYED_STEPS_FIELD_NUMBER: _ClassVar[int]
    DELAYED_US_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHE_HITS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHE_EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    num_steps: int
    num_computed_tokens: int
    num_kept_tokens: int
    num_evictions: int
    num_refusals: int
    forward_us: int
    num_graph_steps: int
    num_graph_misses: int
    num_delayed_steps: int
    delayed_us: int
    num_cached_tokens: int
    num_cache_hits: int
    num_cache_evictions: int
    def __init__(self, num_steps: _Optional[int] = ..., num_computed_tokens: _Optional[int] = ..., num_kept_tokens: _Optional[int] = ..., num_evictions: _Optional[int] = ..., num_refusals: _Optional[int] = ..., forward_us: _Optional[int] = ..., num_graph_steps: _Optional[int] = ..., num_graph_misses: _Optional[int] = ..., num_delayed_steps: _Optional[int] = ..., delayed_us: _Optional[int] = ..., num_cached_tokens: _Optional[int] = ..., num_cache_hits: _Optional[int] = ..., num_cache_evictions: _Optional[int] = ...) -> None: ...

class Capacity(_message.Message):
    __slots__ = ("page_size", "num_pages", "num_free_pages", "num_sessions", "num_runs", "max_batch_tokens", "num_cached_pages", "num_shared_pages", "num_window_pages", "num_free_window_pages", "num_states", "num_free_states", "num_available_pages", "num_waiting_runs")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_PAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_PAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_PAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARED_PAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_WINDOW_PAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_WINDOW_PAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_STATES_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_STATES_FIELD_NUMBER: _ClassVar[int]
    NUM_AVAILABLE_PAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_RUNS_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    num_pages: int
    num_free_pages: int
    num_sessions: int
    num_runs: int
    max_batch_tokens: int
    num_cached_pages: int
    num_shared_pages: int
    num_window_pages: int
    num_free_window_pages: int
    num_states: int
    num_free_states: int
    num_available_pages: int
    num_waiting_runs: int
    def __init__(self, page_size: _Optional[int] = ..., num_pages: _Optional[int] = ..., num_free_pages: _Optional[int] = ..., num_sessions: _Optional[int] = ..., num_runs: _Optional[int] = ..., max_batch_tokens: _Optional[int] = ..., num_cached_pages: _Optional[int] = ..., num_shared_pages: _Optional[int] = ..., num_window_pages: _Optional[int] = ..., num_free_window_pages: _Optional[int] = ..., num_states: _Optional[int] = ..., num_free_states: _Optional[int] = ..., num_available_pages: _Optional[int] = ..., num_waiting_runs: _Optional[int] = ...) -> None: ...

class GetTokenizerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTokenizerResponse(_message.Message):
    __slots__ = ("data", "chat_template", "special_tokens", "early_exit", "named_templates")
    class SpecialTokensEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class NamedTemplatesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EARLY_EXIT_FIELD_NUMBER: _ClassVar[int]
    NAMED_TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    chat_template: str
    special_tokens: _containers.ScalarMap[str, str]
    early_exit: ExitStyle
    named_templates: _containers.ScalarMap[str, str]
    def __init__(self, data: _Optional[bytes] = ..., chat_template: _Optional[str] = ..., special_tokens: _Optional[_Mapping[str, str]] = ..., early_exit: _Optional[_Union[ExitStyle, _Mapping]] = ..., named_templates: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ExitStyle(_message.Message):
    __slots__ = ("boundaries", "prompt", "end", "thinking_end")
    BOUNDARIES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    THINKING_END_FIELD_NUMBER: _ClassVar[int]
    boundaries: _containers.RepeatedScalarFieldContainer[str]
    prompt: str
    end: str
    thinking_end: str
    def __init__(self, boundaries: _Optional[_Iterable[str]] = ..., prompt: _Optional[str] = ..., end: _Optional[str] = ..., thinking_end: _Optional[str] = ...) -> None: ...

class ObserveRequest(_message.Message):
    __slots__ = ("tokens", "start", "above", "masked_tokens", "cache_salt")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    MASKED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    start: int
    above: float
    masked_tokens: _containers.RepeatedScalarFieldContainer[int]
    cache_salt: str
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., start: _Optional[int] = ..., above: _Optional[float] = ..., masked_tokens: _Optional[_Iterable[int]] = ..., cache_salt: _Optional[str] = ...) -> None: ...

class ObserveResponse(_message.Message):
    __slots__ = ("consultations", "num_positions")
    CONSULTATIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    consultations: _containers.RepeatedCompositeFieldContainer[_common_pb2.Consultation]
    num_positions: int
    def __init__(self, consultations: _Optional[_Iterable[_Union[_common_pb2.Consultation, _Mapping]]] = ..., num_positions: _Optional[int] = ...) -> None: ...
