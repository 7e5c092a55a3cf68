"""Whether a server may listen where it is told to: beyond this machine only behind a lock. It opens nothing."""

from __future__ import annotations

import structlog

from rstitch.errors import invalid
from rstitch.limits import is_loopback

_log = structlog.get_logger(__name__)


def check_exposure(
    listen: str, *, has_keys: bool, has_tls: bool, has_client_ca: bool, insecure: bool, flag: str = "--listen"
) -> None:
    """Refuses to listen beyond this machine without TLS, or without a way to tell who calls.

    Args:
        listen: HOST:PORT.
        has_client_ca: whether only clients with a certificate are let in, and that is enough here to know them: so it
            is for workers, whom a router alone calls, but not for a router, as a certificate names no tenant.
        insecure: whether the operator said in so many words that it may be open.
        flag: that named the address; any other than --listen is of a port that knows no keys.

    Raises: RstitchError (INVALID_ARGUMENT, EXPOSED) that names the remedies.
    """
    if is_loopback(listen) or (has_tls and (has_keys or has_client_ca)):
        return
    # A port that asks for no keys can still ask for certificates.
    lock, how = (
        ("keys", "keys (--keys of a router, --keys-file of a worker)")
        if flag == "--listen"
        else ("client certificates", "an authority that clients' certificates must come from (--tls-client-ca)")
    )
    remedies = {"TLS": "a certificate (--tls-cert, --tls-key)", lock: how}
    lacking = [*([] if has_tls else ["TLS"]), *([] if has_keys or has_client_ca else [lock])]
    if insecure:
        _log.warning("open to the network", listen=listen, flag=flag, without=lacking)
        return
    raise invalid(
        flag,
        f"{listen} is open to the network, without {' and without '.join(lacking)}.",
        f"Give it {' and '.join(remedies[name] for name in lacking)}; or listen on 127.0.0.1; or say --insecure if "
        "nobody but you can reach this address.",
        "EXPOSED",
    )
