"""Bounds and addresses that client, router and workers must agree on, each said here alone."""

from __future__ import annotations

import ipaddress

# Of a policy's tau: uncertainties lie in [0, 1], so every token or none is over a bound outside.
MIN_TAU, MAX_TAU = -1.0, 2.0
# Most tokens of the signal ENTROPY_WINDOW.
MAX_WINDOW = 64
# Most characters of a salt, under which sessions may have pages in common.
MAX_SALT_CHARS = 128
# Largest price of a token of the LLM, in multiples of what a head was trained for; the smallest is 1 over it.
MAX_PRICE = 1e6
# Most consultations of a head that are kept of one answer.
MAX_CONSULTATIONS = 4096
# Bytes of an answer's consultations beyond which no more are kept, so that all of them fit into one message.
MAX_CONSULTATION_BYTES = 8 * 1024 * 1024

# Most alternatives that are told of one token, and of all tokens of one answer together: these take 4 MiB in the store,
# and fit into one message.
MAX_TOP_LOGPROBS = 20
MAX_ALTERNATIVES = 1 << 19

# Of sampling: entries of a logit bias, and how far a bias, a penalty and a repetition penalty go.
MAX_BIASES = 300
MAX_BIAS = 100.0
MAX_PENALTY = 2.0
# Beyond these, logits of any model could leave what a float holds, and what is masked be written.
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 100.0

# Most bytes of a JSON schema that an answer is held to.
MAX_SCHEMA_BYTES = 65536

ROUTER_PORT = 50050
ROUTER_ADDRESS = f"127.0.0.1:{ROUTER_PORT}"
GATEWAY_PORT = 8000
GATEWAY_ADDRESS = f"127.0.0.1:{GATEWAY_PORT}"
SLM_ADDRESS = "127.0.0.1:50051"
LLM_ADDRESS = "127.0.0.1:50052"
# What the place of workers begins with that are behind a name.
DNS_PREFIX = "dns:///"


def host_and_port(value: str) -> str:
    """Gives `value` back if it is HOST:PORT. Raises: ValueError saying how to write it.

    gRPC itself takes a port over 65535 for another one.
    """
    host, _, port = value.rpartition(":")
    valid = host and not any(c.isspace() for c in host) and port.isascii() and port.isdigit() and int(port) <= 65535
    if not valid:
        raise ValueError("it should be HOST:PORT with a port of at most 65535")
    return value


def workers_place(value: str) -> str:
    """Gives `value` back if it says where workers are: HOST:PORT[,HOST:PORT...], dns:///NAME:PORT, or nothing.

    Raises: ValueError saying how to write it.
    """
    if not value.strip():
        return ""
    how = "it should be HOST:PORT[,HOST:PORT...], dns:///NAME:PORT, or empty for those that announce themselves"
    addresses = [each.strip() for each in value.split(",")]
    if value.startswith(DNS_PREFIX):
        if len(addresses) > 1:
            raise ValueError(f"{how}; {value.removeprefix(DNS_PREFIX)!r} is more than one name")
        addresses = [value.removeprefix(DNS_PREFIX)]
    elif "://" in value:
        raise ValueError(f"{how}; {value.partition('://')[0]}:// is none of these")
    for address in addresses:
        try:
            host_and_port(address)
        except ValueError as error:
            raise ValueError(f"{how}; of {address!r}: {error}") from None
    if twice := next((each for each in addresses if addresses.count(each) > 1), ""):
        raise ValueError(f"it names {twice} twice")
    return ",".join(addresses) if not value.startswith(DNS_PREFIX) else value


def routers_place(value: str) -> str:
    """Gives `value` back if it says where routers are: HOST:PORT, IP:PORT,IP:PORT..., or dns:///NAME:PORT.

    Raises: ValueError saying how to write it.
    """
    addresses = value.split(",")
    for address in addresses:
        host_and_port(address)
    if len(addresses) > 1:
        kinds = {_kind(address) for address in addresses}
        if 0 in kinds or len(kinds) > 1:
            raise ValueError("several are IP:PORT,IP:PORT...; of those behind a name, it should be dns:///NAME:PORT")
    return value


def _kind(address: str) -> int:
    """Says of which version the IP before a port is; 0 if it is a name."""
    host = address.rpartition(":")[0]
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).version
    except ValueError:
        return 0


def is_loopback(listen: str) -> bool:
    """Says whether only this machine reaches HOST:PORT, or all of several. A name but localhost may be anywhere."""
    if "," in listen:
        return all(is_loopback(each) for each in listen.split(","))
    host = listen.rpartition(":")[0]
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
