"""Bytes that a token stands for by its spelling alone, where a vocabulary spells bytes. It knows no tokenizer."""

from __future__ import annotations

import re

_FALLBACK = re.compile("<0x([0-9A-F]{2})>")


def _alphabet() -> dict[str, int]:
    """Returns the byte of each character that byte-level vocabularies (GPT-2) write in a byte's place."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = _alphabet()


def spelled_bytes(spelling: str, decoder: bytes) -> bytes | None:
    """Returns a token's bytes by its spelling, by how the tokenizer's `decoder` is described; None where it is text."""
    if b'"ByteLevel"' in decoder:
        known = [_BYTES.get(character) for character in spelling]
        return spelling.encode() if None in known else bytes(byte for byte in known if byte is not None)
    if b'"ByteFallback"' in decoder and (found := _FALLBACK.fullmatch(spelling)):
        return bytes.fromhex(found[1])
    return None
