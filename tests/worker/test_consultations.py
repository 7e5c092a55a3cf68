"""Heads on their terms: what the worker reports of them is what a naive loop asks, token by token and in order."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from model_worker import service
from model_worker.handoffs import consultation, handoff_of, terms_of
from model_worker.heads import HeadTable
from rstitch.errors import RstitchError
from rstitch.service.consulting import Consultant, HeadTerms, Verdict
from rstitch.service.head import Head
from rstitch.v1 import worker_pb2 as pb
from tests.support.engines import failing_forward
from tests.support.heads import random_head
from tests.support.pairs import VOCAB_SIZE
from tests.support.worker_calls import error_of
from tests.worker.conftest import StartWorker

PROMPT = [7, 8, 9, 10, 11]
NO_STOP = [VOCAB_SIZE - 1]
LOST = RuntimeError("lost")
HEAD = random_head(32, seed=3, features=("entropy", "recent", "segment", "spent", "left"))
ABOVE, PRICE, LLM_ENTROPY = 0.2, 0.6, 0.25
STAY = random_head(32, bias=-1e6)


@dataclass
class Told:
    """What came of a run."""

    responses: list[pb.DecodeResponse] = field(default_factory=list)
    consultations: list[Any] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def add(self, response: pb.DecodeResponse) -> pb.DecodeResponse:
        """Each consultation comes with the token that it decided, or with the finish."""
        first = len(self.tokens)
        self.responses.append(response)
        self.consultations += response.consultations
        self.tokens += response.tokens
        for told in response.consultations:
            place = told.context_length - len(PROMPT)
            if told.to_llm:
                assert response.finish.proposal.token == told.proposal
                assert (place, response.consultations[-1]) == (len(self.tokens), told)
            else:
                assert first <= place < len(self.tokens)
                assert self.tokens[place] == told.proposal
        return response


async def run(stub: Any, request: pb.DecodeRequest, told: Told | None = None) -> pb.Finish:
    async def requests() -> AsyncIterator[pb.DecodeRequest]:
        yield request

    told = told or Told()
    async for response in stub.Decode(requests()):
        told.add(response)
    return told.responses[-1].finish


def wire(terms: HeadTerms) -> pb.HeadTerms:
    assert terms == terms_of(pb.HeadTerms(**asdict(terms)))
    return pb.HeadTerms(**asdict(terms))


class Naive:
    """An answer by a bare model and a head, the LLM's tokens being made up; without a cache and without a worker."""

    def __init__(self, folder: Path, head: Head, above: float) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        self.head, self.above = head, above
        self.tokens = list(PROMPT)
        self.verdicts: list[tuple[int, Verdict]] = []
        self.terms: list[HeadTerms] = []  # by run

    def write(self, terms: HeadTerms, num_tokens: int) -> None:
        entropies = list(terms.recent_entropies)
        consultant, first = Consultant(self.head, terms), len(self.tokens)
        self.terms.append(terms)
        for position in range(len(PROMPT), len(PROMPT) + num_tokens):
            token, entropy, hidden = self.next()
            if entropy > self.above:
                verdict = consultant.ask(hidden, position, entropy)
                self.verdicts.append((token, verdict))
                if verdict.to_llm:
                    self.tokens.append(by_llm(position))
                    entropies.append(LLM_ENTROPY)
                    terms = replace(
                        terms,
                        position=terms.position + len(self.tokens) - first,
                        recent_entropies=tuple(entropies[-16:]),
                        segment_length=0,
                        num_llm_tokens=terms.num_llm_tokens + 1,
                        llm_tokens_left=(terms.llm_tokens_left or 0) - 1,
                    )
                    consultant, first = Consultant(self.head, terms), len(self.tokens)
                    self.terms.append(terms)
                    continue
            consultant.keep(entropy)
            entropies.append(entropy)
            self.tokens.append(token)

    def next(self) -> tuple[int, float, bytes]:
        with torch.inference_mode():
            output = self.model(torch.tensor([self.tokens]), output_hidden_states=True)
        p = output.logits[0, -1, :VOCAB_SIZE].softmax(-1)
        entropy = float(np.float32(float(torch.special.entr(p).sum()) / np.log(VOCAB_SIZE)))
        return int(p.argmax()), entropy, output.hidden_states[-1][0, -1].float().numpy().astype("<f4").tobytes()


def by_llm(position: int) -> int:
    return 20 + position


@pytest.mark.parametrize(("explore_seed", "flush_ms"), [(None, 5), (11, 5), (11, 0)])
async def test_a_worker_reports_what_a_naive_loop_asks(
    start_worker: StartWorker, model_folder: Path, explore_seed: int | None, flush_ms: int
) -> None:
    """Over many runs of one answer: coins, features and positions count the trajectory, whose prompt is longer."""
    naive = Naive(model_folder, HEAD, ABOVE)
    naive.write(HeadTerms(100, explore_seed, PRICE, True, (0.5, 0.25), 2, 0, 30), 24)
    assert {verdict.to_llm for _, verdict in naive.verdicts} == {True, False}
    assert any(token == naive.tokens[verdict.context_length] for token, verdict in naive.verdicts)
    _, stub = await start_worker(flush_ms=flush_ms, measure_ms=0)
    await stub.PutHead(pb.PutHeadRequest(name="x", data=HEAD.data))
    told, num_asked, held = Told(), 0, list(PROMPT)
    for terms in naive.terms:
        handoff = pb.Handoff(above=ABOVE, head="x", terms=wire(terms))
        left, before = len(naive.tokens) - len(held), len(told.tokens)
        request = pb.DecodeRequest(session_id="s", tokens=held, max_tokens=left, stop_tokens=NO_STOP, handoff=handoff)
        finish = await run(stub, request, told)
        num_asked += finish.num_consultations
        held += told.tokens[before:]
        if finish.reason == pb.Finish.REASON_HANDOFF:
            held.append(by_llm(len(held)))
            told.tokens.append(held[-1])
    assert held == naive.tokens
    assert len(told.consultations) == len(naive.verdicts) == num_asked
    for made, (token, verdict) in zip(told.consultations, naive.verdicts, strict=True):
        assert (made.position, made.context_length) == (verdict.position, verdict.context_length)
        assert made.position == 100 + made.context_length - len(PROMPT)
        assert (made.proposal, made.to_llm) == (token, verdict.to_llm)
        assert made.entropy == pytest.approx(verdict.entropy, abs=1e-6)
        np.testing.assert_allclose(made.features, verdict.features, atol=1e-5)
        assert made.probability == pytest.approx(verdict.probability, abs=1e-4)
        ours = np.frombuffer(made.hidden_state, "<f2").astype("<f4")
        np.testing.assert_allclose(ours, np.frombuffer(verdict.hidden_state, "<f4"), rtol=1e-3, atol=1e-6)


async def started(stub: Any, told: Told, session_id: str = "s") -> Any:
    """A long run of which something has come."""
    await stub.PutHead(pb.PutHeadRequest(name="x", data=STAY.data))
    handoff = pb.Handoff(above=-1, head="x", terms=pb.HeadTerms(report=True))
    call = stub.Decode()
    await call.write(
        pb.DecodeRequest(session_id=session_id, tokens=PROMPT, max_tokens=400, stop_tokens=NO_STOP, handoff=handoff)
    )
    while len(told.tokens) < 5:
        told.add(await call.read())
    return call


def check_whole(told: Told) -> None:
    assert [made.proposal for made in told.consultations] == told.tokens
    assert [made.position for made in told.consultations] == list(range(len(told.tokens)))


async def test_a_superseded_run_loses_nothing(start_worker: StartWorker) -> None:
    """Nor does it lend anything to the run after it."""
    _, stub = await start_worker(flush_ms=50, measure_ms=0)
    told = Told()
    call = await started(stub, told)
    held = len(PROMPT)
    await call.write(pb.DecodeRequest(session_id="s", position=held, max_tokens=3, stop_tokens=NO_STOP))
    while not (response := told.add(await call.read())).HasField("finish"):
        pass
    assert response.finish.reason == pb.Finish.REASON_SUPERSEDED
    assert len(told.tokens) == response.finish.num_consultations
    check_whole(told)
    while not (response := await call.read()).HasField("finish"):
        assert not response.consultations
    assert not response.consultations
    call.cancel()


async def test_a_run_that_fails_loses_nothing_that_was_kept(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, stub = await start_worker(flush_ms=20, measure_ms=0)
    monkeypatch.setattr(service, "_log", Mock())
    told = Told()
    call = await started(stub, told)
    broken = ExitStack()
    await worker.driver.ask(lambda engine: broken.enter_context(failing_forward(model_of(engine), LOST)))
    with broken:
        assert (await error_of(read_to_end(call, told))).reason == "FORWARD_FAILED"
    assert len(told.tokens) > 5
    check_whole(told)
    held = (await stub.CloseSession(pb.CloseSessionRequest(session_id="s"))).held
    assert held == len(PROMPT) + len(told.tokens)


def model_of(engine: Any) -> Any:
    return engine._runner._loaded.module


async def read_to_end(call: Any, told: Told) -> None:
    while True:
        told.add(await call.read())


async def test_without_report_nothing_is_told(start_worker: StartWorker) -> None:
    _, stub = await start_worker(measure_ms=0)
    await stub.PutHead(pb.PutHeadRequest(name="x", data=STAY.data))
    for terms in (None, pb.HeadTerms(position=4)):
        told = Told()
        handoff = pb.Handoff(above=-1, head="x", terms=terms)
        request = pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=9, stop_tokens=NO_STOP, handoff=handoff)
        assert (await run(stub, request, told)).num_consultations == 9
        assert not told.consultations


async def test_no_more_is_told_than_is_wanted(start_worker: StartWorker) -> None:
    _, stub = await start_worker(flush_ms=0, measure_ms=0)
    await stub.PutHead(pb.PutHeadRequest(name="x", data=STAY.data))
    for bound, num in ((3, 3), (9, 9), (10, 9), (0, 9)):
        told = Told()
        handoff = pb.Handoff(above=-1, head="x", terms=pb.HeadTerms(report=True, max_reported=bound))
        request = pb.DecodeRequest(session_id="s", tokens=PROMPT, max_tokens=9, stop_tokens=NO_STOP, handoff=handoff)
        assert (await run(stub, request, told)).num_consultations == 9
        assert [made.position for made in told.consultations] == list(range(num))


@pytest.mark.parametrize(
    ("terms", "head", "name"),
    [
        ({"price": -1.0}, "x", "price"),
        ({"price": float("nan")}, "x", "price"),
        ({"price": float("inf")}, "x", "price"),
        ({"recent_entropies": [0.1] * 17}, "x", "recent_entropies"),
        ({"recent_entropies": [0.1, 1.5]}, "x", "recent_entropies"),
        ({"recent_entropies": [float("nan")]}, "x", "recent_entropies"),
        ({"report": True}, "", ""),
    ],
)
def test_bad_terms_are_refused_by_name(terms: dict[str, Any], head: str, name: str) -> None:
    heads = HeadTable(32, "")
    heads.put("x", STAY.data)
    with pytest.raises(RstitchError) as refused:
        handoff_of(pb.Handoff(above=0.5, head=head, terms=pb.HeadTerms(**terms)), heads)
    error = refused.value
    assert (error.code.name, error.field) == ("INVALID_ARGUMENT", ".".join(filter(None, ("handoff.terms", name))))
    assert error.remedy


def test_what_half_precision_does_not_have_is_its_largest_number() -> None:
    numbers = array("f", [1e9, -1e9, 65519.0, 0.5])
    made = consultation(3, Verdict(1, 1, numbers.tobytes(), 0.5, (), 0.5, False))
    assert np.frombuffer(made.hidden_state, "<f2").tolist() == [65504, -65504, 65504, 0.5]
