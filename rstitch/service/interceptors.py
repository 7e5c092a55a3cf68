"""One place where exceptions become gRPC statuses, so that handlers hold no try/except.

It also refuses what no handler should see: messages that do not parse or are too large. It does not know what a
service does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from rstitch.channels import MAX_MESSAGE_BYTES
from rstitch.errors import RstitchError, invalid, to_status
from rstitch.service.handlers import Context, Continuation, Handler, code_set_on, in_scope

_log = structlog.get_logger(__name__)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns a `RstitchError` into its status and anything else into INTERNAL, logged; a cancelled call stays so."""

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None:
            return handler

        @asynccontextmanager
        async def scope(context: Context) -> AsyncIterator[None]:
            try:
                yield
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except RstitchError as error:
                await context.abort_with_status(to_status(error))
            except Exception as error:  # noqa: BLE001 - the one table that translates whatever is left
                # So a method of the contract says that this service has none; the code is set, the caller gets it.
                if isinstance(error, NotImplementedError) and code_set_on(context) is grpc.StatusCode.UNIMPLEMENTED:
                    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not served here.")
                _log.exception("call failed", method=method)
                await context.abort_with_status(to_status(_internal(error)))

        parse = _guarded_deserializer(handler.request_deserializer, self._max_message_bytes)
        return in_scope(handler, scope, parse, _each_good if handler.request_streaming else _good)


def _internal(error: Exception) -> RstitchError:
    session_id = structlog.contextvars.get_contextvars().get("session_id")
    return RstitchError(
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        f"the service failed: {type(error).__name__}",
        remedy="This is a bug; the service's log has the details.",
        metadata={"session_id": session_id} if session_id else {},
    )


@dataclass(frozen=True, slots=True)
class _Refused:
    """Stands in for a message that is not handed to the handler."""

    error: RstitchError


def _guarded_deserializer(parse: Callable[[bytes], Any] | None, max_message_bytes: int) -> Callable[[bytes], Any]:
    """Makes a parser that never raises: left to itself, the library answers a bad message without a reason."""

    def guarded(data: bytes) -> Any:
        if len(data) > max_message_bytes:
            told = f"the message has {len(data)} bytes, the limit is {max_message_bytes}."
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            return _Refused(RstitchError(code, "MESSAGE_TOO_LARGE", told, remedy="Send less at once."))
        try:
            return parse(data) if parse is not None else data
        except Exception as error:  # noqa: BLE001 - what protobuf raises differs between its backends
            remedy = "Encode it with the contract in protos/ and text as UTF-8."
            return _Refused(invalid("request", f"the message does not parse: {error}.", remedy, "MALFORMED_MESSAGE"))

    return guarded


def _good(request: Any) -> Any:
    if isinstance(request, _Refused):
        raise request.error
    return request


async def _each_good(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _good(request)
