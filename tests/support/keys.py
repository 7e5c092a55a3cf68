"""Keys for tests: made, put where a server finds them, and shown."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from router_svc.access import changes
from router_svc.access.key_store import KeyStore
from rstitch.errors import RstitchError, from_rpc_error
from rstitch.service.caller import Limits, Scope
from rstitch.service.key_file import save
from rstitch.service.keys import Key
from storage.redis_address import RedisAddress


@dataclass(frozen=True)
class Shown:
    """A key, and the secret that its owner shows."""

    key: Key
    secret: str

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return bearer(self.secret)


def bearer(secret: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {secret}")]


def make(scopes: Collection[Scope] = tuple(Scope), tenant: str = "acme", **changed: Any) -> Shown:
    key, secret = changes.made(tenant, scopes, changed.pop("limits", Limits()), None, time.time())
    return Shown(replace(key, **changed), secret)


def write(path: Path, shown: Iterable[Shown]) -> Path:
    save(path, {each.key.id: each.key for each in shown})
    return path


async def put(redis_url: str, *shown: Shown) -> None:
    store = KeyStore(RedisAddress(redis_url), patience_s=1)
    await store.change(lambda keys: keys.update({each.key.id: each.key for each in shown}))
    await store.close()


async def refusal(address: str, method: str, metadata: Any = (), request: bytes = b"") -> tuple[str, str] | None:
    """Code and reason of a refused call, None if it was answered; its first answer is not waited out."""
    return told(await error_of(address, method, metadata, request))


def told(error: RstitchError | None) -> tuple[str, str] | None:
    return (error.code.name, error.reason) if error is not None else None


async def error_of(address: str, method: str, metadata: Any = (), request: bytes = b"") -> RstitchError | None:
    async with grpc.aio.insecure_channel(address) as channel:
        return await error_on(channel, method, metadata, request)


async def error_on(
    channel: grpc.aio.Channel, method: str, metadata: Any = (), request: bytes = b""
) -> RstitchError | None:
    """The error that a call with one message ends with, whatever its kind: on the wire all are alike."""
    call = channel.unary_stream(method)(request, metadata=tuple(metadata), timeout=20)
    try:
        await call.read()
        if call.done() and await call.code() is not grpc.StatusCode.OK:
            await call.read()  # which raises
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    finally:
        call.cancel()
    return None
