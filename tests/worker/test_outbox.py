"""What a worker sends when: first tokens and ends at once, the rest in pieces."""

from __future__ import annotations

from model_worker.engine.types import FinishReason, RunFinished, Timing, TokenKept
from model_worker.outbox import Outbox

FLUSH_S = 0.25
LATE = 1000.0


def kept(token: int) -> TokenKept:
    return TokenKept(1, token, token / 10, -token / 10)


def ended() -> RunFinished:
    return RunFinished(1, FinishReason.LENGTH, 9, Timing())


def told(outbox: Outbox, now: float) -> dict[int, list[int]]:
    due = outbox.take_due(now)
    for _, piece in due:
        assert len(piece.tokens) == len(piece.entropies) == len(piece.logprobs)
    return {ticket: piece.tokens for ticket, piece in due}


def test_a_first_token_goes_out_at_once_and_the_next_wait_for_one_another() -> None:
    outbox = Outbox(FLUSH_S)
    outbox.put(1, kept(1))
    assert told(outbox, LATE) == {1: [1]}
    outbox.put(1, kept(2))
    assert told(outbox, LATE + FLUSH_S / 2) == {}
    outbox.put(1, kept(3))
    assert told(outbox, LATE + FLUSH_S) == {1: [2, 3]}
    assert told(outbox, LATE + 9) == {}


def test_an_end_goes_out_at_once_with_the_tokens_before_it() -> None:
    outbox = Outbox(FLUSH_S)
    outbox.put(1, kept(1))
    outbox.take_due(LATE)
    outbox.put(1, kept(2))
    outbox.put(1, ended())
    ((ticket, piece),) = outbox.take_due(LATE)
    assert (ticket, piece.tokens, piece.end) == (1, [2], ended())


def test_what_is_urgent_does_not_drag_others_along() -> None:
    outbox = Outbox(FLUSH_S)
    outbox.put(1, kept(1))
    assert told(outbox, LATE) == {1: [1]}
    outbox.put(1, kept(2))
    outbox.put(2, kept(7))
    assert told(outbox, LATE) == {2: [7]}
    assert told(outbox, LATE + FLUSH_S) == {1: [2]}


def test_among_many_runs_messages_become_wider_and_not_more_frequent() -> None:
    waits = []
    for num_runs in (1, 32, 64, 1000):
        outbox = Outbox(FLUSH_S)
        for token in (1, 2):
            for ticket in range(num_runs):
                outbox.put(ticket, kept(token))
            told(outbox, LATE)
        for ticket in range(num_runs):
            outbox.put(ticket, kept(3))
        waits.append(next(steps for steps in range(1, 99) if told(outbox, LATE + steps * FLUSH_S / 2)) / 2)
    assert waits == [1, 1, 2, 4]


def test_a_flush_time_of_0_sends_every_token_at_once() -> None:
    outbox = Outbox(0.0)
    for token in range(3):
        outbox.put(1, kept(token))
        assert told(outbox, LATE) == {1: [token]}


def test_what_nobody_asks_for_any_more_is_not_sent() -> None:
    outbox = Outbox(FLUSH_S)
    for ticket in (1, 2):
        outbox.put(ticket, kept(ticket))
    outbox.drop(1)
    assert told(outbox, LATE) == {2: [2]}
