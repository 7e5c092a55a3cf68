from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
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
    __slots__ = ("temperature", "top_p", "top_k", "seed", "position_offset")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    POSITION_OFFSET_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    seed: int
    position_offset: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., seed: _Optional[int] = ..., position_offset: _Optional[int] = ...) -> None: ...
