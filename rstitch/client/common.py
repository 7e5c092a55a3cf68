"""What the sync and the async client share besides messages: defaults, the address, errors that name it."""

from __future__ import annotations

import copy
from typing import Any, Self

import grpc

from rstitch.client.status import Status
from rstitch.client.tracing import trace_metadata
from rstitch.credentials import Credentials
from rstitch.errors import RstitchError, from_rpc_error, invalid
from rstitch.keyed import KeyedChannel, Metadata
from rstitch.limits import ROUTER_ADDRESS, routers_place
from rstitch.v1 import router_pb2_grpc

# A router answers everything but Generate at once.
DEFAULT_UNARY_TIMEOUT_S = 30.0
DEFAULT_RECONNECT_S = 30.0
# The reason of an error: the call never left.
UNREACHABLE = "UNREACHABLE"
# How often readiness is asked for.
POLL_S = 0.2


class Connection:
    """What both clients are made of: a channel to a router, and how calls on it begin and fail.

    All methods of a client raise RstitchError, by its subclasses.
    """

    def __init__(
        self,
        address: str = ROUTER_ADDRESS,
        timeout_s: float | None = None,  # of a call, of a whole answer for `generate`; None: 30 s, none for `generate`
        *,
        reconnect_s: float = DEFAULT_RECONNECT_S,  # `generate` tries so long to go on without getting a new token
        credentials: Credentials = Credentials(),  # TLS, certificate and API key; none of them by default
    ) -> None:
        self.address = checked_address(address)
        self._timeout_s = timeout_s
        self._reconnect_s = reconnect_s
        self._channel = self._make_channel(credentials)
        self._stub = router_pb2_grpc.RouterServiceStub(self._channel)

    def showing(self, metadata: Metadata) -> Self:
        """Gives a client of the same connection whose every call carries `metadata`, such as another caller's key."""
        made = copy.copy(self)
        made._channel = KeyedChannel(self._channel, lambda: metadata)
        made._stub = router_pb2_grpc.RouterServiceStub(made._channel)
        return made

    def _make_channel(self, credentials: Credentials) -> Any:
        raise NotImplementedError

    def _begin(self, method: str, request: Any, timeout_s: float | None) -> Any:
        return getattr(self._stub, method)(request, timeout=timeout_s, metadata=trace_metadata())

    def _explained(self, error: grpc.RpcError) -> RstitchError:
        return with_address(from_rpc_error(error), self.address)


def checked_address(address: str) -> str:
    """Gives `address` back if it is HOST:PORT, IP:PORT,IP:PORT..., or a URI as gRPC has them. Raises: InvalidArgument.

    Of several routers those that answer are asked in turn; an answer whose router is gone goes on at another.
    """
    try:
        return address if "/" in address and not any(c.isspace() for c in address) else routers_place(address)
    except ValueError:
        remedy = f"Write HOST:PORT, such as {ROUTER_ADDRESS}; IP:PORT,IP:PORT; or dns:///NAME:PORT."
        raise invalid("address", f"{address!r} is no address.", remedy) from None


def with_address(error: RstitchError, address: str) -> RstitchError:
    """Adds the address to an error of the wire's own, and the reason UNREACHABLE where nobody answers."""
    if error.reason != "TRANSPORT":
        return error
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        error.message = f"the deadline passed before the router at {address} was done."
        error.remedy = "Allow more time."
    if error.code is grpc.StatusCode.UNAVAILABLE:
        if "failed to connect" in error.message:
            error.reason = UNREACHABLE
            error.message, error.remedy = _why_unreachable(error.message, address)
        else:
            error.message = f"the connection to the router at {address} was lost ({error.message})."
    return error


# In which words the wire says that somebody listens, and ended the connection.
_HANGING_UP = ("Socket closed", "reset by peer", "Broken pipe", "GOAWAY", "EOF")


def _why_unreachable(told: str, address: str) -> tuple[str, str]:
    """What the wire says of a connection that did not come about, and what to do about it."""
    if "handshake failed" in told or "erification" in told:
        remedy = "Correct what is trusted (tls_ca, tls_name), or leave TLS out where it speaks none."
        return f"what answers at {address} is not the router that the TLS settings mean.", remedy
    if any(word in told for word in _HANGING_UP):
        remedy = "If it speaks TLS, say whom to trust (tls_ca) and what to show (tls_cert, tls_key)."
        return f"what listens at {address} hangs up.", remedy
    return f"no router answers at {address}.", "Start one with `rstitch up`, or give the address of a running one."


def not_ready(address: str, timeout_s: float, last: Status | RstitchError | None) -> RstitchError:
    """Makes the error of a wait for readiness that is over; it says what the router still waited for."""
    why = last.detail if isinstance(last, Status) else str(last) if last else "it did not answer"
    return RstitchError(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "NOT_READY",
        f"the router at {address} was not ready within {timeout_s:g} s: {why}",
    )
