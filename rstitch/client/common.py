"""What the sync and the async client share besides messages: defaults, the address, errors that name it."""

from __future__ import annotations

import grpc

from rstitch.client.status import Status
from rstitch.errors import RstitchError, invalid
from rstitch.limits import ROUTER_ADDRESS, host_and_port

# A router answers everything but Generate at once.
DEFAULT_UNARY_TIMEOUT_S = 30.0
DEFAULT_RECONNECT_S = 30.0
# The reason of an error: the call never left.
UNREACHABLE = "UNREACHABLE"
# How often readiness is asked for.
POLL_S = 0.2


def checked_address(address: str) -> str:
    """Gives `address` back if it is HOST:PORT, or a URI as gRPC has them. Raises: InvalidArgument."""
    try:
        return address if "/" in address and not any(c.isspace() for c in address) else host_and_port(address)
    except ValueError:
        remedy = f"Write HOST:PORT, such as {ROUTER_ADDRESS}."
        raise invalid("address", f"{address!r} is no address.", remedy) from None


def with_address(error: RstitchError, address: str) -> RstitchError:
    """Adds the address to an error of the wire's own, and the reason UNREACHABLE where nobody answers."""
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
    """Makes the error of a wait for readiness that is over; it says what the router still waited for."""
    why = last.detail if isinstance(last, Status) else str(last) if last else "it did not answer"
    return RstitchError(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "NOT_READY",
        f"the router at {address} was not ready within {timeout_s:g} s: {why}",
    )
