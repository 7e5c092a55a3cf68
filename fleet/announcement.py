"""What a worker says of itself to all routers of its fleet. It knows no Redis."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Announcement:
    """One worker: who it is, which model it has, and how full it is at the moment."""

    id: str  # its name in the fleet, such as slm-0; one that was restarted keeps it
    role: str  # slm or llm
    address: str  # HOST:PORT, as routers reach it
    instance_id: str  # of the process
    weights_fingerprint: str  # equal ones: the same tokens
    tokenizer_fingerprint: str  # equal ones: the same token ids
    model: str  # folder or hub id
    version: str  # of this software
    num_pages: int
    num_free_pages: int  # with those of idle sessions, which are evicted when somebody needs them
    num_running: int  # runs that compute
    num_waiting: int  # runs that wait for room
    num_sessions: int  # that it holds something of: bound to it
    draining: bool  # it takes no new sessions
    num_cards: int = 1  # that its model is spread over

    @property
    def fingerprint(self) -> str:
        """What all workers of a role must have in common: fingerprints of weights and tokenizer."""
        return f"{self.weights_fingerprint}/{self.tokenizer_fingerprint}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads what `to_json` wrote, also that of a newer version, which may say more. Raises ValueError."""
        said = json.loads(text)
        try:
            return cls(**{name: said[name] for name in cls.__slots__ if name in said})
        except TypeError as error:
            raise ValueError(f"an announcement says too little: {error}") from error
