"""The model calls of a trajectory, as Algorithm 1 of R-Stitch makes them, and the sum of what they take.

Each call puts in what its model has not seen: after a switch the missing suffix (a prefill, which yields the next token
too), else the token just written (a decode step). A proposal that was discarded took a call as well. It knows no wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from evals.asking.record import Part
from evals.latency.formulas import ModelLatency, Role, Serving
from rstitch.client.types import Source, Trajectory

# The SLM's proposal was thrown away when the LLM took over for one of these.
_DISCARDS = {"entropy_above", "uncertainty_above", "head"}
# Speculative decoding: a verification is one call for many tokens, and what it threw away is not in the trajectory.
_NOT_MODELLED = {"verification", "draft"}


@dataclass(frozen=True, slots=True)
class Run:
    """One model writes: `num_tokens` that are kept; a `discarded` one more is proposed in vain."""

    model: Role
    num_tokens: int
    discarded: bool = False

    @property
    def num_calls(self) -> int:
        return self.num_tokens + self.discarded


@dataclass(frozen=True, slots=True)
class Service:
    """What our service does differently from Algorithm 1, where each call follows the one before.

    Attributes:
        catch_up_tokens: while one model writes, the other is fed as soon as it lags by so many tokens (0: never). It
            runs beside, on a device or cores of its own; only what is not over at a switch is waited for.
        overheads: whether to add what serving takes (`Serving`).
    """

    catch_up_tokens: int = 32
    overheads: bool = True


def runs_of(trajectory: Trajectory) -> tuple[int, list[Run]]:
    """The prompt's length and the runs of a session's one answer.

    Raises: ValueError for what is not modelled: a conversation of many turns (what the models held between two of them
        is not known), and speculative decoding.
    """
    prompts = [segment for segment in trajectory.segments if segment.source is Source.PROMPT]
    written = [segment for segment in trajectory.segments if segment.source in (Source.SLM, Source.LLM)]
    if any(prompt.position > written[0].position for prompt in prompts if written):
        raise ValueError(f"session {trajectory.session_id} has more than one answer")
    if any(segment.reason.value in _NOT_MODELLED for segment in written):
        raise ValueError(f"session {trajectory.session_id} was written by drafts, whose calls are not modelled")
    parts = [Part(segment.source.value, len(segment.tokens), "", segment.reason.value) for segment in written]
    return sum(len(prompt.tokens) for prompt in prompts), runs_of_parts(parts)


def runs_of_parts(parts: Sequence[Part]) -> list[Run]:
    """The runs of an answer whose segments are these, none of them written by drafts."""
    runs = []
    for part, after in zip_longest(parts, parts[1:]):
        by_slm = part.model == "slm"
        discarded = by_slm and after is not None and after.reason in _DISCARDS
        runs.append(Run("slm" if by_slm else "llm", part.num_tokens, discarded))
    return runs


def sum_of_calls_ms(latencies: Mapping[str, ModelLatency], num_prompt_tokens: int, runs: Iterable[Run]) -> float:
    """One call after the other, as Algorithm 1 has it."""
    length, total = num_prompt_tokens, 0.0
    held = dict.fromkeys(latencies, 0)  # tokens in a model's cache
    for run in runs:
        if run.num_calls:
            latency = latencies[run.model]
            total += latency.call(max(1, length - held[run.model]), held[run.model])
            total += latency.steps(run.num_calls - 1, length)
            length += run.num_tokens
            held[run.model] = _held_after(run, length)
    return total


def service_ms(
    latencies: Mapping[str, ModelLatency],
    num_prompt_tokens: int,
    runs: Sequence[Run],
    service: Service,
    serving: Serving,
) -> float:
    """The time at which an answer ends that one model writes while the other is caught up beside it."""
    length, now = num_prompt_tokens, service.overheads * serving.answer_ms
    held = dict.fromkeys(latencies, 0)
    free_at = dict.fromkeys(latencies, 0.0)  # when its catch-up is over
    beside = service.catch_up_tokens if are_two(runs) else 0
    step_ms = service.overheads * (serving.token_ms + serving.beside_ms * bool(beside))
    for run in runs:
        latency, (other,) = latencies[run.model], latencies.keys() - {run.model}
        now = max(now, free_at[run.model]) + service.overheads * serving.call_ms * bool(run.num_calls)
        for index in range(run.num_calls):
            lag = length - held[other]
            if beside and lag >= beside and now >= free_at[other]:
                free_at[other] = now + latencies[other].call(lag, held[other])
                held[other] = length
            # After the first call only the token just written is new.
            num_inputs = 1 if index else max(1, length - held[run.model])
            now += latency.call(num_inputs, length - num_inputs) + step_ms
            length += index < run.num_tokens
        if run.num_calls:
            held[run.model] = _held_after(run, length)
    return now


def are_two(runs: Iterable[Run]) -> bool:
    """Tells whether both models take part."""
    return len({run.model for run in runs if run.num_calls}) > 1


def _held_after(run: Run, length: int) -> int:
    """A token that was kept has not been put in; to propose one more it was."""
    return length if run.discarded else length - 1
