"""`python -m gateway.healthy`: exits 0 if the gateway of this container lives."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request

from rstitch.limits import GATEWAY_ADDRESS

_TIMEOUT_S = 5.0


def main() -> None:
    """Asks where the gateway was told to listen on; whose certificate that shows is not the question."""
    host, _, port = os.environ.get("RSTITCH_HTTP_LISTEN", GATEWAY_ADDRESS).rpartition(":")
    host = "127.0.0.1" if host in ("0.0.0.0", "[::]") else host
    scheme = "https" if os.environ.get("RSTITCH_HTTP_TLS_CERT") else "http"
    context = ssl._create_unverified_context() if scheme == "https" else None
    try:
        urllib.request.urlopen(f"{scheme}://{host}:{port}/health", timeout=_TIMEOUT_S, context=context).close()
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
