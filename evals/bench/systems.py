"""What is compared: each system answers one question at a time or many, and says when its first token was there."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model_worker.engine.engine import Engine
from model_worker.engine.types import Event, RunFailed, RunFinished, RunRequest, TokenKept
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, Chunk, Message, Policy, Usage
from rstitch.client.types import Event as ClientEvent

# What an answer may need at most; the longest of the tiny LLM's are about half of it.
MAX_NEW_TOKENS = 400


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its text, when its first token was there (time.perf_counter()), and what it took."""

    text: str
    first_token_s: float
    num_slm_tokens: int = 0
    num_llm_tokens: int = 0
    num_switches: int = 0
    num_discarded: int = 0
    parts_us: Mapping[str, int] = field(default_factory=dict)


class System(ABC):
    """Something that answers questions, many at a time unless `is_single`."""

    is_single = False

    def __init__(self, name: str, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        self.name = name
        self.max_new_tokens = max_new_tokens

    @abstractmethod
    async def answer(self, question: str) -> Reply:
        """One answer, greedy, of at most `max_new_tokens`."""

    async def forget(self) -> None:  # noqa: B027 - most have nothing to forget
        """Called between blocks, outside of the measured time: drops what the answers left behind."""


class InProcess(System):
    """Our engine without services: no thread, no wire, no router; the LLM alone."""

    def __init__(self, name: str, engine: Engine, tokenizer: Any, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        super().__init__(name, max_new_tokens)
        self._engine = engine
        self._tokenizer = tokenizer
        self._runs: dict[int, _Run] = {}
        self._session_ids = (f"bench-{number}" for number in itertools.count())
        self._stepping: asyncio.Task[None] | None = None

    async def answer(self, question: str) -> Reply:
        """Steps go on while there is anything to compute; those who wait join in between."""
        begin = time.perf_counter()
        session_id, tokens = next(self._session_ids), prompt(self._tokenizer, question)
        run_id = self._engine.submit(RunRequest(session_id, 0, tokens, max_tokens=self.max_new_tokens))
        run = self._runs[run_id] = _Run(asyncio.get_running_loop().create_future())
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._steps())
        timing = (await run.finished).timing
        del self._runs[run_id]
        self._engine.close_session(session_id)
        text = str(self._tokenizer.decode(run.tokens, skip_special_tokens=True))
        parts = {
            "llm_forward": timing.forward_us,
            "scheduling": timing.host_us,
            "waiting": timing.queue_us + timing.wait_us,
        }
        parts["client"] = int(1e6 * (time.perf_counter() - begin)) - sum(parts.values())
        return Reply(text, run.first_token_s, num_llm_tokens=len(run.tokens), parts_us=parts)

    async def _steps(self) -> None:
        try:
            while not self._engine.is_idle:
                for event in self._engine.step():
                    self._runs[event.run_id].take(event)
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 - it is told to those who wait, and ends their blocks
            for run in self._runs.values():
                if not run.finished.done():
                    run.finished.set_exception(error)


@dataclass(slots=True)
class _Run:
    """A run of the engine as it goes on."""

    finished: asyncio.Future[RunFinished]
    tokens: list[int] = field(default_factory=list)
    first_token_s: float = 0.0

    def take(self, event: Event) -> None:
        if isinstance(event, TokenKept):
            self.first_token_s = self.first_token_s or time.perf_counter()
            self.tokens.append(event.token)
        elif isinstance(event, RunFailed):
            self.finished.set_exception(event.error)
        else:
            self.finished.set_result(event)


class Served(System):
    """The whole system: client, router, Redis, two workers."""

    def __init__(self, name: str, client: AsyncClient, policy: Policy, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        super().__init__(name, max_new_tokens)
        self._client = client
        self._policy = policy
        self._session_ids: list[str] = []

    async def answer(self, question: str) -> Reply:
        """As a client sees it."""
        begin, first_token_s, events = time.perf_counter(), 0.0, list[ClientEvent]()
        async for event in self._client.generate(
            chat=[Message("user", question)],
            policy=self._policy,
            max_new_tokens=self.max_new_tokens,
            guard=False,  # what was asked for is what is measured
        ):
            if not first_token_s and isinstance(event, Chunk):
                first_token_s = time.perf_counter()
            events.append(event)
        latency_us = int(1e6 * (time.perf_counter() - begin))
        answer = Answer.of(events)
        self._session_ids.append(answer.session_id)
        usage = answer.finished.usage
        return Reply(
            text=answer.text,
            first_token_s=first_token_s,
            num_slm_tokens=usage.num_slm_tokens,
            num_llm_tokens=usage.num_llm_tokens,
            num_switches=usage.num_switches,
            num_discarded=usage.num_discarded_proposals,
            parts_us=breakdown(usage, latency_us),
        )

    async def forget(self) -> None:
        """Deletes the trajectories, so that no stack grows slower than another."""
        for session_id in self._session_ids:
            await self._client.delete_trajectory(session_id)
        self._session_ids.clear()


def breakdown(usage: Usage, latency_us: int) -> dict[str, int]:
    """Where the time went, by part; `client` is what is left of the latency that the client saw."""
    parts = {name.removesuffix("_us"): int(us) for name, us in dataclasses.asdict(usage.breakdown).items()}
    return parts | {"client": latency_us - sum(us for name, us in parts.items() if name != "background")}


def prompt(tokenizer: Any, question: str) -> list[int]:
    """The question as the chat template puts it."""
    tokens: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    return tokens
