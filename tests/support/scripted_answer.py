"""The script of an answer without models: its events, with details, and what is left of them from a position on."""

from __future__ import annotations

import random

from rstitch.v1 import common_pb2
from rstitch.v1 import router_pb2 as pb

NUM_PROMPT_TOKENS = 5
SLM, LLM = common_pb2.MODEL_SLM, common_pb2.MODEL_LLM


def script(num_tokens: int = 60, seed: int = 0) -> list[pb.GenerateResponse]:
    """Chunks and switches of an answer, a switch on top of a switch among them."""
    dice = random.Random(seed)
    events: list[pb.GenerateResponse] = []
    position, end, model = NUM_PROMPT_TOKENS, NUM_PROMPT_TOKENS + num_tokens, SLM

    def switch() -> None:
        nonlocal model
        to = LLM if model == SLM else SLM
        reason = pb.SWITCH_REASON_ENTROPY_ABOVE if to == LLM else pb.SWITCH_REASON_ENTROPY_BELOW
        events.append(
            pb.GenerateResponse(
                switch=pb.Switch(**{"from": model}, to=to, position=position, entropy=0.5, reason=reason)
            )
        )
        model = to

    while position < end:
        size = min(dice.randint(1, 4), end - position)
        tokens = range(position, position + size)
        chunk = pb.Chunk(
            model=model,
            position=position,
            tokens=[100 + p for p in tokens],
            entropies=[(p % 10) / 10 for p in tokens],
            text="".join(f"w{p} " for p in tokens),
        )
        events.append(pb.GenerateResponse(chunk=chunk))
        position += size
        for _ in range(dice.choice([0, 1, 2]) if position < end else 0):
            switch()
    usage = pb.Usage(num_prompt_tokens=NUM_PROMPT_TOKENS, num_slm_tokens=num_tokens - 20, num_llm_tokens=20)
    usage.num_switches = sum(e.HasField("switch") for e in events)
    usage.total_time_us, usage.time_to_first_token_us = 1_500_000, 20_000
    finished = pb.Finished(reason=pb.FINISH_REASON_STOP, usage=usage, length=end)
    return [*events, pb.GenerateResponse(finished=finished)]


def detailed(event: pb.GenerateResponse, top_logprobs: int | None) -> pb.GenerateResponse:
    """The event with details of its tokens, if they are asked for; of the first token nobody knows the probability."""
    if top_logprobs is None or not event.HasField("chunk"):
        return event
    made = pb.GenerateResponse()
    made.CopyFrom(event)
    for index, token in enumerate(made.chunk.tokens):
        others = [
            pb.Alternative(token=token + place, logprob=-1.0 - place, text=b"\xf0") for place in range(top_logprobs)
        ]
        position = made.chunk.position + index
        logprob = -0.5 if position > NUM_PROMPT_TOKENS else None
        made.chunk.details.add(logprob=logprob, text=f"w{position} ".encode(), alternatives=others)
    return made


def rest_from(event: pb.GenerateResponse, start: int) -> pb.GenerateResponse | None:
    """What is left of an event for a stream that begins at `start`. A switch right there is told again."""
    if event.HasField("switch"):
        return event if event.switch.position >= start else None
    if not event.HasField("chunk") or event.chunk.position >= start:
        return event
    skip = start - event.chunk.position
    if skip >= len(event.chunk.tokens):
        return None
    c = event.chunk
    rest = pb.Chunk(
        model=c.model,
        position=start,
        tokens=c.tokens[skip:],
        entropies=c.entropies[skip:],
        text="".join(f"w{p} " for p in range(start, start + len(c.tokens) - skip)),
        details=c.details[skip:],
    )
    return pb.GenerateResponse(chunk=rest)
