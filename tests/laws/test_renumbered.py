"""The laws where the two models number one vocabulary differently: the bundled LLM under other ids, its turn markers
renamed, beside the bundled SLM, writes text for text what the plain pair writes, and so does Algorithm 1.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from json import dumps, loads
from typing import Any

import jsonschema
import pytest

from evals.algorithm.reference import Threshold as Tau
from evals.renumber.__main__ import renumber
from evals.renumber.tokens import Renumbering
from evals.tasks.tiny.arithmetic import problems
from rstitch.client.aio import AsyncClient
from rstitch.client.types import (
    Answer,
    Chunk,
    EarlyExit,
    Event,
    FinishReason,
    Learned,
    LlmOnly,
    Message,
    Sampling,
    SlmOnly,
    Speculative,
    Started,
    Threshold,
    TrajectoryState,
)
from rstitch.local.stack import LocalStack
from tests.support.asking import until
from tests.support.breaking import interrupted, runs_on
from tests.support.grammars import MARKS, PERSON
from tests.support.renumbered import MappedPair
from tests.support.served import Pair, another_router, check_kept, expected, start_stack, written

TAUS = (0.0005, 0.002, 0.01, 0.1)
TOKENS = 240
QUESTIONS = [problem.question for problem in problems("dev", 2)]
ASKED: list[dict[str, Any]] = [
    *({"policy": Threshold(tau)} for tau in TAUS),
    {"policy": Threshold(0.01, 0.001)},
    {"policy": LlmOnly()},
    {"policy": SlmOnly()},
    {"policy": Speculative(4)},
    {"policy": Learned("tiny", 0.001)},
    {"policy": Threshold(0.002), "early_exit": EarlyExit(0.9)},
    {"policy": LlmOnly(), "early_exit": EarlyExit(0.9)},
    {"policy": Speculative(4), "early_exit": EarlyExit(0.9)},
    {"policy": Threshold(0.002), "stop": ["oxed{"]},
]
HELD = [Threshold(0.002), LlmOnly(), SlmOnly(), Speculative(4)]
# Which ids of the LLM are changed.
_SPECIAL = pytest.param("special", marks=pytest.mark.soak)  # whatever can go wrong with them does with all
SPECIAL = pytest.mark.parametrize("ids", [_SPECIAL])
ALL = pytest.mark.parametrize("ids", ["all", _SPECIAL])


class Renumbered:
    """The bundled pair, its LLM under other ids, and the stack that serves it."""

    def __init__(self, pair: MappedPair, new: Renumbering, stack: LocalStack) -> None:
        self.pair, self.new, self.stack = pair, new, stack

    def same(self, answer: Answer, plain: Answer) -> None:
        """Asserts that an answer is the plain pair's: text, tokens, writers, switches, end."""
        assert answer.text == plain.text
        assert written(answer) == [(self.new.id_of(token), model) for token, model in written(plain)]
        told, before = ([(s.position, s.to_model, s.reason) for s in one.switches] for one in (answer, plain))
        assert told == before
        assert (answer.finished.reason, answer.finished.length) == (plain.finished.reason, plain.finished.length)
        exits = [one.finished.early_exit for one in (answer, plain)]
        assert (exits[0] and exits[0].position) == (exits[1] and exits[1].position)
        entropies = [[value for chunk in one.chunks for value in chunk.entropies] for one in (answer, plain)]
        assert entropies[0] == pytest.approx(entropies[1], abs=2e-3)  # of a few tokens fewer


@pytest.fixture(scope="module")
def stacks(bundled_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any], Renumbered]]:
    """Gives the pair with such ids of its LLM changed; its stack is started once, when first asked for."""
    folder, slm = tmp_path_factory.mktemp("renumbered"), bundled_pair.slm_folder
    with ExitStack() as held:

        @functools.cache
        def start(ids: Any) -> Renumbered:
            llm = folder / ids
            new = renumber(bundled_pair.llm_folder, llm, ids=ids, renamed="markers", seed=3)
            stack = held.enter_context(start_stack(Pair(slm, llm, "float32")))
            return Renumbered(MappedPair(slm, llm, "float32"), new, stack)

        yield start


@pytest.fixture
def renumbered(stacks: Callable[[Any], Renumbered], ids: str) -> Renumbered:
    return stacks(ids)


@pytest.fixture
async def client(renumbered: Renumbered) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(renumbered.stack.router_address, timeout_s=100, reconnect_s=60) as connected:
        yield connected


@pytest.fixture
async def plain(bundled_stack: LocalStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(bundled_stack.router_address, timeout_s=100) as connected:
        yield connected


def ask(client: AsyncClient, question: str, **asked: Any) -> Any:
    return client.answer(chat=[Message("user", question)], **{"max_new_tokens": TOKENS, **asked})


def chat(*turns: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns)]


@ALL
async def test_text_for_text_what_the_plain_pair_writes(
    renumbered: Renumbered, client: AsyncClient, plain: AsyncClient
) -> None:
    everything = [(question, asked) for question in QUESTIONS for asked in ASKED]
    ours, theirs = [
        await asyncio.gather(*(ask(one, question, **asked) for question, asked in everything))
        for one in (client, plain)
    ]
    for (question, asked), answer, same in zip(everything, ours, theirs, strict=True):
        renumbered.same(answer, same)
        if "stop" not in asked:  # the stop string's own text is kept, and not told
            await check_kept(renumbered.stack, client, answer, renumbered.pair.prompt(chat(question)).llm)
        usage = answer.finished.usage
        if isinstance(asked["policy"], Speculative) and "early_exit" not in asked:
            assert 0 < usage.num_accepted_draft_tokens < usage.num_draft_tokens
    stitched = ours[: len(TAUS)]
    assert {model for answer in stitched for _, model in written(answer)} == {"slm", "llm"}
    assert any(answer.finished.early_exit for answer in ours)


@ALL
async def test_a_schema_holds_both_models_in_their_own_ids(
    renumbered: Renumbered, client: AsyncClient, plain: AsyncClient
) -> None:
    everything = [(schema, policy) for schema in (PERSON, MARKS) for policy in HELD]
    ended = set[str]()
    ours, theirs = [
        await asyncio.gather(
            *(
                ask(one, "What is 3 + 4?", policy=policy, json_schema=dumps(schema), max_new_tokens=400)
                for schema, policy in everything
            )
        )
        for one in (client, plain)
    ]
    for (schema, _), answer, same in zip(everything, ours, theirs, strict=True):
        renumbered.same(answer, same)
        if answer.finished.reason is FinishReason.STOP:
            jsonschema.validate(loads(answer.text.rpartition("</think>")[2]), schema)
            ended.add(dumps(schema))
    assert ended == {dumps(PERSON), dumps(MARKS)}, "no answer came to its end"
    assert any({model for _, model in written(answer)} == {"slm", "llm"} for answer in ours)


@ALL
async def test_it_is_algorithm_1_with_both_models_prompts(renumbered: Renumbered, client: AsyncClient) -> None:
    pair = renumbered.pair
    assert pair.masked["slm"], "the renamed markers have no counterpart"
    for question, tau in zip(QUESTIONS, TAUS[1:], strict=False):
        answer = await ask(client, question, policy=Threshold(tau))
        naive = pair.stitched([pair.prompt(chat(question))], Tau(tau), TOKENS).written
        assert written(answer) == expected(naive)
        entropies = [value for chunk in answer.chunks for value in chunk.entropies]
        assert entropies == pytest.approx([token.entropy for token in naive], abs=1e-5)


@ALL
@pytest.mark.parametrize(
    "cut",
    [
        pytest.param({}, id="ended"),
        # What a cut answer is to the next turn, tests/router/test_conversation.py has on toy models.
        pytest.param({"max_new_tokens": 12}, id="limit", marks=pytest.mark.soak),
        pytest.param({"stop": ["\n"]}, id="stop string", marks=pytest.mark.soak),
    ],
)
async def test_a_second_turn_is_the_plain_pairs(
    renumbered: Renumbered, client: AsyncClient, plain: AsyncClient, cut: dict[str, Any]
) -> None:
    """Also by the other model, also where the turn before was cut off."""

    async def turns(client: AsyncClient, policies: tuple[Any, Any]) -> list[Answer]:
        first = await ask(client, QUESTIONS[0], policy=policies[0], **cut)
        asked = {"policy": policies[1], "session_id": first.session_id, "max_new_tokens": 60}
        return [first, await ask(client, QUESTIONS[1], **asked)]

    for policies in ((SlmOnly(), LlmOnly()), (LlmOnly(), SlmOnly()), (Threshold(0.002), Threshold(0.01))):
        ours, theirs = [await turns(one, policies) for one in (client, plain)]
        for answer, same in zip(ours, theirs, strict=True):
            renumbered.same(answer, same)
    first, second = ours
    pair = renumbered.pair
    begin = pair.prompt(chat(QUESTIONS[0])).llm
    closes = first.finished.reason != "stop"
    then = pair.next_prompt(QUESTIONS[1], len(begin) + len(first.tokens), closes)
    trajectory = await client.trajectory(first.session_id)
    assert list(trajectory.tokens) == [*begin, *first.tokens, *then.llm, *second.tokens]


@ALL
@pytest.mark.slow
@pytest.mark.parametrize("step", [2, pytest.param(1, marks=pytest.mark.soak)])
async def test_resumed_at_every_token_by_another_router_it_is_the_same(
    renumbered: Renumbered, plain: AsyncClient, step: int
) -> None:
    """Whoever asked leaves after so many tokens; the answer is interrupted, and another router goes on with it."""
    policy, num_tokens, num_interrupted = Threshold(0.0005), 80, 0
    whole = await ask(plain, QUESTIONS[0], policy=policy, max_new_tokens=num_tokens)
    async with (
        another_router(renumbered.stack, detach_grace_s=0) as first,
        another_router(renumbered.stack) as second,
    ):
        for num in range(1, 24, step):
            events = first.generate(chat=[Message("user", QUESTIONS[0])], policy=policy, max_new_tokens=num_tokens)
            begin = (await left_after(num, events))[0]
            assert isinstance(begin, Started)
            state = await until(functools.partial(is_not_running, first, begin.session_id))
            num_interrupted += state is TrajectoryState.INTERRUPTED
            rest = [event async for event in second.attach(begin.session_id, begin.position)]
            renumbered.same(Answer.of(rest), whole)
            after = [event async for event in second.attach(begin.session_id, begin.position + num)]
            assert list(Answer.of(after).tokens) == renumbered.new.id_of(list(whole.tokens))[num:]
    assert num_interrupted > 12 // step


async def left_after(num: int, events: AsyncIterator[Event]) -> list[Event]:
    got: list[Event] = []
    async for event in events:
        got.append(event)
        if sum(len(item.tokens) for item in got if isinstance(item, Chunk)) >= num:
            break
    await events.aclose()
    return got


async def is_not_running(client: AsyncClient, session_id: str) -> TrajectoryState | None:
    state = (await client.trajectory(session_id)).state
    return None if state is TrajectoryState.RUNNING else state


@ALL
@pytest.mark.slow
@pytest.mark.parametrize("role", [pytest.param("slm", marks=pytest.mark.soak), "llm"])
async def test_a_killed_worker_changes_nothing(
    renumbered: Renumbered, client: AsyncClient, plain: AsyncClient, role: Any
) -> None:
    question = QUESTIONS[0]
    whole = await ask(plain, question, policy=Threshold(0.0005))
    events = client.generate(chat=[Message("user", question)], policy=Threshold(0.0005), max_new_tokens=TOKENS)
    renumbered.same(await interrupted(events, renumbered.stack.worker(role), runs_on(client)), whole)


@SPECIAL
async def test_seeded_sampling_is_the_plain_pairs_where_text_keeps_its_ids(
    renumbered: Renumbered, client: AsyncClient, plain: AsyncClient
) -> None:
    """A token is drawn in the order of ids; a masked one has no probability.

    In short, what a model draws is tested in tests/engine/test_masked_tokens.py, by which positions in
    tests/router/test_renumbered.py.
    """
    for seed in range(3):
        asked = {"policy": LlmOnly(), "sampling": Sampling(0.7, seed=seed), "max_new_tokens": 60}
        renumbered.same(await ask(client, QUESTIONS[0], **asked), await ask(plain, QUESTIONS[0], **asked))
