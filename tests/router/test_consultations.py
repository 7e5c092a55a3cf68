"""What a head was asked: kept with the trajectory, told to clients, the same however it is read; exploring heads."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router_svc.answers import preparation
from router_svc.policies.answer_settings import policy_fields, policy_from
from router_svc.policies.kinds import Learned, Threshold
from router_svc.policies.policy import Policy
from rstitch.service.coin import uniform
from rstitch.service.head import Head
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, ask_for, check_kept, refused, take, until
from tests.support.heads import put, random_head
from tests.support.toy import ToyModel
from tests.support.toy_stack import Stack

PROMPT = [7, 8, 9]
TAU = 0.2
NUM_TOKENS = 80
PLACES = pytest.mark.parametrize("place", ["on", "off"], ids=["in worker", "in router"])


@pytest.fixture
def head(tmp_path: Path) -> Head:
    """Of two minds: neither sure to stay nor sure to go."""
    made = random_head(1, seed=4, tau=TAU)
    put(tmp_path, "toy", made)
    return made


@pytest.fixture
def settings(head: Head, tmp_path: Path) -> dict[str, Any]:
    return {"heads": str(tmp_path)}


@pytest.fixture(autouse=True)
def models(stack: Stack) -> None:
    stack.slm.model, stack.llm.model = ToyModel(31, stop_every=90), ToyModel(32, stop_every=90)


def asked(keep: int = 4096, **fields: Any) -> router_pb2.GenerateRequest:
    learned = router_pb2.Learned(name="toy", **{"tau": TAU, **fields})
    policy = router_pb2.Policy(learned=learned)
    return ask_for(PROMPT, policy=policy, max_new_tokens=NUM_TOKENS, keep_consultations=keep)


def check_followed(answer: Answer, head: Head, seed: int | None, price: float = 1.0) -> None:
    """Each decision is the head's (or its coin's), and the answer went as it was decided."""
    turns = {switch.position for switch in answer.switches if switch.reason == router_pb2.SWITCH_REASON_HEAD}
    assert answer.consultations
    assert all(first.position < second.position for first, second in pairwise(answer.consultations))
    for each in answer.consultations:
        index = each.position - answer.position
        # The toy's hidden state is a number that half precision may round; the head was asked with it as it is.
        state = ToyModel(31).hidden_state([*PROMPT, *answer.tokens[:index]])
        assert each.hidden_state == np.frombuffer(state, "<f4").astype("<f2").tobytes()
        assert each.context_length == each.position
        assert each.entropy > TAU
        assert each.probability == pytest.approx(head.probability(state, each.position, (), price), rel=1e-6)
        coin = 0.5 if seed is None else uniform(seed, each.position, b"explore")
        assert each.to_llm == (coin < each.probability)
        if each.to_llm:
            assert each.position in turns
            assert answer.authors[index] == "llm"
        else:
            assert (answer.authors[index], answer.tokens[index]) == ("slm", each.proposal)
            assert answer.entropies[index] == each.entropy
    # Nothing was left out: wherever the SLM kept what it was unsure of, or a head sent the position on.
    unsure = {answer.position + index for index, author in enumerate(answer.authors)
              if author == "slm" and answer.entropies[index] > TAU}  # fmt: skip
    assert {each.position for each in answer.consultations} == unsure | turns


@PLACES
@pytest.mark.parametrize(("seed", "price"), [(None, 1.0), (5, 1.0), (6, 3.0)])
async def test_what_a_head_was_asked_is_told_with_its_tokens(
    stack: Stack, settings: dict[str, Any], head: Head, place: str, seed: int | None, price: float
) -> None:
    stub = await stack.stub(await stack.router(head_in_worker=place, **settings))
    answer = await take(stub, asked(explore_seed=seed, price=price))
    check_followed(answer, head, seed, price)
    await check_kept(stub, answer)
    usage = answer.finished.usage
    assert usage.num_kept_consultations == len(answer.consultations)
    assert answer.finished.policy.learned.HasField("explore_seed") == (seed is not None)
    # Told again to one who comes back, and kept with the segments for those who ask for it.
    again = await take(stub, ask_for(session_id=answer.session_id, resume_from=0))
    assert again.consultations == answer.consultations
    for wanted in (True, False):
        request = router_pb2.GetTrajectoryRequest(session_id=answer.session_id, consultations=wanted)
        segments = (await stub.GetTrajectory(request)).trajectory.segments
        kept = [each for segment in segments for each in segment.consultations]
        assert kept == (answer.consultations if wanted else [])


@PLACES
async def test_the_same_seed_explores_alike_and_another_does_not(
    stack: Stack, settings: dict[str, Any], head: Head, place: str
) -> None:
    stub = await stack.stub(await stack.router(head_in_worker=place, **settings))
    answers = [await take(stub, asked(explore_seed=seed)) for seed in (1, 1, *range(2, 8))]
    assert answers[0].consultations == answers[1].consultations
    assert answers[0].tokens == answers[1].tokens
    assert len({tuple(answer.tokens) for answer in answers}) > 2


@pytest.mark.parametrize(
    ("place", "bounded"),
    [("on", True), ("on", False), ("off", True)],
    ids=["in worker", "in an older worker", "in router"],
)
async def test_no_more_are_kept_than_are_asked_for(
    stack: Stack, settings: dict[str, Any], head: Head, place: str, bounded: bool
) -> None:
    stack.slm.max_reported = bounded
    stub = await stack.stub(await stack.router(head_in_worker=place, **settings))
    whole = await take(stub, asked())
    for keep in (0, 1, 3):
        answer = await take(stub, asked(keep))
        assert answer.consultations == whole.consultations[:keep]
        assert answer.tokens == whole.tokens
        assert answer.finished.usage.num_consultations == whole.finished.usage.num_consultations


async def test_a_worker_sends_no_more_than_is_kept(stack: Stack, settings: dict[str, Any], tmp_path: Path) -> None:
    """A head that never asks for the LLM is asked all along one run."""
    put(tmp_path, "toy", random_head(1, tau=TAU, bias=-1e6))
    stub = await stack.stub(await stack.router(**settings))
    answer = await take(stub, asked(3))
    assert len(answer.consultations) == stack.slm.num_reported == 3
    assert answer.finished.usage.num_consultations > 3


async def test_what_is_asked_ahead_where_the_llm_then_writes_takes_no_place(
    stack: Stack, settings: dict[str, Any], head: Head
) -> None:
    """An LLM that agrees, once the SLM is ahead, writes some of what that has asked about: it is not kept."""
    stack.slm.model = stack.llm.model = ToyModel(31, stop_every=0)
    plain = await stack.stub(await stack.router(run_ahead="off", **settings))
    ahead = await stack.stub(await stack.router(run_ahead="on", **settings))
    questions = [asked(keep, tau=0.6, explore_seed=5, price=3.0) for keep in (4096, *range(2, 14, 2))]

    def slm_is_ahead() -> bool:
        """All answers are at their first hand-over, since their tokens are the same, or behind it."""
        return sum(run.priority > 0 for run in stack.slm.requests) >= len(questions) and not stack.slm.busy

    stack.llm.pace = lambda: until(slm_is_ahead)
    answers = await asyncio.gather(*[take(ahead, question) for question in questions])
    whole = await take(plain, questions[0])
    assert any(answer.finished.usage.num_run_ahead_tokens for answer in answers)
    for question, answer in zip(questions, answers, strict=True):
        assert answer.consultations == whole.consultations[: question.keep_consultations]


async def test_with_broken_runs_at_least_what_was_kept_counts(
    stack: Stack, settings: dict[str, Any], head: Head
) -> None:
    stub = await stack.stub(await stack.router(**settings))
    asks = asked(explore_seed=5, price=6.0)
    whole = await take(stub, asks)
    stack.slm.break_after = [3, 3, 3]
    broken = await take(stub, asks)
    assert not stack.slm.break_after, "runs broke off"
    assert broken.consultations == whole.consultations
    assert broken.finished.usage.num_consultations >= len(broken.consultations)


async def test_what_cannot_be_is_refused_by_its_name(stack: Stack, settings: dict[str, Any], head: Head) -> None:
    stub = await stack.stub(await stack.router(**settings))
    for price in (0.0, -1.0, float("nan"), float("inf")):
        error = await refused(stub.Generate(asked(price=price)))
        assert error.field == "policy.learned.price"
    error = await refused(stub.Generate(asked(price=2.0, price_by_load=True)))
    assert error.field == "policy.learned.price"
    assert (await refused(stub.Generate(asked(5000)))).field == "keep_consultations"
    plain = ask_for(PROMPT, policy=router_pb2.Policy(llm_only=router_pb2.LlmOnly()), keep_consultations=1)
    assert (await refused(stub.Generate(plain))).field == "keep_consultations"


async def test_no_more_are_kept_than_fit_into_a_message(
    stack: Stack, settings: dict[str, Any], head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = await stack.stub(await stack.router(**settings))
    whole = await take(stub, asked())
    size = 28  # 26 before features and state, of which a toy's head has none and one number
    monkeypatch.setattr(preparation, "MAX_CONSULTATION_BYTES", 2 * size + 1)
    answer = await take(stub, asked())
    assert answer.consultations == whole.consultations[:3]


async def test_a_worker_that_knows_no_terms_is_not_asked_on_any(
    stack: Stack, settings: dict[str, Any], head: Head
) -> None:
    """One of before would take the decisions by itself, and tell nothing of them."""
    stack.slm.head_terms = False
    stub = await stack.stub(await stack.router(**settings))
    answer = await take(stub, asked(explore_seed=5, price=2.0))
    check_followed(answer, head, 5, 2.0)
    assert not any(request.handoff.head for request in stack.slm.requests)


async def test_an_exploring_answer_is_nobodys_measure(stack: Stack, settings: dict[str, Any], head: Head) -> None:
    """Neither does the guard choose for it: the same seed, the same answer."""
    router = await stack.router(guard="on", **settings)
    stub = await stack.stub(router)
    question = asked(explore_seed=5)
    question.guard = router_pb2.GUARD_ON
    answers = [await take(stub, question) for _ in range(20)]
    assert len({tuple(answer.tokens) for answer in answers}) == 1
    assert not any(answer.finished.guard_reason for answer in answers)
    assert (await stub.GetStatus(router_pb2.GetStatusRequest())).guard.num_routed == 0


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Learned("toy@1", 0.2, in_worker=True), {"kind": "learned", "head": "toy@1", "tau": 0.2, "in_worker": True}),
        (Threshold(0.2, 0.1), {"kind": "threshold", "tau": 0.2, "tau_return": 0.1}),
    ],
)
def test_settings_that_ask_for_nothing_new_are_read_by_older_routers(policy: Policy, said: dict[str, Any]) -> None:
    assert policy_fields(policy) == said
    assert policy_from(said | {"of_a_newer_router": 1}) == policy
