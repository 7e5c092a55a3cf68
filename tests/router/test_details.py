"""Details of tokens: those of whoever wrote them, on every path, the same however an answer is read; toys on a wire."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from router_svc.api import details as api_details
from router_svc.trajectory import details as details_module
from router_svc.trajectory.details import (
    UNKNOWN,
    Detail,
    cut_details,
    details_of,
    pack_details,
    unpack_details,
)
from router_svc.trajectory.types import Chunk, Source, entropies_of, joined, tokens_of
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, Reading, ask_for, check_kept, refused, take
from tests.support.heads import put, random_head
from tests.support.naive import EXITS, POLICIES, PROMPT, TOKENIZER, early_exit_of
from tests.support.toy import SPECIAL, STOP, ToyModel
from tests.support.toy_stack import Stack

NUM_TOKENS = 40
TOP = 3
DETAILS = router_pb2.Details(top_logprobs=TOP)
SPECULATIVE: dict[str, Any] = {"speculative": {"draft_tokens": 4}}
EVEN: dict[str, Any] = {"threshold": {"tau": 0.5, "tau_return": 0.5, "signal": 1}}
NAMES = ("entropy 0.3 0.3", "margin 0.5 0.1", "window 5 0.5", "random 0.3", "llm", "slm")
TRIED = {"even": EVEN, **{name: POLICIES[name] for name in NAMES}}


@pytest.fixture(autouse=True)
def models(stack: Stack) -> dict[str, ToyModel]:
    """Two toys that often agree, so that drafts are accepted and what is written ahead is kept."""
    slm, other = ToyModel(31, stop_every=0), ToyModel(32, stop_every=0)
    stack.slm.model = slm
    stack.llm.model = ToyModel(32, choose=lambda prefix: (other if sum(prefix) % 4 == 0 else slm).token(prefix))
    return {"slm": stack.slm.model, "llm": stack.llm.model}


def asked(policy: dict[str, Any], details: router_pb2.Details | None = DETAILS, **fields: Any) -> Any:
    return ask_for(PROMPT, **{"policy": policy, "max_new_tokens": NUM_TOKENS, "details": details, **fields})


def check_details(answer: Answer, models: dict[str, ToyModel], top: int = TOP, skipped: Sequence[int] = ()) -> None:
    """Each token's are what its model thought behind the tokens before it; those `skipped` were not chosen."""
    assert answer.error is None
    assert len(answer.details) == len(answer.tokens) > 0
    for index, (token, author, detail) in enumerate(zip(answer.tokens, answer.authors, answer.details, strict=True)):
        assert detail.text == (b"" if token < len(SPECIAL) else TOKENIZER.bytes_of(token))
        if index in skipped:
            assert detail == router_pb2.TokenDetail(text=detail.text)
            continue
        prefix = [*PROMPT, *answer.tokens[:index]]
        assert detail.HasField("logprob")
        assert detail.logprob == models[author].logprob(prefix)
        told = [(other.token, other.logprob) for other in detail.alternatives]
        assert told == models[author].alternatives(prefix, top)
        assert all(other.text == TOKENIZER.bytes_of(other.token) for other in detail.alternatives)


async def kept(stub: Any, answer: Answer, *, details: bool = True) -> list[Any]:
    request = router_pb2.GetTrajectoryRequest(session_id=answer.session_id, details=details)
    segments = (await stub.GetTrajectory(request)).trajectory.segments
    return [each for segment in segments for each in segment.details]


@pytest.mark.parametrize("run_ahead", ["off", "on"])
async def test_on_every_policy_they_are_the_writers(stack: Stack, models: dict[str, ToyModel], run_ahead: str) -> None:
    stub = await stack.stub(await stack.router(run_ahead=run_ahead))
    other = await stack.stub(await stack.router())
    stack.llm.delay_s = 0.003 if run_ahead == "on" else 0
    written_ahead: list[int] = []

    async def one(policy: dict[str, Any]) -> None:
        answer, plain = await asyncio.gather(take(stub, asked(policy)), take(stub, asked(policy, None)))
        assert (plain.tokens, plain.authors, plain.entropies) == (answer.tokens, answer.authors, answer.entropies)
        assert plain.details == []
        # What the LLM verifies is told as the LLM saw it, whoever drafted it.
        check_details(answer, dict.fromkeys(models, models["llm"]) if policy is SPECULATIVE else models)
        assert b"".join(each.text for each in answer.details).decode(errors="replace") == answer.text
        await check_kept(stub, answer)
        again = await take(other, ask_for(session_id=answer.session_id, resume_from=answer.position + 7))
        assert again.details == answer.details[7:]
        assert await kept(other, answer) == answer.details
        assert await kept(other, answer, details=False) == []
        written_ahead.append(answer.finished.usage.num_run_ahead_tokens)

    await asyncio.gather(*(one(policy) for policy in (*TRIED.values(), SPECULATIVE)))
    assert (sum(written_ahead) > 0) == (run_ahead == "on")


async def test_workers_are_asked_for_no_more_than_is_wanted(stack: Stack, models: dict[str, ToyModel]) -> None:
    stub = await stack.stub(await stack.router(run_ahead="off"))
    await take(stub, asked(TRIED["entropy 0.3 0.3"], None))
    assert {run.top_logprobs for worker in (stack.slm, stack.llm) for run in worker.requests} == {0}
    answer = await take(stub, asked(TRIED["llm"], router_pb2.Details()))
    check_details(answer, models, top=0)
    assert {run.top_logprobs for run in stack.llm.requests} == {0}
    await take(stub, asked(SPECULATIVE))
    assert {run.top_logprobs for run in stack.slm.requests} == {0}, "nobody is told of a draft"
    assert {run.top_logprobs for run in stack.llm.requests if run.max_tokens} == {0, TOP}


@pytest.mark.parametrize("place", ["on", "off"])
async def test_a_proposal_that_is_kept_after_all_has_them(
    stack: Stack, models: dict[str, ToyModel], tmp_path: Path, place: str
) -> None:
    """A head in the router says stay, or a budget of switches is spent: the worker had dropped the token."""
    put(tmp_path, "toy", random_head(1, seed=4, tau=0.2))
    stub = await stack.stub(await stack.router(heads=str(tmp_path), head_in_worker=place))
    check_details(await take(stub, asked({"learned": {"name": "toy", "tau": 0.2}})), models)
    check_details(await take(stub, asked(TRIED["entropy 0.3 0.3"], budget={"max_switches": 4})), models)


async def test_the_prompt_of_early_exit_was_chosen_by_nobody(stack: Stack, models: dict[str, ToyModel]) -> None:
    stub = await stack.stub(await stack.router())
    num_taken = 0

    async def one(policy: dict[str, Any], exit_: dict[str, Any]) -> None:
        nonlocal num_taken
        answer = await take(stub, asked(policy, early_exit=exit_))
        skipped: list[int] = []
        if answer.finished.HasField("early_exit"):
            num_taken += 1
            first = answer.finished.early_exit.position - answer.position
            skipped = [*range(first, first + len(early_exit_of(exit_).prompt))]
        check_details(
            answer, dict.fromkeys(models, models["llm"]) if policy is SPECULATIVE else models, skipped=skipped
        )
        assert await kept(stub, answer) == answer.details

    await asyncio.gather(
        *(
            one(policy, exit_)
            for policy in (EVEN, TRIED["margin 0.5 0.1"], TRIED["llm"], SPECULATIVE)
            for exit_ in EXITS
        )
    )
    assert num_taken > 1


async def test_a_stop_token_has_no_text_and_is_spelled_as_an_alternative(stack: Stack) -> None:
    stack.llm.model = ToyModel(32, stop_every=9)
    stub = await stack.stub(await stack.router())
    answer = await take(stub, asked(TRIED["llm"]))
    assert answer.tokens[-1] == STOP
    assert answer.details[-1].text == b""
    check_details(answer, {"llm": stack.llm.model})
    assert TOKENIZER.bytes_of(STOP) == SPECIAL[STOP].encode()


async def test_broken_runs_and_another_router_change_none(stack: Stack, models: dict[str, ToyModel]) -> None:
    first = await stack.router()
    stub = await stack.stub(first)
    stack.slm.delay_s = stack.llm.delay_s = 0.002
    policy = TRIED["entropy 0.3 0.3"]
    stack.slm.break_after, stack.llm.break_after = [2, 3], [1, 2]
    reading = await Reading(stub, asked(policy)).has(20)
    await first.sessions.drain()
    answer = await reading
    assert answer.error is not None
    assert answer.error.code is grpc.StatusCode.UNAVAILABLE
    other = await stack.stub(await stack.router())
    rest = await take(other, ask_for(session_id=answer.session_id, resume_from=answer.next))
    assert rest.tokens
    assert not stack.slm.break_after, "runs broke off"
    whole = await take(other, ask_for(session_id=answer.session_id, resume_from=0))
    assert whole.details == answer.details + rest.details
    check_details(whole, models)
    assert await kept(other, whole) == whole.details


async def test_only_the_first_tokens_of_a_long_answer_have_alternatives(
    stack: Stack, models: dict[str, ToyModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(details_module, "MAX_ALTERNATIVES", 20 * TOP + 1)
    stub = await stack.stub(await stack.router())
    answer = await take(stub, asked(TRIED["llm"]))
    assert len(answer.tokens) > 20
    assert [len(each.alternatives) for each in answer.details] == [TOP] * 20 + [0] * (len(answer.tokens) - 20)
    assert all(each.HasField("logprob") for each in answer.details)


async def test_an_answer_before_has_none_in_the_trajectory(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    first = await take(stub, asked(TRIED["llm"]))
    assert first.tokens[-1] == STOP or len(first.tokens) == NUM_TOKENS
    second = await take(stub, asked(TRIED["slm"], session_id=first.session_id))
    assert await kept(stub, second) == second.details
    third = await take(stub, asked(TRIED["slm"], None, session_id=first.session_id))
    assert await kept(stub, third) == third.details == []


async def test_what_cannot_be_is_refused_by_its_name(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    error = await refused(stub.Generate(asked(TRIED["llm"], router_pb2.Details(top_logprobs=21))))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "details.top_logprobs")
    assert error.remedy
    answer = await take(stub, asked(TRIED["llm"]))
    error = await refused(
        stub.Generate(ask_for(session_id=answer.session_id, resume_from=0, details=router_pb2.Details()))
    )
    assert error.field == "details"


async def test_a_stop_string_cuts_the_text_and_no_bytes(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    whole = await take(stub, asked(TRIED["llm"]))
    stop = next(letter for letter in whole.text[5:] if letter.isascii() and letter.isalpha())
    answer = await take(stub, asked(TRIED["llm"], stop=[stop]))
    assert answer.finished.reason == router_pb2.FINISH_REASON_STOP_STRING
    text = b"".join(each.text for each in answer.details).decode(errors="replace")
    assert text.startswith(answer.text + stop)


def test_they_are_kept_in_few_bytes() -> None:
    made = (Detail(-0.5, ((7, -0.5), (2**32 - 1, -3.25))), UNKNOWN, Detail(0.0), Detail(-1.5, ((1, -2.0),) * 20))
    data = pack_details(made)
    assert len(data) == 4 * 5 + 8 * 22
    assert unpack_details(data) == made
    assert unpack_details(b"") == ()
    for begin in range(6):
        assert unpack_details(cut_details(data, begin)) == made[begin:]
        for end in range(begin, 6):
            assert unpack_details(cut_details(data, begin, end)) == made[begin:end]


async def test_they_are_unpacked_only_for_who_is_shown_them(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = await stack.stub(await stack.router())
    first = await take(stub, asked(TRIED["llm"]))
    second = await take(stub, asked(TRIED["slm"], session_id=first.session_id))
    other = await stack.stub(await stack.router())
    unpacked: list[Detail] = []

    def counted(data: bytes) -> tuple[Detail, ...]:
        made = unpack_details(data)
        unpacked.extend(made)
        return made

    for module in (details_module, api_details):
        monkeypatch.setattr(module, "unpack_details", counted)
    assert await kept(other, second, details=False) == []
    assert unpacked == []
    assert await kept(other, second) == second.details
    assert len(unpacked) == len(second.tokens), "those of the turn before stayed packed"
    third = await take(other, asked(TRIED["llm"], None, session_id=first.session_id))
    assert third.tokens
    assert len(unpacked) == len(second.tokens)


def test_how_many_have_alternatives_depends_on_the_position_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details_module, "MAX_ALTERNATIVES", 10)
    others = (((1, -1.0), (2, -2.0)),) * 8
    whole = details_of([-1.0] * 8, others, 0, 2)
    assert [len(each.alternatives) for each in whole] == [2] * 5 + [0] * 3
    for cut in range(9):
        assert (
            details_of([-1.0] * cut, others[:cut], 0, 2) + details_of([-1.0] * (8 - cut), others[cut:], cut, 2) == whole
        )


def test_a_router_that_knows_none_leaves_no_gap() -> None:
    def chunk(position: int, *details: Detail) -> Chunk:
        return Chunk(Source.LLM, position, tokens_of([5, 6]), entropies_of([0, 0]), details=pack_details(details))

    (segment,) = joined([chunk(0, Detail(-1.0), Detail(-2.0)), chunk(2), chunk(4, Detail(-3.0), Detail(-4.0))])
    found = unpack_details(segment.details)
    assert found == (Detail(-1.0), Detail(-2.0), UNKNOWN, UNKNOWN, Detail(-3.0), Detail(-4.0))
    (plain,) = joined([chunk(0), chunk(2)])
    assert plain.details == b""
