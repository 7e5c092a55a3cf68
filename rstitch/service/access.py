"""Lets a call in, or refuses it: by the key that it shows and the table of methods. It does not know where keys are.

A refused call is answered before a byte of its request is read: what a stranger sends is neither held nor parsed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc

from rstitch.errors import RstitchError
from rstitch.service import audit
from rstitch.service.caller import Caller, set_caller
from rstitch.service.handlers import Context, Continuation, Handler, code_set_on, in_scope
from rstitch.service.keys import KeySource, id_in, key_of
from rstitch.service.methods import METHODS, Rule

AUTHORIZATION = "authorization"
_SCHEME = "bearer"
# Who calls a method that is open to everybody, or was not let in: unlike ANYBODY it may do nothing.
_STRANGER = Caller(scopes=frozenset())


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Sets `caller()` for each call that its key is good for, and raises RstitchError in place of the others.

    It belongs inside the interceptor that turns a RstitchError into a status: UNAUTHENTICATED, NO_KEY or BAD_KEY;
    PERMISSION_DENIED, SCOPE_MISSING or METHOD_CLOSED; UNAVAILABLE, KEYS_UNAVAILABLE. It holds for health and reflection
    too. A key counts when its call begins: what is being answered then goes on.

    Args:
        audited: whether refused calls, and those that change something, are noted in the audit log.
        clock: Unix time in s.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        audited: bool = True,
        methods: Mapping[str, Rule] = METHODS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._audited = audited
        self._methods = methods
        self._clock = clock
        if audited:
            audit.setup_audit()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:  # there is no such method, whoever asks
            return None
        method: str = handler_call_details.method
        rule = self._methods.get(method)
        if rule is not None and rule.open:
            return in_scope(handler, self._scope(method, changes=rule.changes))
        secret = _shown(handler_call_details.invocation_metadata)
        by: Caller | None = None
        try:
            by = self._who(secret)
            _check_scope(method, rule, by)
        except RstitchError as error:
            return _refusing(error, self._scope(method, by, claimed_id=id_in(secret or "") if by is None else ""))
        return in_scope(handler, self._scope(method, by, changes=rule is not None and rule.changes))

    def _who(self, secret: str | None) -> Caller:
        """Returns who shows a secret. Raises RstitchError, in the same words for all that are not good."""
        if secret is None:
            remedy = "Send the metadata `authorization: Bearer KEY`; `rstitch keys add` makes keys."
            raise RstitchError(grpc.StatusCode.UNAUTHENTICATED, "NO_KEY", "a key is needed.", remedy=remedy)
        key = key_of(secret, self._keys, self._clock())
        if key is None:
            remedy = "Show one that holds, as `authorization: Bearer KEY`; `rstitch keys ls` says which do."
            raise RstitchError(grpc.StatusCode.UNAUTHENTICATED, "BAD_KEY", "the key is not valid.", remedy=remedy)
        return key.caller()

    def _scope(
        self, method: str, by: Caller | None = None, *, changes: bool = False, claimed_id: str = ""
    ) -> Callable[[Context], Any]:
        @asynccontextmanager
        async def scope(context: Context) -> AsyncIterator[None]:
            set_caller(by or _STRANGER)
            code, reason = "OK", ""
            try:
                yield
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except RstitchError as error:
                code, reason = error.code.name, error.reason
                raise
            except grpc.aio.AbortError:
                code = code_set_on(context).name
                raise
            except BaseException:
                code = "INTERNAL"
                raise
            finally:
                if self._audited and (changes or code not in ("OK", "CANCELLED")):
                    audit.note(method, by, context.peer(), code, reason, claimed_id)

        return scope


def _shown(metadata: Any) -> str | None:
    """Returns the secret in the metadata of a call: None if nothing is shown, "" if it is not one bearer's key."""
    shown = [value for name, value in metadata or () if name == AUTHORIZATION]
    if not shown:
        return None
    scheme, _, secret = str(shown[0]).partition(" ")
    return secret.strip() if len(shown) == 1 and scheme.lower() == _SCHEME else ""


def _check_scope(method: str, rule: Rule | None, by: Caller) -> None:
    """Raises RstitchError (PERMISSION_DENIED) unless `by` may call the method."""
    if rule is None:
        told = f"{method} has no rule of who may call it."
        raise RstitchError(
            grpc.StatusCode.PERMISSION_DENIED, "METHOD_CLOSED", told, remedy="It belongs into the table of methods."
        )
    if rule.scopes and not rule.scopes & by.scopes:
        scopes = " or ".join(sorted(rule.scopes))
        raise RstitchError(
            grpc.StatusCode.PERMISSION_DENIED,
            "SCOPE_MISSING",
            f"the key lacks the scope {scopes}.",
            remedy=f"Use one made by `rstitch keys add --scope {sorted(rule.scopes)[0]}`.",
            metadata={"scope": ",".join(sorted(rule.scopes))},
        )


def _refusing(error: RstitchError, scope: Callable[[Context], Any]) -> Handler:
    """Makes a handler that raises `error`. On the wire every call is a stream of messages; this one reads none."""

    async def refuse(requests: AsyncIterator[Any], context: Context) -> None:
        raise error

    return in_scope(grpc.stream_stream_rpc_method_handler(refuse), scope)
