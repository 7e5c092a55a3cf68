"""What the engine refuses, as types. It knows no status codes: the service translates them in one table."""

from __future__ import annotations


class EngineError(Exception):
    """Base of all that the engine refuses or fails with.

    It names the request's field at fault, a remedy, and how many tokens the session holds if that helps to go on.
    """

    reason = "ENGINE"  # for programs

    def __init__(self, message: str, *, field: str | None = None, remedy: str | None = None, held: int | None = None):
        super().__init__(message)
        self.field = field
        self.remedy = remedy
        self.held = held


class InvalidRun(EngineError):
    """A field of the request holds a value that cannot be right."""

    reason = "INVALID_FIELD"


class ContextFull(EngineError):
    """The session would have more tokens than the model's context takes."""

    reason = "CONTEXT_FULL"


class HeldTooShort(EngineError):
    """The session holds fewer tokens than the request's `position`, as after an eviction."""

    reason = "HELD_TOO_SHORT"


class PrefixMismatch(EngineError):
    """The session's tokens before `position` are not those that the caller's checksum is of."""

    reason = "PREFIX_MISMATCH"


class SessionUnknown(EngineError):
    """There is no such session here, as after an eviction or a restart."""

    reason = "SESSION_UNKNOWN"


class SaltMismatch(EngineError):
    """The session is of another tenant than the caller says."""

    reason = "SALT_MISMATCH"


class SessionBusy(EngineError):
    """The session has a run already; there is one at a time."""

    reason = "SESSION_BUSY"


class SessionClosed(EngineError):
    """The session was closed while a run of it was going on."""

    reason = "SESSION_CLOSED"


class NoCapacity(EngineError):
    """No page is free and none can be evicted."""

    reason = "NO_CAPACITY"


class ForwardFailed(EngineError):
    """The model's forward raised; nothing of the step was kept."""

    reason = "FORWARD_FAILED"


class GrammarStuck(EngineError):
    """No token of the model's continues the answer, or finding that out takes more work than it may."""

    reason = "GRAMMAR_STUCK"


class RanksLost(Exception):
    """The ranks of a divided model are no longer in step, as when one of them is gone: no later step could be right."""


class UnsupportedModel(Exception):
    """The model needs something that the engine does not do exactly; it is refused at start."""
