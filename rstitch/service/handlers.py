"""Runs every kind of gRPC handler inside a scope.

The interceptors wrap handlers; the four kinds are told apart here and nowhere else. It does not know what a scope
does.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, TypeAlias

import grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Scope = Callable[[Context], AbstractAsyncContextManager[None]]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]]
# Makes a request of its bytes, inside the scope.
Parser = Callable[[bytes], Awaitable[Any]]
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def is_infrastructure(method: str) -> bool:
    """Says whether `method` is health or reflection, which are not worth a span."""
    return method.startswith("/grpc.")


def code_set_on(context: Context) -> grpc.StatusCode:
    """Reads the code that the handler set or aborted with, which the library gives as a number or a StatusCode."""
    code = context.code()
    return code if isinstance(code, grpc.StatusCode) else _CODES.get(code or 0, grpc.StatusCode.UNKNOWN)


def in_scope(handler: Handler, scope: Scope, parser: Parser | None = None) -> Handler:
    """Runs a handler inside `scope(context)`, where `parser`, if there is one, takes the place of the handler's own.

    A streaming handler becomes one coroutine that writes: a call that is cancelled while a reply is being written then
    closes the handler's generator at once and in its own task, not when the garbage collector comes by.
    """
    kind = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
    inner: Any = getattr(handler, kind)

    async def parsed(request: Any) -> Any:
        if parser is None:
            return request
        return _each_parsed(request, parser) if handler.request_streaming else await parser(request)

    async def unary(request: Any, context: Context) -> Any:
        async with scope(context):
            return await inner(await parsed(request), context)

    async def stream(request: Any, context: Context) -> None:
        async with scope(context):
            replies = inner(await parsed(request), context)
            if inspect.isawaitable(replies):
                await replies
                return
            async with aclosing(replies):
                async for reply in replies:
                    await context.write(reply)

    wrapped = stream if handler.response_streaming else unary
    wrap = getattr(grpc, f"{kind}_rpc_method_handler")
    made: Handler = wrap(wrapped, handler.request_deserializer if parser is None else None, handler.response_serializer)
    return made


async def _each_parsed(requests: AsyncIterator[bytes], parser: Parser) -> AsyncIterator[Any]:
    async for request in requests:
        yield await parser(request)
