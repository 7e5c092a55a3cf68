"""gRPC options that both ends of a wire must agree on. It opens nothing and knows no service."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# Calls of one connection at once: a router has two streams to a worker for each of its answers at most.
MAX_STREAMS = 4096
# A server tells its clients after so long to connect anew; calls in flight go on. So whoever asks by a name of several
# servers hears of those that were added.
MAX_AGE_S = 300.0
_IN_TURN = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')

ChannelOptions = list[tuple[str, int]]


def client_options(max_message_bytes: int = MAX_MESSAGE_BYTES, ping_s: float = 20.0) -> ChannelOptions:
    """Makes a channel take big messages, notice a dead peer and find a restarted one again quickly.

    It pings every `ping_s` while a call is open, however long nothing comes: an answer may wait for a long prompt.
    """
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", int(ping_s * 1000)),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]


def name_options(address: str) -> list[tuple[str, int | str]]:
    """Makes calls to `dns:///NAME:PORT` or IP:PORT,IP:PORT... go to all of them in turn; nothing for one address."""
    if "," in address:  # certificates are compared with the first one's host, unless another name is given
        return [_IN_TURN, ("grpc.default_authority", address.partition(",")[0])]
    if not address.startswith("dns:"):
        return []
    return [_IN_TURN, ("grpc.dns_min_time_between_resolutions_ms", 1_000)]


def target_of(address: str) -> str:
    """Gives what the library calls an address: IP:PORT,IP:PORT... has a word for it."""
    return f"ipv{6 if '[' in address else 4}:{address}" if "," in address else address


def server_options(
    max_message_bytes: int = MAX_MESSAGE_BYTES, min_ping_s: float = 5.0, max_age_s: float = MAX_AGE_S
) -> ChannelOptions:
    """Makes a server notice dead peers and refuse what is too large in words.

    It takes messages of twice the limit in, which is also the limit of what a compressed one becomes: one between the
    two is refused by the interceptor, with a reason and a remedy, which the library's own refusal lacks. Without
    `so_reuseport` a second process on the same port would start without a word and get half of the calls. Who pings
    more often than every `min_ping_s` is cut off; no client library does so more often than every 10 s, unless it is
    told to.
    """
    return [
        ("grpc.max_receive_message_length", 2 * max_message_bytes),
        ("grpc.max_send_message_length", 4 * max_message_bytes),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_age_ms", int(max_age_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", int(min_ping_s * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
