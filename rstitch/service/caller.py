"""Who makes a call: what it may do, and whose things it sees. It does not know how that was found out."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What a key may be for."""

    GENERATE = "generate"
    TRAJECTORIES = "trajectories"
    PROFILES = "profiles"
    ADMIN = "admin"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds what a key may take; 0: as much as there is. Those of a minute hold for any 60 s."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    llm_tokens_per_minute: int = 0
    max_running: int = 0  # answers at once
    max_trajectories: int = 0  # that are kept


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls.

    Attributes:
        tenant: whose sessions, profiles and prefixes it sees; "" where no keys are asked for.
        key_id: of the key that it showed, for logs and quotas; no secret. "" where no keys are asked for.
    """

    tenant: str = ""
    key_id: str = ""
    scopes: frozenset[Scope] = frozenset(Scope)
    limits: Limits = Limits()


# Everybody, where no keys are asked for.
ANYBODY = Caller()
_CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)


def caller() -> Caller:
    """Returns who makes the call that is being handled."""
    return _CALLER.get()


def set_caller(value: Caller) -> None:
    """Says who makes the call that this task handles."""
    _CALLER.set(value)
