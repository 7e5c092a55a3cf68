"""RSTITCH_TEST_SECURE=1: each stack that a test starts is that of `rstitch up --secure`, and who asks it shows a key.

So the laws, which ask as anybody does, hold behind a lock without a word of their own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import grpc

from rstitch.credentials import Credentials
from rstitch.local.stack import LocalStack

SECURE = os.environ.get("RSTITCH_TEST_SECURE", "") == "1"
# Of the one key that a stack makes.
TENANT = "local" if SECURE else ""
_NOTHING = Credentials()
# What an address of a locked stack wants to be shown.
_wanted: dict[str, Credentials] = {}


def session_name(session_id: str) -> str:
    """How workers and Redis know a session."""
    return f"{TENANT}:{session_id}" if TENANT else session_id


def settings_of(stack: LocalStack) -> dict[str, str]:
    """The settings with which one more router of a stack is as locked as the first."""
    flags = stack.lock.of_router() if stack.lock else []
    return {
        name.removeprefix("--").replace("-", "_"): value for name, value in zip(flags[::2], flags[1::2], strict=True)
    }


def lock_all_stacks() -> None:
    """Makes it so, for this process."""
    # mypy: what is replaced has the same signature.
    LocalStack.__init__ = _locked(LocalStack.__init__)  # type: ignore[method-assign]
    LocalStack.start = _remembered(LocalStack.start)  # type: ignore[method-assign]
    LocalStack.start_router = _remembered(LocalStack.start_router)  # type: ignore[method-assign]
    Credentials.channel = _shown(Credentials.channel)  # type: ignore[method-assign]
    Credentials.aio_channel = _shown(Credentials.aio_channel)  # type: ignore[method-assign]
    grpc.aio.insecure_channel = _never_in_clear(grpc.aio.insecure_channel)


def _locked(make: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(make)
    def made(self: LocalStack, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **{"secure": "credentials" not in kwargs, **kwargs})

    return made


def _remembered(start: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(start)
    def started(self: LocalStack, *args: Any, **kwargs: Any) -> Any:
        result = start(self, *args, **kwargs)
        if self.lock:
            routers = [part.address for part in self.parts if part.name.startswith("router")]
            _wanted.update(dict.fromkeys(routers, self.credentials))
            workers = [part.address for part in self.parts if " worker" in part.name]
            _wanted.update(dict.fromkeys([*self.worker_addresses, *workers], self.lock.prober))
        return result

    return started


def _shown(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(self: Credentials, address: str, *args: Any, **kwargs: Any) -> Any:
        return make(_wanted.get(address, self) if self == _NOTHING else self, address, *args, **kwargs)

    return made


def _never_in_clear(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(address: str, *args: Any, **kwargs: Any) -> Any:
        known = _wanted.get(address)
        return known.aio_channel(address) if known else make(address, *args, **kwargs)

    return made
