"""Conversations of several turns under which parts of a fleet are killed, and what each answer must be."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, Chunk, LlmOnly, Policy, Sampling, SlmOnly, Threshold
from rstitch.local.stack import LocalStack, Part
from rstitch.v1 import worker_pb2, worker_pb2_grpc
from tests.support.pairs import VOCAB_SIZE
from tests.support.served import written

POLICIES: Sequence[Policy] = (Threshold(0.3), Threshold(0.4), Threshold(0.45, 0.2), LlmOnly(), SlmOnly())


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is said to the models, turn by turn, and how they are to write; its answers are a function of it."""

    number: int
    turns: tuple[tuple[int, ...], ...]
    policy: Policy
    sampling: Sampling | None
    max_new_tokens: int

    @classmethod
    def drawn(cls, number: int, num_turns: int = 3, max_new_tokens: int = 40) -> Conversation:
        rng = random.Random(number)
        turns = tuple(
            tuple(rng.randrange(5, VOCAB_SIZE - 20) for _ in range(rng.randrange(3, 30))) for _ in range(num_turns)
        )
        sampling = Sampling(temperature=0.8, seed=number) if number % 3 == 0 else None
        return cls(number, turns, POLICIES[number % len(POLICIES)], sampling, max_new_tokens)

    def is_read_by(self, model: str) -> bool:
        """Whether a model is asked for anything."""
        return not isinstance(self.policy, LlmOnly if model == "slm" else SlmOnly)

    def question(self, turn: int) -> dict[str, Any]:
        return {
            "tokens": list(self.turns[turn]),
            "policy": self.policy,
            "sampling": self.sampling,
            "max_new_tokens": self.max_new_tokens,
        }


@dataclass(slots=True)
class Held:
    """A conversation as it was held, or as far as it is."""

    session_id: str
    answers: list[list[tuple[int, str]]] = field(default_factory=list)


class Talk:
    """Conversations that are held at once; `num_tokens` says how far they have come all together."""

    def __init__(self, clients: Sequence[AsyncClient], conversations: Sequence[Conversation], name: str) -> None:
        self.num_tokens = 0
        self._clients = clients
        self._conversations = conversations
        self._name = name

    async def hold(self) -> list[Held]:
        """Each turn is asked by the next of the clients: what a balancer without affinity does."""
        return list(await asyncio.gather(*map(self._hold, self._conversations)))

    async def _hold(self, conversation: Conversation) -> Held:
        held = Held(f"{self._name}-{conversation.number}")
        for turn in range(len(conversation.turns)):
            client = self._clients[(conversation.number + turn) % len(self._clients)]
            got = []
            async for event in client.generate(session_id=held.session_id, **conversation.question(turn)):
                got.append(event)
                if isinstance(event, Chunk):
                    self.num_tokens += len(event.tokens)
            held.answers.append(written(Answer.of(got)))
        return held


def worker_parts(stack: LocalStack) -> list[Part]:
    return [part for part in stack.parts if " worker" in part.name]


async def infos(stack: LocalStack) -> dict[str, worker_pb2.GetInfoResponse]:
    """What the workers say of themselves, by the names of their parts."""
    found = {}
    for part in worker_parts(stack):
        async with grpc.aio.insecure_channel(part.address) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            found[part.name] = await stub.GetInfo(worker_pb2.GetInfoRequest())
    return found


async def computed_tokens(stack: LocalStack) -> Counter[str]:
    """How many tokens the workers of each model have put through it."""
    computed: Counter[str] = Counter()
    for name, info in (await infos(stack)).items():
        computed[name.partition(" ")[0]] += info.counters.num_computed_tokens
    return computed
