"""Headers and chunks as Redis keeps them. It sends nothing.

A stream's entry has one letter per field, since there is one for each chunk of each answer:
s source, p position, t tokens, e entropies, r switch reason, h value that decided the switch, u uncertainties; where
there are some, n notes of a prompt, c consultations of a head, and d details of the tokens.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from router_svc.trajectory.binding import FIELDS, binding_of
from router_svc.trajectory.consultations import pack_consultations, unpack_consultations
from router_svc.trajectory.packing import pack, unpack
from router_svc.trajectory.types import (
    Chunk,
    FinishReason,
    Header,
    Label,
    ModelPrompt,
    PromptNotes,
    Source,
    State,
    SwitchReason,
)
from router_svc.trajectory.usage import Usage

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def encode_usage(usage: Usage) -> str:
    """The usage as the JSON that one field of the hash holds: it is written whole with every append."""
    return usage.as_json()


def encode_chunks(chunks: Sequence[Chunk]) -> list[Any]:
    """Chunks as arguments of the scripts, ten for each chunk in the order that entries.lua names."""
    made: list[Any] = []
    for chunk in chunks:
        made += [
            chunk.source.value,
            chunk.position,
            pack(chunk.tokens),
            pack(chunk.entropies),
            chunk.reason.value,
            repr(chunk.switch_entropy),  # the shortest text that reads as the same float again
            pack(chunk.uncertainties),
            _encode_notes(chunk.notes) if chunk.notes is not None else "",
            pack_consultations(chunk.consultations) if chunk.consultations else "",
            chunk.details,
        ]
    return made


def _encode_notes(notes: PromptNotes) -> str:
    slm = notes.slm
    return _encode(
        {
            "llm_num_before": notes.llm_num_before,
            "slm": [slm.num_before, base64.b64encode(pack(slm.tokens)).decode()] if slm is not None else None,
            "turn": notes.turn,
        }
    )


def _decode_notes(text: bytes) -> PromptNotes:
    fields = json.loads(text)
    slm = fields["slm"]
    return PromptNotes(
        fields["llm_num_before"],
        ModelPrompt(slm[0], unpack("I", base64.b64decode(slm[1]))) if slm is not None else None,
        fields["turn"],
    )


def decode_chunk(entry: dict[bytes, bytes]) -> Chunk:
    """The chunk that an entry of the stream holds."""
    return Chunk(
        source=Source(int(entry[b"s"])),
        position=int(entry[b"p"]),
        tokens=unpack("I", entry[b"t"]),
        entropies=unpack("f", entry[b"e"]),
        reason=SwitchReason(int(entry[b"r"])),
        switch_entropy=float(entry[b"h"]),
        # An older router wrote none.
        uncertainties=unpack("f", entry.get(b"u", b"")),
        notes=_decode_notes(entry[b"n"]) if b"n" in entry else None,
        consultations=unpack_consultations(entry[b"c"]) if b"c" in entry else (),
        details=entry.get(b"d", b""),
    )


def decode_header(session_id: str, fields: dict[bytes, bytes]) -> Header:
    """The header that a session's hash holds."""
    return Header(
        session_id=session_id,
        state=State(fields[b"state"].decode()),
        length=int(fields[b"length"]),
        epoch=int(fields[b"epoch"]),
        owner=fields[b"owner"].decode(),
        settings=fields[b"settings"].decode(),
        usage=Usage.from_dict(json.loads(fields[b"usage"])),
        # Empty while no answer has ended: a hash has no null.
        finish=FinishReason(int(fields[b"finish"])) if fields[b"finish"] else None,
        created_ms=int(fields[b"created"]),
        updated_ms=int(fields[b"updated"]),
        label=_decode_label(fields),
        binding=binding_of([fields.get(name.encode()) for name in FIELDS]),
    )


def _decode_label(fields: dict[bytes, bytes]) -> Label | None:
    """The label of the answer that the header speaks of: a router of before labels leaves those of others."""
    is_its = fields[b"state"].decode() == State.FINISHED and fields.get(b"label_length") == fields[b"length"]
    return Label(fields[b"label"].decode()) if is_its and b"label" in fields else None
