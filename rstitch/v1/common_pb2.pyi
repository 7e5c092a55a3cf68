from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Model(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_UNSPECIFIED: _ClassVar[Model]
    MODEL_SLM: _ClassVar[Model]
    MODEL_LLM: _ClassVar[Model]

class Signal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIGNAL_UNSPECIFIED: _ClassVar[Signal]
    SIGNAL_ENTROPY: _ClassVar[Signal]
    SIGNAL_CONFIDENCE: _ClassVar[Signal]
    SIGNAL_MARGIN: _ClassVar[Signal]
    SIGNAL_ENTROPY_WINDOW: _ClassVar[Signal]
MODEL_UNSPECIFIED: Model
MODEL_SLM: Model
MODEL_LLM: Model
SIGNAL_UNSPECIFIED: Signal
SIGNAL_ENTROPY: Signal
SIGNAL_CONFIDENCE: Signal
SIGNAL_MARGIN: Signal
SIGNAL_ENTROPY_WINDOW: Signal

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "seed", "position_offset", "min_p", "logit_bias", "presence_penalty", "frequency_penalty", "repetition_penalty", "penalized_from")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    POSITION_OFFSET_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PENALIZED_FROM_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    seed: int
    position_offset: int
    min_p: float
    logit_bias: _containers.ScalarMap[int, float]
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    penalized_from: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., seed: _Optional[int] = ..., position_offset: _Optional[int] = ..., min_p: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., penalized_from: _Optional[int] = ...) -> None: ...

class Consultation(_message.Message):
    __slots__ = ("position", "hidden_state", "entropy", "proposal", "features", "probability", "to_llm", "context_length")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_STATE_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TO_LLM_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    position: int
    hidden_state: bytes
    entropy: float
    proposal: int
    features: _containers.RepeatedScalarFieldContainer[float]
    probability: float
    to_llm: bool
    context_length: int
    def __init__(self, position: _Optional[int] = ..., hidden_state: _Optional[bytes] = ..., entropy: _Optional[float] = ..., proposal: _Optional[int] = ..., features: _Optional[_Iterable[float]] = ..., probability: _Optional[float] = ..., to_llm: bool = ..., context_length: _Optional[int] = ...) -> None: ...
