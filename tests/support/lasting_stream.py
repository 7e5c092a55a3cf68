"""A client of gateways that keeps to the standard of server-sent events: a stream that is lost is asked for again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from rstitch.client.specs import Spec, text_of
from tests.support.conversations import Conversation

_PAUSE_S = 0.05
# What a gateway says that nobody is behind: it is asked again.
_AWAY = (502, 503)


@dataclass(slots=True)
class LastingStream:
    """The answer to a conversation's first question, read over as many connections as it takes.

    Attributes:
        answer: the tokens and who wrote them.
        num_lost: how often the stream was cut off.
    """

    url: str  # of a gateway
    key: str
    conversation: Conversation
    on_event: Callable[[], None] = lambda: None
    answer: list[tuple[int, str]] = field(default_factory=list)
    session_id: str = ""
    num_lost: int = 0
    _last_id: str = ""

    async def read(self, client: httpx2.AsyncClient) -> None:
        """Reads to the end, however often the gateway dies. Raises: AssertionError if an answer fails."""
        while True:
            if await self._read_on(client):
                return
            await asyncio.sleep(_PAUSE_S)

    async def _read_on(self, client: httpx2.AsyncClient) -> bool:
        shown = {"idempotency-key": self.key, "x-rstitch-policy": text_of(Spec(self.conversation.policy))}
        if self._last_id:
            shown["last-event-id"] = self._last_id
        has_begun, id_ = False, ""
        try:
            async with client.stream("POST", f"{self.url}/v1/completions", json=self._body(), headers=shown) as reply:
                if reply.status_code in _AWAY:
                    return False
                assert reply.status_code == 200, await reply.aread()
                has_begun, self.session_id = True, reply.headers["x-session-id"]
                async for line in reply.aiter_lines():
                    name, _, value = line.partition(": ")
                    if name == "id":
                        id_ = value
                    elif line == "data: [DONE]":
                        return True
                    elif name == "data":
                        self._take(json.loads(value))
                        self._last_id = id_
        except httpx2.TransportError:
            self.num_lost += has_begun
        return False

    def _body(self) -> Mapping[str, Any]:
        asked = self.conversation
        sampled = {"temperature": asked.sampling.temperature, "seed": asked.sampling.seed} if asked.sampling else {}
        said = {"prompt": list(asked.turns[0]), "max_tokens": asked.max_new_tokens, "stream": True, "logprobs": 1}
        return {"model": "rstitch", **said, **sampled}

    def _take(self, event: Mapping[str, Any]) -> None:
        assert "error" not in event, event
        for choice in event["choices"]:
            for ours in (choice["logprobs"] or {}).get("rstitch", []):
                self.answer.append((ours["id"], ours["model"]))
        self.on_event()
