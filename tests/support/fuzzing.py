"""Requests that nobody would send: made from the descriptors of the contract, with every edge of every type, by a seed.

Most fields have values with which a request gets far, so that what lies deep is reached, too; now and then the bytes
themselves are broken.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import message_factory, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.rpc import error_details_pb2
from grpc_status import rpc_status

# What no error may say: where something is in memory, in files or on the network, or how our code got there.
TELLTALE = re.compile(
    r'0x[0-9a-f]{6}|Traceback|File "|/(work|tmp|root|home|usr|srv)/|\w\.py\b|127\.0\.0\.1|localhost:|\[::|redis://'
    r"|site-packages|object at|<class|Errno|Exception|[a-z]Error\b"
)
NAMES = (
    "", "a", "tiny", "a@0f", "../../etc/passwd", "owner/repo", "http://169.254.169.254/", "file:///etc/passwd", "a\0b",
    "a\nb", "*", "{}", "{a}b", "%s", "$(id)", "a" * 129, "a" * 10_000, "\u202e", "é", "😀", "\ufeff", "'; --",
)  # fmt: skip
TEXTS = (
    "", "a", "the stones", "<|end|>", "<|system|>x", "{{ 7 * 7 }}", "{% for a in range(10**9) %}{% endfor %}", "\0",
    "{{ ''.__class__.__mro__ }}", "\ufffd", "👩‍👩‍👧", "e\u0301" * 50, " " * 500, "x" * 5000, "\n\n", "12",
)  # fmt: skip
INTEGERS = (0, 1, 2, 3, 7, 16, 64, 65, 255, 300, 4096, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
DOUBLES = (0.0, 0.5, 1.0, 0.02, -0.0, -1.0, 2.0, 1e-320, 1e300, float("nan"), float("inf"), float("-inf"))
_BITS = {
    FieldDescriptor.TYPE_UINT32: (0, 2**32),
    FieldDescriptor.TYPE_UINT64: (0, 2**64),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31),
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63),
}


class Fuzzer:
    """Makes requests. `likely` are values, by a field's name, that get far.

    Most requests are tame: they have little else, so that what is wrong with them is one thing, or nothing.
    """

    def __init__(self, seed: int, likely: dict[str, tuple[Any, ...]]) -> None:
        self.dice = random.Random(seed)
        self._likely = likely
        self._tame = True

    def request(self, method: MethodDescriptor) -> bytes:
        self._tame = self.dice.random() < 0.7
        made: bytes = self.message(method.input_type, 0).SerializeToString()
        if made and self.dice.random() < 0.06:
            return self._broken(made)
        return made

    def message(self, kind: Descriptor, depth: int) -> Any:
        if kind.full_name == "google.protobuf.Struct":
            return self._struct()
        message = message_factory.GetMessageClass(kind)()
        # Of a oneof most requests choose one; now and then all are set, of which the last counts.
        chosen = {one.name: self.dice.choice(one.fields) for one in kind.oneofs}
        for field in kind.fields:
            one = field.containing_oneof
            if one is not None and len(one.fields) == 1:  # how the library has `optional`
                one = None
            share = 0.8 if field.name in self._likely else 0.04 if self._tame else 0.35
            wanted = self.dice.random() < (share if one is None else 0.95)
            if (one is None or chosen[one.name] is field) and wanted and depth < 6:
                self._set(message, field, depth)
        return message

    def _set(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        dice = self.dice
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            return
        if not field.is_repeated:
            if field.message_type is not None:
                getattr(message, field.name).CopyFrom(self.message(field.message_type, depth + 1))
            else:
                setattr(message, field.name, self._value(field))
            return
        num = dice.choice((1, 1, 2, 3, 20)) if dice.random() < 0.97 else 200
        values = getattr(message, field.name)
        for _ in range(num):
            if field.message_type is not None:
                values.append(self.message(field.message_type, depth + 1))
            else:
                values.append(self._value(field))

    def _value(self, field: FieldDescriptor) -> Any:
        dice = self.dice
        if field.name in self._likely and dice.random() < (0.98 if self._tame else 0.7):
            return dice.choice(self._likely[field.name])
        match field.type:
            case FieldDescriptor.TYPE_STRING:
                return dice.choice(NAMES + TEXTS)
            case FieldDescriptor.TYPE_BYTES:
                head = (2**63).to_bytes(8, "little")
                return dice.choice((b"", head, head + b"{}", b"\2\0\0\0\0\0\0\0{}", dice.randbytes(40), b"\x80\4."))
            case FieldDescriptor.TYPE_BOOL:
                return dice.random() < 0.5
            case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
                value = dice.choice(DOUBLES)
                return min(max(value, -3e38), 3e38) if field.type == FieldDescriptor.TYPE_FLOAT else value
            case FieldDescriptor.TYPE_ENUM:
                return dice.choice((*range(len(field.enum_type.values) + 1), 99, -1, 2**31 - 1))
        least, beyond = _BITS[field.type]
        return dice.choice([value for value in (*INTEGERS, -1, -6, -(2**31)) if least <= value < beyond])

    def _struct(self) -> struct_pb2.Struct:
        made, dice = struct_pb2.Struct(), self.dice
        names = (
            "name",
            "type",
            "function",
            "properties",
            "required",
            "role",
            "reasoning_content",
            "tool_calls",
            *NAMES,
        )
        for _ in range(dice.choice((0, 1, 2, 5))):
            # A level of JSON is up to three of a message's, of which the library itself takes a hundred.
            self._json(made.fields[dice.choice(names)], dice.choice((0, 1, 3, 24)))
        return made

    def _json(self, value: struct_pb2.Value, depth: int) -> None:
        dice = self.dice
        match dice.randrange(7) if depth == 0 else dice.choice((5, 6)):
            case 0:
                value.null_value = struct_pb2.NULL_VALUE
            case 1:
                value.number_value = dice.choice(DOUBLES)
            case 2 | 3:
                value.string_value = dice.choice(TEXTS)
            case 4:
                value.bool_value = True
            case 5:
                for _ in range(dice.choice((1, 1, 2))):
                    self._json(value.list_value.values.add(), depth - 1 if depth else 0)
                    if depth == 0:
                        break
            case _:
                self._json(value.struct_value.fields[dice.choice(("properties", "required", "a"))], max(depth - 1, 0))

    def _broken(self, data: bytes) -> bytes:
        made, dice = bytearray(data), self.dice
        for _ in range(dice.randrange(1, 4)):
            made[dice.randrange(len(made))] = dice.randrange(256)
        return bytes(made[: dice.randrange(1, len(made) + 1)] if dice.random() < 0.4 else made)


def complaint(error: grpc.aio.AioRpcError) -> str:
    """What is wrong with a refusal; "" if nothing is: it is typed, names its reason, and gives nothing away."""
    code, status = error.code(), rpc_status.from_call(error)
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        return f"{code.name}: {error.details()}"
    info = error_details_pb2.ErrorInfo()
    if status is None or not any(detail.Is(info.DESCRIPTOR) and detail.Unpack(info) for detail in status.details):
        return f"{code.name} without ErrorInfo: {error.details()}"
    if info.domain != "rstitch" or not info.reason or not error.details():
        return f"{code.name} {info.reason} of {info.domain!r}: {error.details()!r}"
    told = f"{error.details()} {' '.join(info.metadata.values())}"
    if found := TELLTALE.search(told):
        return f"{code.name} {info.reason} tells {found[0]!r}: {told}"
    return ""


async def sent(channel: grpc.aio.Channel, method: MethodDescriptor, requests: list[bytes]) -> str | None:
    """Calls a method with these bytes, and reads to the end. None if it is answered, else `complaint`."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    parse: Callable[[bytes], Any] = message_factory.GetMessageClass(method.output_type).FromString
    try:
        if method.client_streaming:
            call = channel.stream_stream(path, response_deserializer=parse)(iter(requests), timeout=60)
        else:
            call = channel.unary_stream(path, response_deserializer=parse)(requests[0], timeout=60)
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        # So the library's client says that it would have sent more when the call was over.
        return "" if error.details() == "Internal error from Core" else complaint(error)
    return None
