"""The laws where a head explores: the answer is the reference's with the same decisions, and every consultation is
told, kept and replayed once, through whatever befalls the answer.

The LLM of this pair is the SLM with a little noise, so that running ahead is often right.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from evals.algorithm.reference import Budget as Bound
from evals.algorithm.reference import Token, stitch
from router_svc.trajectory import keys
from router_svc.trajectory.consultations import unpack_consultations
from rstitch.client.aio import AsyncClient
from rstitch.client.types import Answer, Budget, Chunk, Consultation, Event, Learned, Started, TrajectoryState
from rstitch.local.stack import LocalStack
from tests.support.asking import until
from tests.support.breaking import interrupted, runs_on
from tests.support.exploring import Exploring, same, told
from tests.support.heads import put, random_head
from tests.support.secured import session_name
from tests.support.served import Pair, another_router, check_kept, expected, written

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 5]
TOKENS = 40
ALL = 4096
TAU = 0.35
ALL_FEATURES = ("entropy", "recent", "segment", "spent", "left")
HEADS = {
    "bare": random_head(32, seed=3),
    "shown": random_head(32, seed=5, features=ALL_FEATURES),
    # Depends on nothing that the LLM is about to write: the SLM runs ahead with it.
    "ahead": random_head(32, seed=6, features=("entropy",)),
}


@dataclass(frozen=True)
class Asked:
    """A head and on which terms it is asked."""

    head: str
    seed: int | None = None
    price: float = 1.0
    llm_tokens: int | None = None

    def question(self, **more: Any) -> dict[str, Any]:
        policy = Learned(self.head, TAU, explore_seed=self.seed, price=None if self.price == 1 else self.price)
        budget = None if self.llm_tokens is None else Budget(llm_tokens=self.llm_tokens)
        asked = {"policy": policy, "budget": budget, "max_new_tokens": TOKENS, "keep_consultations": ALL}
        return {**asked, **more}


ASKED = [
    Asked("bare", 1),
    Asked("bare"),
    Asked("shown", 2**63 + 5),
    Asked("shown", 3, price=4.0),
    Asked("shown", 4, llm_tokens=5),
    Asked("ahead", 5, price=0.3),
    Asked("ahead", 6, llm_tokens=9),
]
# Where the head is asked, and whether the SLM runs ahead.
ROUTERS: dict[str, dict[str, Any]] = {
    "in-worker": {"head_in_worker": "on", "run_ahead": "off"},
    "running-ahead": {"head_in_worker": "on", "run_ahead": "on"},
    "in-router": {"head_in_worker": "off", "run_ahead": "off"},
}


def by_routers(*names: str) -> pytest.MarkDecorator:
    """With these routers; with the others in the long form."""
    params = [name if name in names else pytest.param(name, marks=pytest.mark.soak) for name in ROUTERS]
    return pytest.mark.parametrize("router", params)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    for name, head in HEADS.items():
        put(folder, name, head)
    return folder


@pytest.fixture
async def client(kindred_stack: LocalStack, folder: Path, router: str) -> AsyncIterator[AsyncClient]:
    async with another_router(kindred_stack, heads=str(folder), **ROUTERS[router]) as connected:
        yield connected


class Reference:
    """Algorithm 1 with the pair's models; what was asked once is remembered."""

    def __init__(self, pair: Pair) -> None:
        self._oracles = {role: pair.oracle(role) for role in ("slm", "llm")}
        self._stop_token = pair.stop_token
        self.answer = functools.cache(self._answer)

    def _answer(
        self, prompt: tuple[int, ...], asked: Asked, max_new_tokens: int = TOKENS
    ) -> tuple[list[Token], list[Consultation]]:
        slm, llm = self._oracles["slm"], self._oracles["llm"]

        def state(tokens: Sequence[int]) -> tuple[bytes, int]:
            return slm.hidden_state(tokens), len(tokens)

        rule = Exploring(HEADS[asked.head], TAU, state, len(prompt), asked.seed, asked.price, asked.llm_tokens)
        budget = Bound() if asked.llm_tokens is None else Bound(asked.llm_tokens)
        stops = {self._stop_token}
        naive = stitch(slm, llm, prompt, rule, max_new_tokens=max_new_tokens, stop_tokens=stops, budget=budget)
        return naive.written, rule.consultations

    def long(self, asked: Asked, num_tokens: int) -> list[int]:
        """A prompt whose answer has so many tokens and changes hands."""
        for first in range(5, 200):
            prompt = [first, 8, 9]
            tokens, _ = self.answer(tuple(prompt), asked, num_tokens)
            if len(tokens) == num_tokens and len({token.model for token in tokens}) == 2:
                return prompt
        raise AssertionError("every answer ends soon")


@pytest.fixture(scope="module")
def reference(kindred_pair: Pair) -> Reference:
    return Reference(kindred_pair)


async def check_told_everywhere(
    stack: LocalStack, client: AsyncClient, answer: Answer, prompt: list[int], asked: Sequence[Consultation]
) -> None:
    """What came with the chunks, what is kept, and what a second reader gets are the same consultations."""
    got = told(answer)
    same(got, asked)
    await check_kept(stack, client, answer, prompt)
    trajectory = await client.trajectory(answer.session_id, consultations=True)
    assert [each for segment in trajectory.segments for each in segment.consultations] == got
    for segment in trajectory.segments:
        assert all(
            segment.position <= each.position < segment.position + len(segment.tokens) for each in segment.consultations
        )
    bare = await client.trajectory(answer.session_id)
    assert not any(segment.consultations for segment in bare.segments)
    replayed = Answer.of([event async for event in client.attach(answer.session_id, 0)])
    assert told(replayed) == got
    with redis.Redis.from_url(stack.redis_url) as connection:
        entries = connection.xrange(keys.chunks(session_name(answer.session_id)))
    packed = [entry[b"c"] for _, entry in entries if b"c" in entry]
    assert [c.position for each in packed for c in unpack_consultations(each)] == [c.position for c in got]
    assert answer.finished.usage.num_kept_consultations == len(got)


@by_routers(*ROUTERS)
async def test_an_exploring_answer_is_the_references_with_the_same_decisions(
    kindred_stack: LocalStack, client: AsyncClient, reference: Reference
) -> None:
    async def one(prompt: list[int], asked: Asked) -> tuple[list[Token], list[Consultation]]:
        tokens, consultations = reference.answer(tuple(prompt), asked)
        answer = await client.answer(tokens=prompt, **asked.question())
        assert written(answer) == expected(tokens)
        await check_told_everywhere(kindred_stack, client, answer, prompt, consultations)
        assert answer.finished.usage.num_consultations >= len(consultations)
        return tokens, consultations

    for asked in ASKED:
        found = await asyncio.gather(*(one(prompt, asked) for prompt in PROMPTS))
        decisions = [each.to_llm for _, consultations in found for each in consultations]
        assert set(decisions) == {False, True}, "a head that is always of one mind tests little"
        if asked.seed is not None:
            drawn = [each for _, consultations in found for each in consultations]
            assert any(each.to_llm != (each.probability > 0.5) for each in drawn), "no coin decided anything"


@by_routers("running-ahead", "in-router")
async def test_what_is_kept_is_bounded_by_what_was_asked_for(
    kindred_stack: LocalStack, client: AsyncClient, reference: Reference
) -> None:
    prompt, asked = PROMPTS[0], Asked("shown", 2)
    tokens, consultations = reference.answer(tuple(prompt), asked)
    assert len(consultations) > 3
    for bound in (0, 1, 3):
        answer = await client.answer(tokens=prompt, **asked.question(keep_consultations=bound))
        assert written(answer) == expected(tokens)
        await check_told_everywhere(kindred_stack, client, answer, prompt, consultations[:bound])


@by_routers("running-ahead", "in-router")
async def test_where_an_answer_ends_its_consultations_do(
    kindred_stack: LocalStack, client: AsyncClient, reference: Reference
) -> None:
    """At a limit, at a stop string: none of a position that is no part of the answer, and none missing."""
    asked = Asked("ahead", 7)
    prompt = reference.long(asked, TOKENS)
    tokens, consultations = reference.answer(tuple(prompt), asked)

    def until_length(length: int) -> list[Consultation]:
        return [each for each in consultations if each.position < len(prompt) + length]

    limits = range(1, TOKENS, 5)
    for limit, answer in zip(
        limits,
        await asyncio.gather(*(client.answer(tokens=prompt, **asked.question(max_new_tokens=n)) for n in limits)),
        strict=True,
    ):
        assert written(answer) == expected(tokens[:limit])
        await check_told_everywhere(kindred_stack, client, answer, prompt, until_length(limit))
    whole = await client.answer(tokens=prompt, **asked.question())
    assert written(whole) == expected(tokens)
    for share in (3, 2):
        stop = whole.text[len(whole.text) // share :][:2]
        cut = await client.answer(tokens=prompt, **asked.question(stop=[stop]))
        length = len(cut.tokens)
        assert (cut.finished.reason, written(cut)) == ("stop_string", expected(tokens[:length]))
        same(told(cut), until_length(length))
        trajectory = await client.trajectory(cut.session_id, consultations=True)
        assert [each for segment in trajectory.segments for each in segment.consultations] == told(cut)


@by_routers("running-ahead")
async def test_from_any_token_on_a_reader_gets_the_consultations_from_there_on(
    client: AsyncClient, reference: Reference
) -> None:
    asked = Asked("shown", 2)
    prompt = reference.long(asked, TOKENS)
    whole = await client.answer(tokens=prompt, **asked.question())
    for num in range(TOKENS):
        position = len(prompt) + num
        rest = Answer.of([event async for event in client.attach(whole.session_id, position)])
        assert rest.tokens == whole.tokens[num:]
        assert told(rest) == [each for each in told(whole) if each.position >= position]


async def test_another_router_goes_on_with_the_same_decisions(
    kindred_stack: LocalStack, folder: Path, reference: Reference
) -> None:
    """Whoever asked leaves after so many tokens; the answer breaks off, and a router that asks elsewhere goes on.

    The answer is much longer, so that it still runs when the router sees that.
    """
    asked, num_tokens = Asked("shown", 11), 60
    prompt = reference.long(asked, num_tokens)
    tokens, consultations = reference.answer(tuple(prompt), asked, num_tokens)
    settings = list(ROUTERS.values())
    num_interrupted = 0
    async with (
        another_router(kindred_stack, heads=str(folder), detach_grace_s=0, **settings[1]) as first,
        another_router(kindred_stack, heads=str(folder), **settings[0]) as second,
        another_router(kindred_stack, heads=str(folder), **settings[2]) as third,
    ):
        for num in range(1, 16, 2):
            client = (second, third)[num // 2 % 2]
            begin = await left_after(num, first.generate(tokens=prompt, **asked.question(max_new_tokens=num_tokens)))
            state = await until(functools.partial(is_not_running, first, begin.session_id))
            num_interrupted += state is TrajectoryState.INTERRUPTED
            rest = Answer.of([event async for event in client.attach(begin.session_id, begin.position + num)])
            assert written(rest) == expected(tokens[num:])
            whole = Answer.of([event async for event in client.attach(begin.session_id, begin.position)])
            assert written(whole) == expected(tokens)
            await check_told_everywhere(kindred_stack, client, whole, prompt, consultations)
    assert num_interrupted > 3


async def left_after(num: int, events: AsyncIterator[Event]) -> Started:
    got: list[Event] = []
    async for event in events:
        got.append(event)
        if sum(len(item.tokens) for item in got if isinstance(item, Chunk)) >= num:
            break
    await events.aclose()
    assert isinstance(got[0], Started)
    return got[0]


async def is_not_running(client: AsyncClient, session_id: str) -> TrajectoryState | None:
    state = (await client.trajectory(session_id)).state
    return None if state is TrajectoryState.RUNNING else state


@pytest.mark.slow
@pytest.mark.parametrize("role", ["slm", pytest.param("llm", marks=pytest.mark.soak)])
@by_routers("running-ahead")
async def test_a_killed_worker_changes_nothing(
    kindred_stack: LocalStack, folder: Path, reference: Reference, router: str, role: Any
) -> None:
    """A worker that comes back knows no head and no answer; what it is asked again is told once."""
    asked = Asked("ahead", 13)
    prompt = reference.long(asked, 100)
    tokens, consultations = reference.answer(tuple(prompt), asked, 100)
    async with another_router(kindred_stack, heads=str(folder), **ROUTERS[router]) as client:
        events = client.generate(tokens=prompt, **asked.question(max_new_tokens=100))
        answer = await interrupted(events, kindred_stack.worker(role), runs_on(client))
        assert written(answer) == expected(tokens)
        await check_told_everywhere(kindred_stack, client, answer, prompt, consultations)
