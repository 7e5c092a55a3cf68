"""Who holds what a request takes: an address and, where one is shown, a key. Whether the key is worth anything is the
router's to say: an invented one helps nobody, as its sender has an address, too.
"""

from __future__ import annotations

import hashlib
import ipaddress

from starlette.datastructures import Headers
from starlette.types import Scope

from gateway.room import Holder

# Whoever has one address of IPv6 mostly has all of these.
_NETWORK_BITS = 64


def holders_of(scope: Scope, headers: Headers) -> list[Holder]:
    """Names whoever sends a request."""
    found = [Holder("address", _address(scope))]
    if key := headers.get("authorization", "").partition(" ")[2].strip():
        found.append(Holder("key", hashlib.sha256(key.encode()).hexdigest()))
    return found


def _address(scope: Scope) -> str:
    host: str = (scope.get("client") or ("", 0))[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a socket of this machine has none
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _NETWORK_BITS), strict=False))
    return str(address)
