"""gRPC interceptors that open spans, and always end them, whatever ends the call. They do not know where spans go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry import context as otel_context
from opentelemetry import trace

from rstitch.service import semconv
from rstitch.service.handlers import Context, Continuation, Handler, code_set_on, in_scope, is_infrastructure
from rstitch.service.tracecontext import context_from_metadata, current_metadata

# A client that gives up at its deadline resets the call a moment before the server's own clock says so.
_DEADLINE_SLACK_S = 0.1

# The details by which the library tells our own `cancel` from a CANCELLED that the server sent.
_LOCALLY_CANCELLED = "Locally cancelled by application!"
# What the server is to blame for; the others are the caller's (semantic conventions, RPC).
# fmt: off
_SERVER_FAULTS = {
    grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS,
}
# fmt: on
# No failure either: the caller is told what to do first, as a router is by a worker that holds less than it thought.
# Where that ends an answer, the answer's own span says so.
_CORRECTIONS = {grpc.StatusCode.FAILED_PRECONDITION}
# Asked every few seconds by whoever watches: each would be a trace of its own.
_UNTRACED = ("/GetInfo", "/GetStatus")


class TracingServerInterceptor(grpc.aio.ServerInterceptor):
    """Opens a SERVER span `rstitch.v1.Service/Method`, child of the caller's, current while the handler runs."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or is_infrastructure(method) or method.endswith(_UNTRACED):
            return handler
        metadata = handler_call_details.invocation_metadata

        @asynccontextmanager
        async def scope(context: Context) -> AsyncIterator[None]:
            parent = context_from_metadata(metadata)
            span = self._tracer.start_span(
                method.lstrip("/"), parent, trace.SpanKind.SERVER, attributes=_rpc_attributes(method)
            )
            token = otel_context.attach(trace.set_span_in_context(span, parent))
            code = grpc.StatusCode.OK
            try:
                yield
                code = code_set_on(context)
            except asyncio.CancelledError:
                code = _why_cancelled(context)
                raise
            except grpc.aio.AbortError:
                code = code_set_on(context)
                raise
            except BaseException:
                code = grpc.StatusCode.UNKNOWN
                raise
            finally:
                otel_context.detach(token)
                _end(span, code, code in _SERVER_FAULTS)

        return in_scope(handler, scope)


def tracing_client_interceptors(tracer: trace.Tracer) -> list[Any]:
    """Makes the interceptors of a `grpc.aio` channel, for all calls but stream-unary."""
    return [_UnaryUnary(tracer), _UnaryStream(tracer), _StreamStream(tracer)]


@dataclass(frozen=True)
class _ClientInterceptor:
    _tracer: trace.Tracer

    # `details` is a named tuple, which its type in the stubs does not say.
    async def _intercept(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        method: str = details.method.decode() if isinstance(details.method, bytes) else details.method
        if is_infrastructure(method) or not trace.get_current_span().get_span_context().is_valid:
            return await continuation(details, request)
        span = self._tracer.start_span(
            method.lstrip("/"), kind=trace.SpanKind.CLIENT, attributes=_rpc_attributes(method)
        )
        metadata = list(details.metadata or ()) + current_metadata(trace.set_span_in_context(span))
        try:
            call = await continuation(details._replace(metadata=metadata), request)
        except asyncio.CancelledError:  # by ourselves: no error
            _end(span, grpc.StatusCode.CANCELLED, False)
            raise
        except BaseException:
            _end(span, grpc.StatusCode.UNKNOWN, True)
            raise
        call.add_done_callback(lambda done: _end_with(span, done))
        return call


class _UnaryUnary(_ClientInterceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request)


class _UnaryStream(_ClientInterceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request)


class _StreamStream(_ClientInterceptor, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request_iterator)


def _rpc_attributes(method: str) -> dict[str, str]:
    service, _, name = method.lstrip("/").partition("/")
    return {semconv.RPC_SYSTEM: "grpc", semconv.RPC_SERVICE: service, semconv.RPC_METHOD: name}


def _why_cancelled(context: Context) -> grpc.StatusCode:
    left = context.time_remaining()
    timed_out = left is not None and left <= _DEADLINE_SLACK_S
    return grpc.StatusCode.DEADLINE_EXCEEDED if timed_out else grpc.StatusCode.CANCELLED


def _end_with(span: trace.Span, call: grpc.aio.Call) -> None:
    """Ends the span of a client call that is done. A call that we closed ourselves is no error."""
    code, details = grpc.StatusCode.UNKNOWN, ""
    try:
        code, details = _result_of(call.code()), _result_of(call.details())
    finally:
        ours = code is grpc.StatusCode.CANCELLED and details == _LOCALLY_CANCELLED
        _end(span, code, code is not grpc.StatusCode.OK and code not in _CORRECTIONS and not ours)


def _result_of(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine of a done call, which never waits, here and now: a task could be lost with the loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    finally:
        coroutine.close()
    raise RuntimeError("a call that is done has no status")


def _end(span: trace.Span, code: grpc.StatusCode, failed: bool) -> None:
    span.set_attribute(semconv.RPC_GRPC_STATUS_CODE, code.value[0])
    if failed:
        span.set_status(trace.Status(trace.StatusCode.ERROR, code.name))
    span.end()
