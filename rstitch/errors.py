"""The errors of the system, the same on both sides of the wire.

    RstitchError
      x Refused                 the caller has to change something first
        x InvalidArgument       a field holds what it may not, or something that does not fit
        x NotFound              there is no such session, profile or head
        x FailedPrecondition    the state does not allow it, such as a session whose answer is still being written
      x ResourceExhausted       there is no room at the moment, or the message is too large
      x Unavailable             nobody answers, or not yet; `retry_after_s` says when to try again
      x DeadlineExceeded        the time given was over before the call was done
      x Interrupted             an answer stopped on the way; `metadata` says where it goes on
      x InternalError           a bug, of the service or of what lies between

A service raises a `RstitchError` with a gRPC code, which alone chooses the class. The server kit turns it into a gRPC
status with `google.rpc.ErrorInfo` (and `RetryInfo`), and a client turns that back into the same error. This module does
not know who raises or who catches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "rstitch"


class RstitchError(Exception):
    """A refused or failed call; made as the subclass that its code belongs to."""

    def __new__(cls, code: grpc.StatusCode, *args: Any, **kwargs: Any) -> Self:
        """Chooses the class by the code."""
        chosen: Any = _CLASSES.get(code, cls) if cls is RstitchError else cls
        made: Self = super().__new__(chosen)
        return made

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,  # constant in UPPER_SNAKE_CASE that a program can branch on
        message: str,  # one sentence for people
        *,
        field: str | None = None,  # of the request, at fault
        remedy: str | None = None,  # what to do about it
        metadata: Mapping[str, str] | None = None,  # further facts, such as `held` or `resume_from`
        retry_after_s: float | None = None,  # None: to try again does not help
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.remedy = remedy
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{where}{self.message}{remedy}"


class Refused(RstitchError):
    """The caller has to change something before it asks again."""


class InvalidArgument(Refused):
    """A field holds what it may not, or something that does not fit."""


class NotFound(Refused):
    """There is no session, profile or head of that name."""


class FailedPrecondition(Refused):
    """The state does not allow the call, such as a session whose answer is still being written."""


class ResourceExhausted(RstitchError):
    """There is no room at the moment (then `retry_after_s` is set), or the message is too large."""


class Unavailable(RstitchError):
    """Nobody answers, or not yet: the same call may succeed later."""


class DeadlineExceeded(RstitchError):
    """The time given was over before the call was done."""


class Interrupted(RstitchError):
    """An answer stopped on the way: cancelled, deleted or taken over."""


class InternalError(RstitchError):
    """There is a bug in the service or in what lies between."""


_CLASSES: dict[grpc.StatusCode, type[RstitchError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ALREADY_EXISTS: FailedPrecondition,
    grpc.StatusCode.UNIMPLEMENTED: Refused,
    grpc.StatusCode.UNAUTHENTICATED: Refused,
    grpc.StatusCode.PERMISSION_DENIED: Refused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.ABORTED: Interrupted,
    grpc.StatusCode.CANCELLED: Interrupted,
    grpc.StatusCode.DATA_LOSS: InternalError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
}


_CODES = {code.value[0]: code for code in _CLASSES}


def invalid(field: str, message: str, remedy: str, reason: str = "INVALID_FIELD") -> RstitchError:
    """Makes the error of a request whose `field` holds what it may not."""
    return RstitchError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field, remedy=remedy)


def to_status(error: RstitchError) -> grpc.Status:
    """Makes the gRPC status that carries `error` over the wire, for `context.abort_with_status`."""
    made: grpc.Status = rpc_status.to_status(to_proto(error))
    return made


def to_proto(error: RstitchError) -> status_pb2.Status:
    """Makes the message that carries `error`, in a call's status or inside a message."""
    ours = {key: value for key, value in (("field", error.field), ("remedy", error.remedy)) if value}
    metadata = {**error.metadata, **ours}
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def from_rpc_error(exc: grpc.RpcError) -> RstitchError:
    """Reads the error behind a failed call.

    A failure that is not ours (no peer, deadline) becomes one with reason `TRANSPORT`; a message that the library
    itself found too large, one with `MESSAGE_TOO_LARGE`.
    """
    code: grpc.StatusCode = exc.code()
    message: str = exc.details() or code.name
    call: Any = exc  # each error that grpc raises is also its call
    return _read(code, message, rpc_status.from_call(call))


def from_proto(data: bytes) -> RstitchError:
    """Reads the error that a serialized `google.rpc.Status` carries. Raises ValueError if it is none."""
    try:
        status = status_pb2.Status.FromString(data)
        code = _CODES[status.code]
    except (DecodeError, KeyError) as error:
        raise ValueError("this is no status of an error") from error
    return _read(code, status.message or code.name, status)


def _read(code: grpc.StatusCode, message: str, status: status_pb2.Status | None) -> RstitchError:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    retry_after_s = None
    found = False
    for detail in status.details if status is not None else ():
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
            found = info.domain == DOMAIN
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    if not found and code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return RstitchError(code, "MESSAGE_TOO_LARGE", f"too large: {message}.", remedy="Send less at once.")
    if not found:
        return RstitchError(code, "TRANSPORT", message, retry_after_s=retry_after_s)
    metadata = dict(info.metadata)
    return RstitchError(
        code,
        info.reason,
        message,
        field=metadata.pop("field", None),
        remedy=metadata.pop("remedy", None),
        metadata=metadata,
        retry_after_s=retry_after_s,
    )
