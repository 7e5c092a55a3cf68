"""One place where exceptions become gRPC statuses, so that handlers hold no try/except.

What no handler should see, such as a message that does not parse, is refused here, too (`parsing`), inside whatever
wants to know of it. It does not know what a service does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext

import grpc

from rstitch.channels import MAX_MESSAGE_BYTES
from rstitch.errors import RstitchError, to_status
from rstitch.service.failures import internal
from rstitch.service.handlers import Context, Continuation, Handler, code_set_on, in_scope
from rstitch.service.parsing import Large, Parser


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns a `RstitchError` into its status and anything else into INTERNAL, logged; a cancelled call stays so.

    `refused` is told of each, with the call's method.
    """

    def __init__(self, refused: Callable[[str, RstitchError], None] = lambda method, error: None) -> None:
        self._refused = refused

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
                self._refused(method, error)
                await context.abort_with_status(to_status(error))
            except Exception as error:  # noqa: BLE001 - the one table that translates whatever is left
                # So a method of the contract says that this service has none; the code is set, the caller gets it.
                if isinstance(error, NotImplementedError) and code_set_on(context) is grpc.StatusCode.UNIMPLEMENTED:
                    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not served here.")
                failed = internal(error, "call failed", method=method)
                self._refused(method, failed)
                await context.abort_with_status(to_status(failed))

        return in_scope(handler, scope)


class ParsingInterceptor(grpc.aio.ServerInterceptor):
    """Parses requests, and raises RstitchError for those that no handler should see.

    It is the innermost: a request is parsed once its caller is let in, and the audit log has it if it is refused.
    """

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._large = Large()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        parser = Parser(handler.request_deserializer, self._max_message_bytes, self._large)
        return in_scope(handler, lambda _: nullcontext(), parser)
