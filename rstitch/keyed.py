"""A channel whose every call carries a key. It does not know what is called.

An interceptor would do the same, but those of grpc.aio put a queue before each message of a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

Metadata = Sequence[tuple[str, str]]


class KeyedChannel:
    """Stands in for a channel of grpc or grpc.aio, and adds `metadata()` to each call on it."""

    def __init__(self, channel: Any, metadata: Callable[[], Metadata]) -> None:
        self._channel = channel
        self._metadata = metadata

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._keyed(self._channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._keyed(self._channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._keyed(self._channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._keyed(self._channel.stream_stream(*args, **kwargs))

    def close(self, *args: Any) -> Any:
        """Closes the channel; a coroutine where that of grpc.aio is one."""
        return self._channel.close(*args)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._channel.close()

    def _keyed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, metadata: Metadata | None = None, **kwargs: Any) -> Any:
            return method(*args, metadata=[*(metadata or ()), *self._metadata()], **kwargs)

        return call
