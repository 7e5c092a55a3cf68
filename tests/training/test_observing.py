"""What a warm start asks a router for: it waits for a lost one, and one answer that does not fit ends nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from rich.console import Console

from evals.asking.systems import Terms
from evals.tasks.data import Problem
from rstitch.client.sync import Client
from rstitch.errors import RstitchError, to_status
from rstitch.v1 import router_pb2 as pb
from tests.support.fake_router import FakeRouter
from tests.support.heads import random_head
from tests.support.scripted_answer import LLM, SLM
from training.head.progress import Screen
from training.head.recipe import Recipe
from training.head.rollouts.judging import Judge
from training.head.rollouts.served import ServedRollouts
from training.head.warm_start.observing import Observed, observe_given
from training.head.warm_start.sources import of_logs, of_solutions

RECIPE = Recipe(num_readout=0)
CHAT = [{"role": "user", "content": "Hi"}]


class OwnCheck:
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *raised: object) -> None: ...


class Router(FakeRouter):
    """Is lost `num_losses` times in the middle of an observation; what is called `refused` it does not observe."""

    def __init__(self) -> None:
        super().__init__()
        # As what is observed: the LLM began.
        chunks = [pb.Chunk(model=model, position=5 + i, tokens=[i], entropies=[0.5], text="w")
                  for i, model in enumerate((LLM, SLM, SLM))]  # fmt: skip
        self.answer = [*(pb.GenerateResponse(chunk=chunk) for chunk in chunks), self.answer[-1]]
        self.num_losses = 0
        self.refused: dict[str, tuple[grpc.StatusCode, str, str | None]] = {}

    def ObserveAnswer(self, request: pb.ObserveAnswerRequest, context: Any) -> Iterator[pb.ObserveAnswerResponse]:
        name = request.session_id or request.given.text
        if name in self.refused:
            code, reason, field = self.refused[name]
            context.abort_with_status(to_status(RstitchError(code, reason, f"{name} is refused.", field=field)))
        for response in super().ObserveAnswer(request, context):
            yield response
            if self.num_losses:
                self.num_losses -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "lost by the test")


@pytest.fixture
def router() -> Iterator[Router]:
    with Router() as running:
        yield running


@pytest.fixture
def served(router: Router) -> Iterator[ServedRollouts]:
    judge = Judge(Terms(8), OwnCheck(), None)  # type: ignore[arg-type]
    with ServedRollouts(router.address, judge, "mine.training", num_sessions=2, patience_s=5.0) as rollouts:
        yield rollouts


def problems(*solutions: str) -> list[Problem]:
    return [Problem(i, str(i), f"What {i}?", "", row={"solution": text}) for i, text in enumerate(solutions)]


def screen() -> tuple[Screen, io.StringIO]:
    told = io.StringIO()
    return Screen(Console(file=told, width=500)), told


def observed(served: ServedRollouts, tau: float, whole: bool) -> Observed:
    return served.wait_for(observe_given(served, [(CHAT, "a"), (CHAT, "b")], tau, whole=whole))


@pytest.mark.parametrize(("whole", "asked"), [(True, -1.0), (False, 0.75)])
def test_hidden_states_are_held_where_a_head_would_be_asked(
    whole: bool, asked: float, router: Router, served: ServedRollouts
) -> None:
    for tau, state in ((0.75, b""), (0.25, b"\0<")):
        found = observed(served, tau, whole).seen
        assert {place.consultation.hidden_state for seen in found for place in seen.places} == {state} or not whole
    assert router.observed[0].tau == asked, "without features nothing else is even sent"


def test_a_lost_router_is_waited_for(router: Router, served: ServedRollouts) -> None:
    router.num_losses = 3
    states = of_solutions(served, problems("a", "b"), Terms(8), RECIPE, screen()[0])
    assert router.num_losses == 0
    assert (states.num_answers, len(states)) == (2, 6)


def test_heads_of_training_are_forgotten_together(router: Router, served: ServedRollouts) -> None:
    served.use(random_head(4))
    served.use(random_head(4, seed=2))
    served.forget_heads()
    *stored, deleted = router.head_calls
    assert [call.name for call in stored] == ["mine.training"] * 2
    assert (type(deleted), deleted.name) == (pb.DeleteHeadRequest, "mine.training")
    router.__exit__(None, None, None)
    served.forget_heads()  # the run is over all the same


def test_an_answer_that_does_not_fit_is_left_out_and_counted(router: Router, served: ServedRollouts) -> None:
    router.refused["long"] = grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_FULL", "given.text"
    shown, told = screen()
    assert of_solutions(served, problems("a", "long", "b"), Terms(8), RECIPE, shown).num_answers == 2
    assert "left out of the warm start: 1 of 3 answers" in told.getvalue()
    with pytest.raises(RstitchError, match="long is refused"):
        of_solutions(served, problems("long", "long"), Terms(8), RECIPE, shown)
    router.refused["a"] = grpc.StatusCode.FAILED_PRECONDITION, "WORKER_TOO_OLD", None
    with pytest.raises(RstitchError, match="a is refused"):
        of_solutions(served, problems("a", "b"), Terms(8), RECIPE, shown)


def log(router: Router, *names: str) -> None:
    with Client(router.address) as client:
        for name in names:
            list(client.generate(text="Hi", session_id=name))
            client.label_trajectory(name, True)


def test_sessions_that_cannot_be_learned_from_are_left_out(router: Router, served: ServedRollouts) -> None:
    log(router, "fine", "foreign", "running")
    router.refused["running"] = grpc.StatusCode.FAILED_PRECONDITION, "ANSWER_NOT_FINISHED", "session_id"
    router.refused["foreign"] = grpc.StatusCode.FAILED_PRECONDITION, "OTHER_VOCABULARY", "session_id"
    shown, told = screen()
    assert of_logs(served, [], RECIPE, shown).num_answers == 1
    assert "left out of the warm start: 2 of 3 answers" in told.getvalue()


def test_sessions_of_dev_and_test_questions_are_left_alone(router: Router, served: ServedRollouts) -> None:
    log(router, "one", "two")
    shown, told = screen()
    others = [Problem(0, "0", "Now, What  else? Think.", "", row={"question": "What  else?"})]
    assert of_logs(served, others, RECIPE, shown).num_answers == 2
    held_out = [*others, Problem(1, "1", "Say it: What?", "", row={"question": " What?"})]
    router.observed.clear()
    with pytest.raises(RstitchError, match="2 of 2 labelled sessions are left out"):
        of_logs(served, held_out, RECIPE, shown)
    assert not router.observed
    assert "2 of 2 labelled sessions" in told.getvalue()
