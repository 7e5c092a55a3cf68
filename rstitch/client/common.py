"""What the sync and the async client share besides conversion: defaults, the address, errors that name it."""

from __future__ import annotations

import grpc

from rstitch.client.types import Status
from rstitch.errors import RstitchError, invalid

DEFAULT_ADDRESS = "127.0.0.1:50050"
# A router answers everything but Generate at once.
DEFAULT_UNARY_TIMEOUT_S = 30.0
DEFAULT_RECONNECT_S = 30.0
# The reason of an error: the call never left.
UNREACHABLE = "UNREACHABLE"
# How often readiness is asked for.
POLL_S = 0.2


def checked_address(address: str) -> str:
    """`address` if it can be one. Raises: RstitchError (INVALID_ARGUMENT)."""
    if not address or any(c.isspace() for c in address):
        raise invalid("address", f"{address!r} is no address.", f"Write HOST:PORT, such as {DEFAULT_ADDRESS}.")
    return address


def with_address(error: RstitchError, address: str) -> RstitchError:
    """The same error; one of the wire's own also says where, and one that nobody answers has reason UNREACHABLE."""
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED and error.reason == "TRANSPORT":
        error.message = f"the deadline passed before the router at {address} was done."
        error.remedy = "Allow more time."
    if error.code is grpc.StatusCode.UNAVAILABLE and error.reason == "TRANSPORT":
        if "failed to connect" in error.message:
            error.reason = UNREACHABLE
            error.message = f"no router answers at {address}."
            error.remedy = "Start one with `rstitch up`, or give the address of a running one."
        else:
            error.message = f"the connection to the router at {address} was lost ({error.message})."
    return error


def not_ready(address: str, timeout_s: float, last: Status | RstitchError | None) -> RstitchError:
    """The wait for readiness is over."""
    why = last.detail if isinstance(last, Status) else str(last) if last else "it did not answer"
    return RstitchError(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "NOT_READY",
        f"the router at {address} was not ready within {timeout_s:g} s: {why}",
    )
