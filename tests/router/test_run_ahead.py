"""Run-ahead: the SLM goes on from its own discarded proposal. The answer is Algorithm 1's with it and without it."""

from __future__ import annotations

import asyncio
from array import array
from typing import Any, Literal

import grpc
import pytest

from router_svc.workers.run_ahead import RunAhead, RunAheadGate
from router_svc.workers.runs import PendingRun, Reply, RunEnd, RunFinish
from rstitch.errors import RstitchError
from rstitch.service import semconv
from rstitch.v1 import router_pb2, worker_pb2
from tests.support.asking import Answer, ask_for, check_kept, take, threshold, until
from tests.support.fake_worker import FakeWorker
from tests.support.spans import named, recording, segments_of
from tests.support.toy import Scripted, ToyModel, algorithm_1, at
from tests.support.toy_stack import Stack, script

PROMPT = [7, 8, 9]
NUM_TOKENS = 80


def runs(worker: FakeWorker) -> list[str]:
    """What the worker was asked for: `position+tokens`, in the background with a `~`, catch-up with a `.`."""
    return [
        f"{run.position}+{len(run.tokens)}" + ("~" if run.priority else "" if run.max_tokens else ".")
        for run in worker.requests
    ]


async def ask(stack: Stack, request: router_pb2.GenerateRequest, **settings: Any) -> Answer:
    """The answer of a router that runs ahead, checked against Algorithm 1."""
    stub = await stack.stub(await stack.router(**{"run_ahead": "on", **settings}))
    answer = await take(stub, request)
    assert answer.error is None, answer.error
    tau, back = request.policy.threshold.tau, request.policy.threshold.tau
    if request.policy.threshold.HasField("tau_return"):
        back = request.policy.threshold.tau_return
    prompt = list(request.tokens.ids)
    num = request.max_new_tokens
    assert (answer.tokens, answer.authors) == algorithm_1(stack.slm.model, stack.llm.model, prompt, tau, back, num)
    usage = answer.finished.usage
    assert usage.num_switches == len(answer.switches)
    assert usage.num_discarded_proposals == sum(switch.to == 2 for switch in answer.switches)
    assert usage.num_run_ahead_tokens <= usage.num_slm_tokens
    await check_kept(stub, answer)
    return answer


def half_agreeing() -> tuple[ToyModel, ToyModel]:
    """Two toys, of which the LLM writes the SLM's own token in three cases of four."""
    slm, other = ToyModel(1, stop_every=60), ToyModel(2, stop_every=60)
    return slm, ToyModel(2, choose=lambda prefix: (other if sum(prefix) % 4 == 0 else slm).token(prefix))


@pytest.mark.parametrize(
    ("delays", "num_ahead"), [((0, 0), 3), ((0, 0.003), 32), ((0.001, 0.003), 4), ((0.001, 0.002), 1), ((0.001, 0), 32)]
)
async def test_with_and_without_the_same_answer(stack: Stack, delays: tuple[float, float], num_ahead: int) -> None:
    stack.slm.model, stack.llm.model = half_agreeing()
    stack.slm.delay_s, stack.llm.delay_s = delays
    on = await stack.stub(await stack.router(run_ahead="on", run_ahead_tokens=num_ahead))
    off = await stack.stub(await stack.router(run_ahead="off"))
    seen = []

    async def one(tau: float, back: float, prompt: list[int]) -> None:
        request = ask_for(prompt, policy=threshold(tau, back), max_new_tokens=NUM_TOKENS)
        ahead, plain = await asyncio.gather(take(on, request), take(off, request))
        assert ahead.error is None
        tokens, authors = algorithm_1(stack.slm.model, stack.llm.model, prompt, tau, back, NUM_TOKENS)
        assert (ahead.tokens, ahead.authors) == (plain.tokens, plain.authors) == (tokens, authors)
        assert ahead.entropies == plain.entropies
        assert ahead.switches == plain.switches
        assert ahead.finished.reason == plain.finished.reason
        kinds = ("num_slm_tokens", "num_llm_tokens", "num_discarded_proposals", "num_switches")
        assert all(getattr(ahead.finished.usage, kind) == getattr(plain.finished.usage, kind) for kind in kinds)
        assert plain.finished.usage.num_run_ahead_tokens == plain.finished.usage.num_run_ahead_discarded == 0
        await check_kept(on, ahead)
        seen.append(ahead.finished.usage)

    taus = [(0.5, 0.5), (0.8, 0.3), (0.3, 0.9)]
    await asyncio.gather(*(one(tau, back, [7, 8, 9 + n]) for tau, back in taus for n in range(3)))
    assert any(usage.num_run_ahead_tokens or usage.num_run_ahead_discarded for usage in seen)
    assert any(run.priority == worker_pb2.PRIORITY_BACKGROUND for run in stack.slm.requests)
    assert not any(run.priority for run in stack.llm.requests)
    assert stack.slm.num_streams == stack.llm.num_streams == 0


async def test_where_the_llm_agrees_the_slm_needs_no_further_run(stack: Stack) -> None:
    """Each run that was ahead is gone on with, also where it ended by its own hand-off: the LLM follows at once."""
    script(stack, Scripted(1, unsure=at(6, 8, 9, 20)), Scripted(2))
    await ask(stack, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=30))
    assert runs(stack.slm) == ["0+3", "6+1~", "8+1~", "9+1~", "20+1~"]


async def test_where_the_llm_differs_the_slm_is_rolled_back(stack: Stack) -> None:
    script(stack, Scripted(1, unsure=at(6, 20)), Scripted(2, own=at(6, 20)))
    answer = await ask(stack, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=30))
    assert runs(stack.slm) == ["0+3", "6+1~", "6+1", "20+1~", "20+1"]
    assert answer.finished.usage.num_run_ahead_tokens == 0


async def test_a_longer_segment_of_the_llm_takes_from_what_was_written_ahead(stack: Stack) -> None:
    """Positions 6 to 8 are the LLM's; the SLM wrote them too, and what follows."""
    script(stack, Scripted(1, unsure=at(6)), Scripted(2, unsure=at(6, 7)))
    stack.llm.pace = lambda: until(lambda: len(stack.slm.sessions["s"]) >= 12)
    answer = await ask(stack, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=30, session_id="s"))
    assert runs(stack.slm) == ["0+3", "6+1~"]
    assert answer.authors[:8] == ["slm"] * 3 + ["llm"] * 3 + ["slm"] * 2


async def test_a_wrong_run_ahead_is_stopped_while_the_llm_goes_on(stack: Stack) -> None:
    script(stack, Scripted(1, unsure=at(6)), Scripted(2, unsure=at(6, 7, 8, 9), own=at(6)))

    async def after_the_first_until_stopped() -> None:
        if len(stack.llm.sessions["s"]) > 6:
            await until(lambda: runs(stack.slm)[-1].endswith("."))

    stack.llm.pace = after_the_first_until_stopped
    stack.llm.max_message_tokens = 1
    stack.slm.delay_s = 0.01
    await ask(stack, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=12, session_id="s"), catch_up_tokens=0)
    assert runs(stack.slm)[:3] == ["0+3", "6+1~", "6+1."]


async def test_when_the_llm_is_further_catch_up_takes_over(stack: Stack) -> None:
    """The SLM's run ahead ends by its own hand-off at 8; the LLM writes on to 20."""
    script(stack, Scripted(1, unsure=at(6, 8)), Scripted(2, unsure=frozenset(range(6, 20))))

    async def until_caught_up() -> None:
        if len(stack.llm.sessions["s"]) > 12:
            await until(lambda: runs(stack.slm)[-1].endswith("."))

    stack.llm.pace = until_caught_up
    stack.llm.max_message_tokens = 1
    await ask(stack, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=40, session_id="s"))
    first, ahead, caught_up, *_ = runs(stack.slm)
    assert (first, ahead) == ("0+3", "6+1~")
    assert caught_up.startswith("8+"), "what was right of the run-ahead is not fed again"


@pytest.mark.parametrize("reason", ["NO_CAPACITY", "TRANSPORT", "HELD_TOO_SHORT", "PREFIX_MISMATCH"])
async def test_a_run_ahead_that_fails_hurts_nobody(stack: Stack, reason: str) -> None:
    codes = {"NO_CAPACITY": grpc.StatusCode.RESOURCE_EXHAUSTED, "TRANSPORT": grpc.StatusCode.UNAVAILABLE}
    code = codes.get(reason, grpc.StatusCode.FAILED_PRECONDITION)
    script(stack, Scripted(1, unsure=at(6, 12, 20)), Scripted(2))
    stack.slm.background_errors = [RstitchError(code, reason, "", metadata={"held": "2"}, retry_after_s=0.01)]
    await ask(stack, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=30))


@pytest.mark.parametrize("slm_delay_s", [0, 0.002])
async def test_limits_and_stop_tokens_hold_within_what_was_written_ahead(stack: Stack, slm_delay_s: float) -> None:
    script(stack, Scripted(1, unsure=at(6, 9), stop_at=15), Scripted(2, stop_at=15))
    stack.slm.delay_s = slm_delay_s
    stub = await stack.stub(await stack.router(run_ahead="on"))

    async def limited(num: int) -> None:
        answer = await take(stub, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=num))
        assert answer.error is None
        assert (answer.tokens, answer.authors) == algorithm_1(stack.slm.model, stack.llm.model, PROMPT, 0.5, 0.5, num)
        await check_kept(stub, answer)

    await asyncio.gather(*(limited(num) for num in range(1, 20)))


async def test_a_proposed_stop_token_is_not_gone_on_from(stack: Stack) -> None:
    script(stack, Scripted(1, unsure=at(6), stop_at=6), Scripted(2))
    await ask(stack, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=10))
    assert runs(stack.slm)[:2] == ["0+3", "6+1"]


async def test_a_stop_string_cuts_what_was_written_ahead(stack: Stack) -> None:
    script(stack, Scripted(1, unsure=at(6)), Scripted(2))
    off = await stack.stub(await stack.router(run_ahead="off"))
    on = await stack.stub(await stack.router(run_ahead="on"))
    whole = await take(off, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=40))
    stop = whole.text[len(whole.text) // 2 :][:2]
    request = ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=40, stop=[stop])
    cut = await take(off, request)
    request.session_id = "s"
    stack.llm.pace = lambda: until(lambda: len(stack.slm.sessions["s"]) >= 30)
    answer = await take(on, request)
    assert answer.finished.reason == cut.finished.reason == router_pb2.FINISH_REASON_STOP_STRING
    assert (answer.tokens, answer.text) == (cut.tokens, cut.text)
    usage = answer.finished.usage
    assert usage.num_run_ahead_tokens <= usage.num_slm_tokens == cut.finished.usage.num_slm_tokens
    await check_kept(on, answer)


async def test_the_next_turn_finds_the_sessions_tokens_on_the_worker(stack: Stack) -> None:
    """The LLM ends the answer while the SLM is ahead: what that wrote is dropped before anybody asks again.

    However long the SLM takes over the token that it is at.
    """
    stack.slm.delay_s = 0.05
    script(stack, Scripted(1, unsure=at(6)), Scripted(2, own=at(6), unsure=at(6, 7), stop_at=8))
    stack.llm.pace = lambda: until(lambda: runs(stack.slm)[-1] == "6+1~" or runs(stack.slm)[-1].endswith("."))
    stub = await stack.stub(await stack.router(run_ahead="on"))
    request = ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=20, session_id="s")
    first = await take(stub, request)
    assert first.authors == ["slm"] * 3 + ["llm"] * 3
    whole = [*PROMPT, *first.tokens]
    await until(lambda: stack.slm.sessions["s"] == whole[: len(stack.slm.sessions["s"])])


async def test_what_was_written_ahead_and_had_ended_is_dropped_with_the_answer_too(stack: Stack) -> None:
    """The SLM's run ahead has met its own hand-off when the LLM differs; the LLM ends the answer by itself."""
    script(stack, Scripted(1, unsure=at(6, 8)), Scripted(2, own=at(6), unsure=at(6, 7, 8), stop_at=9))
    stack.llm.pace = lambda: until(lambda: len(stack.slm.requests) > 1 and not stack.slm.busy)
    stack.llm.max_message_tokens = 1
    stub = await stack.stub(await stack.router(run_ahead="on", catch_up_tokens=0))
    answer = await take(stub, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=20, session_id="s"))
    assert answer.authors == ["slm"] * 3 + ["llm"] * 4
    whole = [*PROMPT, *answer.tokens]
    await until(lambda: stack.slm.sessions["s"] == whole[: len(stack.slm.sessions["s"])])


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        ({"run_ahead": "off"}, threshold(0.5)),
        ({"run_ahead": "auto", "run_ahead_max_running": 0}, threshold(0.5)),
        ({"run_ahead": "on"}, threshold(0.5, -1)),
        ({"run_ahead": "on"}, router_pb2.Policy(slm_only=router_pb2.SlmOnly())),
        ({"run_ahead": "on"}, router_pb2.Policy(llm_only=router_pb2.LlmOnly())),
    ],
)
async def test_where_it_is_off_or_futile_nothing_runs_ahead(stack: Stack, settings: Any, policy: Any) -> None:
    script(stack, Scripted(1, unsure=at(6, 9)), Scripted(2))
    stub = await stack.stub(await stack.router(**settings))
    answer = await take(stub, ask_for(PROMPT, policy=policy, max_new_tokens=30))
    assert answer.error is None
    assert not [run for run in runs(stack.slm) if run.endswith("~")]


async def test_spans_and_usage_say_what_was_written_ahead(stack: Stack) -> None:
    script(stack, Scripted(1, unsure=at(6, 12)), Scripted(2, own=at(12)))
    stack.llm.pace = lambda: until(lambda: not stack.slm.busy and runs(stack.slm)[-1].endswith("~"))
    telemetry, exporter = recording()
    stub = await stack.stub(await stack.router(run_ahead="on", telemetry=telemetry))
    answer = await take(stub, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=16))
    usage = answer.finished.usage
    spans = segments_of(exporter)
    assert usage.num_run_ahead_tokens + usage.num_run_ahead_discarded > 0
    # The SLM's own spans say it, too, each while the LLM had the pen; the worker's run is below that of its model.
    (root,) = await until(lambda: named(exporter, "rstitch.generate"))
    trials = named(exporter, "SLM runs ahead")
    for told in (spans, trials):
        ahead = [(span.attributes or {})[semconv.RSTITCH_SEGMENT_NUM_RUN_AHEAD_TOKENS] for span in told]
        assert sum(number for number in ahead if isinstance(number, int)) == usage.num_run_ahead_tokens
    by_llm = [span for span in spans if span.name.startswith("LLM writes")]
    assert len(trials) == len(by_llm) == 2
    for trial, segment in zip(trials, by_llm, strict=True):
        assert trial.parent is not None
        assert trial.parent.span_id == root.context.span_id
        assert (segment.start_time or 0) <= (trial.start_time or 0) < (trial.end_time or 0)
        assert (trial.attributes or {})[semconv.RSTITCH_RUN_AHEAD_POSITION] == (segment.attributes or {})[
            semconv.RSTITCH_SEGMENT_POSITION
        ]
    below = {int(run.traceparent[36:52], 16) for run in stack.slm.requests if run.priority}
    assert below == {trial.context.span_id for trial in trials}


async def test_another_router_goes_on_without_what_was_written_ahead(stack: Stack) -> None:
    stack.slm.model, stack.llm.model = half_agreeing()
    stack.slm.delay_s = stack.llm.delay_s = 0.005
    first = await stack.router(run_ahead="on")
    request = ask_for([7, 8, 12], policy=threshold(0.5), max_new_tokens=NUM_TOKENS)
    answer = await take(await stack.stub(first), request, num_tokens=4)
    await first.sessions.drain()
    stub = await stack.stub(await stack.router(run_ahead="on"))
    rest = await take(stub, router_pb2.GenerateRequest(session_id=answer.session_id, resume_from=answer.next))
    assert rest.error is None
    expected = algorithm_1(stack.slm.model, stack.llm.model, [7, 8, 12], 0.5, 0.5, NUM_TOKENS)
    assert (answer.tokens + rest.tokens, answer.authors + rest.authors) == expected
    await check_kept(stub, rest)


def begun(*tokens: int, end: RunEnd | None = None) -> RunAhead:
    """A run-ahead from position 2 with the proposal 7, which then wrote `tokens`."""
    run = PendingRun(1)
    finish = None if end is None else RunFinish(end, 9, 1, 0.9, 0, 0, 0, 0, 0)
    if tokens or finish:
        run.feed(Reply(list(tokens), [token / 100 for token in tokens], finish))
    return RunAhead(run, 2, 7)


@pytest.mark.parametrize(
    ("ahead", "llm", "taken", "saved"),
    [
        (begun(10, 11, 12), [7], [10, 11, 12], 4),  # one more is under way
        (begun(10, 11, 12), [7, 10], [11, 12], 3),
        (begun(10, 11, 12), [7, 10, 11, 12], [], 1),
        (begun(), [7], [], 1),
        (begun(10, 11, end=RunEnd.HANDOFF), [7], [10, 11], 3),
        (begun(end=RunEnd.HANDOFF), [7], [], 1),
        (begun(10, end=RunEnd.LENGTH), [7], [10], 1),
        (begun(10, 0, end=RunEnd.STOP), [7], [10, 0], 2),
    ],
)
async def test_what_agrees_is_read_again_from_where_the_llm_is(
    ahead: RunAhead, llm: list[int], taken: list[int], saved: int
) -> None:
    tokens = array("I", [5, 6, *llm])
    ahead.compare_with(tokens)
    assert ahead.is_ahead(len(tokens))
    assert ahead.num_saved(len(tokens)) == saved
    assert ahead.take_over(len(tokens)) == len(taken)
    if taken or ahead.run.finish:
        reply = await ahead.run.next()
        assert (reply.tokens, reply.entropies) == (taken, [token / 100 for token in taken])
        assert reply.finish is ahead.run.finish
    ahead.run.feed(Reply([99], [0.5], None))  # in flight until now
    assert (await ahead.run.next()).tokens == [99]


@pytest.mark.parametrize(
    ("ahead", "llm", "agreed"),
    [
        (begun(10, 11), [8], 2),
        (begun(10, 11), [7, 9], 3),
        (begun(10, 11), [7, 10, 12, 13], 4),
        (begun(), [8], 2),
        (begun(10, end=RunEnd.HANDOFF), [7, 10, 11], 4),  # right, but the LLM is further
        (begun(10, end=RunEnd.LENGTH), [7, 10], 4),  # right, and at its end
        (begun(0, end=RunEnd.STOP), [7, 0], 4),
    ],
)
def test_what_does_not_is_dropped_but_for_what_it_shares(ahead: RunAhead, llm: list[int], agreed: int) -> None:
    tokens = array("I", [5, 6, *llm])
    ahead.compare_with(tokens)
    assert not ahead.is_ahead(len(tokens))
    assert ahead.agreed_end == agreed


async def test_a_step_that_nothing_says_has_begun_saves_none(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without spare rows has not looked at the run when the LLM agrees: no success of running ahead."""
    script(stack, Scripted(1, unsure=at(6)), Scripted(2))
    saved: list[int] = []
    monkeypatch.setattr(RunAheadGate, "record_outcome", lambda _, num_saved: saved.append(num_saved))

    async def no_room_until_taken_over() -> None:
        if runs(stack.slm)[-1].endswith("~"):
            await until(lambda: saved)

    stack.slm.pace = no_room_until_taken_over
    await ask(stack, ask_for(PROMPT, policy=threshold(0.5), max_new_tokens=10))
    assert runs(stack.slm) == ["0+3", "6+1~"]
    assert saved == [0]


def gate(mode: Literal["auto", "on", "off"], num_running: int = 1) -> RunAheadGate:
    return RunAheadGate(mode, 8, 4, lambda: num_running)


def test_auto_asks_for_room_and_for_success() -> None:
    assert gate("off").num_tokens() == 0
    assert gate("on", 100).num_tokens() == gate("auto", 4).num_tokens() == 8
    assert gate("auto", 5).num_tokens() == 0
    futile = gate("auto")
    for _ in range(200):
        futile.record_outcome(0)
    assert 0 < sum(futile.num_tokens() > 0 for _ in range(64)) <= 8, "it looks again now and then"
    for _ in range(200):
        futile.record_outcome(2)
    assert all(futile.num_tokens() for _ in range(64))
