"""Headers and chunks as Redis keeps them. It sends nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from router_svc.trajectory.packing import pack, unpack
from router_svc.trajectory.types import Chunk, FinishReason, Header, Source, State, SwitchReason
from router_svc.trajectory.usage import Usage

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def encode_usage(usage: Usage) -> str:
    """Usage as a field of the hash."""
    return _encode(usage.as_dict())


def encode_chunks(chunks: Sequence[Chunk]) -> list[Any]:
    """Chunks as the scripts take them: seven arguments each."""
    made: list[Any] = []
    for chunk in chunks:
        made += [
            chunk.source.value,
            chunk.position,
            pack(chunk.tokens),
            pack(chunk.entropies),
            chunk.reason.value,
            repr(chunk.switch_entropy),
            pack(chunk.uncertainties),
        ]
    return made


def decode_chunk(entry: dict[bytes, bytes]) -> Chunk:
    """A chunk from its entry of the stream."""
    return Chunk(
        source=Source(int(entry[b"s"])),
        position=int(entry[b"p"]),
        tokens=unpack("I", entry[b"t"]),
        entropies=unpack("f", entry[b"e"]),
        reason=SwitchReason(int(entry[b"r"])),
        switch_entropy=float(entry[b"h"]),
        uncertainties=unpack("f", entry.get(b"u", b"")),
    )


def decode_header(session_id: str, fields: dict[bytes, bytes]) -> Header:
    """A header from its hash."""
    return Header(
        session_id=session_id,
        state=State(fields[b"state"].decode()),
        length=int(fields[b"length"]),
        epoch=int(fields[b"epoch"]),
        owner=fields[b"owner"].decode(),
        settings=fields[b"settings"].decode(),
        usage=Usage.from_dict(json.loads(fields[b"usage"])),
        finish=FinishReason(int(fields[b"finish"])) if fields[b"finish"] else None,
        created_ms=int(fields[b"created"]),
        updated_ms=int(fields[b"updated"]),
    )
