"""Rollouts through a router: answers are written, judged and forgotten, also where the store or router is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar

import grpc
import pytest

from evals.asking.systems import Terms
from evals.checking.checker import Checker, Verdict
from evals.latency import Decode, LatencyModel, ModelLatency, Prefill, runs_of
from evals.tasks.data import Problem
from rstitch.client import AsyncClient, InvalidArgument, Learned, LlmOnly, Threshold, Unavailable
from rstitch.client.events import Event
from rstitch.errors import RstitchError
from tests.support.heads import random_head
from tests.support.toy import ToyModel
from tests.support.toy_stack import Stack
from training.head.rollouts.judging import Judge
from training.head.rollouts.served import ServedRollouts
from training.head.rollouts.types import Asked, Job, Rollout

LATENCY = LatencyModel(
    ModelLatency(Prefill(0, 0, 0.03, 1.0), Decode(0, 1.0)), ModelLatency(Prefill(0, 0, 0.1, 2.0), Decode(0, 3.0))
)
HEAD, TAU, TOKENS = random_head(1, seed=4, tau=0.2), 0.2, 12
PROBLEMS = [Problem(index, str(index), f"question {index}", "") for index in range(5)]
T = TypeVar("T")


class Even(Checker):
    """Calls a text of even length right; counts what it was asked."""

    num_asked = 0

    async def check(self, problem: Problem, text: str) -> Verdict:
        self.num_asked += 1
        return Verdict(len(text) % 2 == 0)


def served(port: int, patience_s: float = 5.0) -> ServedRollouts:
    judge = Judge(Terms(TOKENS, input="text"), Even(), LATENCY)
    return ServedRollouts(f"127.0.0.1:{port}", judge, "mine.training", num_sessions=3, patience_s=patience_s)


async def beside(port: int, work: Callable[[ServedRollouts], T], patience_s: float = 5.0) -> T:
    """What the trainer does, in a thread of its own: the router is in this one's loop."""

    def run() -> T:
        with served(port, patience_s) as rollouts:
            return work(rollouts)

    return await asyncio.to_thread(run)


@pytest.fixture(autouse=True)
def models(stack: Stack) -> None:
    stack.slm.model, stack.llm.model = ToyModel(31, stop_every=0), ToyModel(32, stop_every=0)


async def test_rollouts_are_the_answers_of_the_service(stack: Stack) -> None:
    port = (await stack.router()).port
    jobs = [Job(problem, 50 + problem.index) for problem in PROBLEMS] + [Job(PROBLEMS[0], 9, llm_tokens=1)]
    told = list[Rollout]()
    made = await beside(port, lambda rollouts: rollouts.run(jobs, Learned(rollouts.use(HEAD), TAU), told.append))
    assert [(each.problem.index, each.explore_seed, each.llm_tokens) for each in made] == [
        (job.problem.index, job.explore_seed, job.llm_tokens) for job in jobs
    ]
    assert len(told) == len(jobs)
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        assert [each async for each in client.trajectories()] == [], "they are deleted"
        for job, each in zip(jobs[:-1], made, strict=False):
            policy = Learned(f"mine.training@{HEAD.version}", TAU, job.explore_seed)
            answer = await client.answer(
                job.problem.prompt, policy=policy, max_new_tokens=TOKENS, keep_consultations=100
            )
            num_prompt_tokens, runs = runs_of(await client.trajectory(answer.session_id))
            assert (each.text, list(each.runs), each.consultations) == (answer.text, runs, answer.consultations)
            assert each.latency_ms == LATENCY.trajectory_ms(num_prompt_tokens, runs, Judge(*[None] * 3).service)  # type: ignore[arg-type]
            assert each.right == (len(answer.text) % 2 == 0)
    assert {said.to_llm for each in made for said in each.consultations} == {True, False}
    assert made[-1].num_llm_tokens <= 1


async def test_other_policies_keep_nothing_of_a_head(stack: Stack) -> None:
    port = (await stack.router()).port
    policies: list[Asked] = [LlmOnly(), Threshold(0.2)]
    for policy in policies:
        (made,) = await beside(port, lambda rollouts, policy=policy: rollouts.run([Job(PROBLEMS[0])], policy))  # type: ignore[misc]
        assert made.consultations == ()
        assert (made.num_llm_tokens == made.num_tokens) is isinstance(policy, LlmOnly)


async def test_where_no_coin_is_tossed_consultations_are_counted_and_not_kept(stack: Stack) -> None:
    port = (await stack.router()).port

    def work(rollouts: ServedRollouts) -> list[Rollout]:
        return rollouts.run([Job(PROBLEMS[0])], Learned(rollouts.use(HEAD), TAU))

    (made,) = await beside(port, work)
    assert made.consultations == ()
    assert made.num_consultations > 0


async def test_a_head_that_the_store_has_lost_is_put_again(stack: Stack) -> None:
    port = (await stack.router()).port
    jobs = [Job(PROBLEMS[0], 1)]

    def work(rollouts: ServedRollouts) -> tuple[list[Rollout], list[Rollout]]:
        policy = Learned(rollouts.use(HEAD), TAU)
        first = rollouts.run(jobs, policy)
        rollouts.wait_for(rollouts.client.delete_head("mine.training"))
        return first, rollouts.run(jobs, policy)

    (first,), (again,) = await beside(port, work)
    assert replace(first, session_id="") == replace(again, session_id="")


async def test_a_router_that_is_replaced_midway_changes_no_answer(stack: Stack) -> None:
    async with AsyncExitStack() as held:
        router = await held.enter_async_context(stack.routing())
        await router.ready.wait()
        port = router.port
        jobs = [Job(problem, 7) for problem in PROBLEMS]
        expected = await beside(port, lambda rollouts: rollouts.run(jobs, Learned(rollouts.use(HEAD), TAU)))
        loop, is_under_way = asyncio.get_running_loop(), asyncio.Event()

        def on_done(rollout: Rollout) -> None:
            loop.call_soon_threadsafe(is_under_way.set)

        running = asyncio.create_task(
            beside(port, lambda rollouts: rollouts.run(jobs, Learned(rollouts.use(HEAD), TAU), on_done), 20.0)
        )
        await is_under_way.wait()
        assert not running.done()
    await stack.router(listen=f"127.0.0.1:{port}")
    made = await running
    assert [replace(each, session_id="") for each in made] == [replace(each, session_id="") for each in expected]


async def test_nobody_is_waited_for_longer_than_the_patience() -> None:
    with pytest.raises(Unavailable):
        await beside(1, lambda rollouts: rollouts.run([Job(PROBLEMS[0])], LlmOnly()), patience_s=0.2)


async def test_a_question_that_is_too_long_counts_as_wrong_unless_all_are(stack: Stack) -> None:
    port = (await stack.router()).port
    long, longer = (replace(PROBLEMS[at], prompt="far too long " * (5_000 + at)) for at in (1, 2))
    told = list[Rollout]()
    does_not, fits = await beside(
        port, lambda rollouts: rollouts.run([Job(long), Job(PROBLEMS[0])], LlmOnly(), told.append)
    )
    assert fits.num_tokens == TOKENS
    assert (does_not.right, does_not.num_tokens, does_not.runs) == (False, 0, ())
    assert len(told) == 2
    (alone,) = await beside(port, lambda rollouts: rollouts.run([Job(long)], LlmOnly()))
    assert not alone.right, "one that is left of a run shows nothing of the others"
    with pytest.raises(InvalidArgument, match="do not fit"):
        await beside(port, lambda rollouts: rollouts.run([Job(long), Job(longer)], LlmOnly(), told.append))
    assert len(told) == 2, "nothing is kept of what is refused"


@pytest.mark.parametrize("policy", [LlmOnly(), Threshold(0.2)])
async def test_a_session_that_the_store_has_lost_is_asked_for_anew(stack: Stack, policy: Asked) -> None:
    port = (await stack.router()).port

    def work(rollouts: ServedRollouts) -> tuple[list[Rollout], list[Rollout]]:
        expected = rollouts.run([Job(PROBLEMS[0])], policy)
        generate, num_asked = rollouts.client.generate, itertools.count()

        async def forgotten(**asked: Any) -> AsyncIterator[Event]:
            async for event in generate(**asked):
                yield event
                if next(num_asked) == 0:
                    raise RstitchError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_SESSION", "the store has lost it")

        rollouts.client.generate = forgotten  # type: ignore[method-assign, assignment]
        return expected, rollouts.run([Job(PROBLEMS[0])], policy)

    (expected,), (again,) = await beside(port, work)
    assert replace(again, session_id="") == replace(expected, session_id="")
