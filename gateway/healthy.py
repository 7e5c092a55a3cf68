"""`python -m gateway.healthy`: exits 0 if the gateway of this container lives."""

from __future__ import annotations

import http.client
import ipaddress
import os
import ssl
import sys

from rstitch.limits import GATEWAY_ADDRESS

_TIMEOUT_S = 5.0


def main() -> None:
    """Asks where the gateway was told to listen on; exits with why it does not live."""
    host, _, port = os.environ.get("RSTITCH_HTTP_LISTEN", GATEWAY_ADDRESS).rpartition(":")
    connection = _connection(_reachable(host.strip("[]")), int(port))
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"the gateway does not answer: {error or type(error).__name__}")
    if status != 200:
        sys.exit(f"the gateway answers with {status}")


def _reachable(host: str) -> str:
    """Gives this machine's own address where the gateway listens on all of them."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def _connection(host: str, port: int) -> http.client.HTTPConnection:
    if not os.environ.get("RSTITCH_HTTP_TLS_CERT"):
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    # Whether it lives is the question, and not whose certificate it shows: that is of a name which is not this host's.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)


if __name__ == "__main__":
    main()
