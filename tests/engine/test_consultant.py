"""Whoever has the last word on handing over is asked once a token, whatever the engine has to compute again."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from model_worker.engine.types import FinishReason, Handoff, RunFinished, RunRequest, Signal, TokenKept
from tests.support.engines import make_engine, make_engine_of
from tests.support.pairs import CONFIGS, VOCAB_SIZE, make_model

PROMPT = [7, 8, 9, 10, 11]
BROKEN = 299
NO_STOP = frozenset([VOCAB_SIZE])


@dataclass(frozen=True)
class Said:
    to_llm: bool
    context_length: int


@dataclass
class Recorder:
    """Says "to the LLM" at one context length."""

    leave_at: int = 0
    asked: list[tuple[int, float]] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)

    def ask(self, hidden_state: bytes, context_length: int, entropy: float) -> Said:
        assert len(hidden_state) == 4 * 32
        self.asked.append((context_length, entropy))
        return Said(context_length == self.leave_at, context_length)

    def keep(self, entropy: float) -> None:
        self.kept.append(entropy)


@pytest.mark.parametrize("signal", [Signal.ENTROPY, Signal.CONFIDENCE])
def test_it_is_asked_above_the_bound_and_told_of_every_token(signal: Signal) -> None:
    engine, _ = make_engine()
    recorder = Recorder(leave_at=len(PROMPT) + 9)
    handoff = Handoff(above=0.3 if signal is Signal.ENTROPY else -1.0, signal=signal, consultant=recorder)
    engine.submit(RunRequest("s", 0, PROMPT, max_tokens=30, stop_tokens=NO_STOP, handoff=handoff))
    events = []
    while not engine.is_idle:
        events += engine.step()
    *kept, end = events
    assert isinstance(end, RunFinished)
    assert [event.entropy for event in kept] == recorder.kept
    above = [
        (len(PROMPT) + place, event.entropy)
        for place, event in enumerate(kept)
        if signal is not Signal.ENTROPY or event.entropy > 0.3
    ]
    assert [(event.verdict.context_length, event.entropy) for event in kept if event.verdict] == above
    if end.reason is FinishReason.HANDOFF:
        assert end.verdict == Said(True, recorder.leave_at)
        above.append((recorder.leave_at, end.proposal.entropy))
    assert recorder.asked == above
    assert above
    assert end.num_consultations == len(above)


def test_a_row_that_is_computed_again_asks_once() -> None:
    """Beside a row that is not finite, each is computed once more by itself."""
    own = make_model(CONFIGS["llama"], 0)
    with torch.no_grad():
        own.get_input_embeddings().weight[BROKEN, 3] = float("nan")
    engine = make_engine_of(own, attention="in-place", max_batch_tokens=64)
    recorder = Recorder()
    handoff = Handoff(above=-1.0, consultant=recorder)
    run = engine.submit(RunRequest("s", 0, PROMPT, max_tokens=12, stop_tokens=NO_STOP, handoff=handoff))
    kept, num_steps = 0, 0
    while not engine.is_idle:
        engine.submit(RunRequest(f"bad{num_steps}", 0, [5, 6, BROKEN, 7], max_tokens=2))
        for event in engine.step():
            kept += isinstance(event, TokenKept) and event.run_id == run
        num_steps += 1
        if kept == 12:
            break
    assert num_steps > 13, "nothing was computed again"
    assert [length for length, _ in recorder.asked] == list(range(len(PROMPT), len(PROMPT) + 12))
    assert len(recorder.kept) == 12
