"""Asks a running router for what the SLM thought along answers: what `observed_states` makes states of.

A router that is lost is waited for as long as rollouts wait. An answer that cannot be observed, since it is too long
for the SLM or not finished, is left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from evals.asking.load import closed_loop
from rstitch.client.events import Observation
from rstitch.client.types import ChatInput, Label, Source, Trajectory
from rstitch.errors import NotFound, Refused, RstitchError
from training.head.rollouts.served import ServedRollouts
from training.head.warm_start.observed_states import Seen, given, logged

_EVERYWHERE = -1.0
_OF_ONE_ANSWER = ("session_id", "given.chat", "given.text")  # what a refusal names that says nothing of other answers

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Observed:
    """What was observed of some answers.

    Attributes:
        refused: why some were not, one error for each.
        num_held_out: that were not to be observed.
    """

    seen: list[Seen]
    refused: list[RstitchError]
    num_held_out: int = 0


async def observe_given(
    served: ServedRollouts, answers: Sequence[tuple[ChatInput, str]], tau: float, *, whole: bool
) -> Observed:
    """Observes given answers, such as worked solutions: each a question and the text in reply to it.

    Args:
        tau: hidden states are kept only where the SLM's entropy is above.
        whole: entropies are, of all tokens: for features, which say how an answer went so far.

    Raises: RstitchError if the router refuses all of them, or is lost for longer than the patience.
    """

    async def one(answer: tuple[ChatInput, str]) -> Seen:
        chat, text = answer
        places = served.client.observe_answer(tau=_EVERYWHERE if whole else tau, chat=chat, text=text)
        return given([_slim(each, tau) async for each in places], whole=whole)

    return await _all(served, one, answers)


async def observe_logged(
    served: ServedRollouts,
    sessions: Sequence[tuple[str, bool | None]],
    tau: float,
    is_held_out: Callable[[str], bool] = lambda prompts: False,
) -> Observed:
    """Observes the last answers of sessions, by their ids, each with whether it was right (None: nobody knows).

    Args:
        tau: only where the SLM's entropy is above.
        is_held_out: whether a session is left alone, by the text of its prompts.

    Raises: RstitchError if the router refuses all of them, or is lost for longer than the patience.
    """

    async def one(session: tuple[str, bool | None]) -> Seen | None:
        session_id, right = session
        trajectory = await served.client.trajectory(session_id)
        if is_held_out(_prompts(trajectory)):
            return None
        places = [each async for each in served.client.observe_answer(tau=tau, session_id=session_id)]
        return logged(trajectory, places, right)

    return await _all(served, one, sessions)


async def labelled(served: ServedRollouts) -> list[tuple[str, bool | None]]:
    """Lists the sessions whose last answer has a label (`rstitch trajectory label`), with whether it was right."""

    async def ask() -> list[tuple[str, bool | None]]:
        listed = served.client.trajectories(labelled=True)
        return [(each.session_id, each.label is Label.RIGHT) async for each in listed]

    return await served.patiently(ask)


async def _all(
    served: ServedRollouts, one: Callable[[T], Coroutine[Any, Any, Seen | None]], answers: Sequence[T]
) -> Observed:
    refused: list[RstitchError] = []

    async def tried(answer: T) -> Seen | None:
        try:
            return await served.patiently(lambda: one(answer))
        except Refused as error:
            if error.field not in _OF_ONE_ANSWER and not isinstance(error, NotFound):
                raise
            refused.append(error)
            return None

    found = await closed_loop(tried, answers, served.num_sessions)
    if refused and len(refused) == len(answers):
        raise refused[0]
    seen = [each for each in found if each is not None]
    return Observed(seen, refused, len(answers) - len(refused) - len(seen))


def _slim(place: Observation, tau: float) -> Observation:
    """Leaves the hidden state out where no head is asked: of whole answers it would be gigabytes."""
    if place.consultation.entropy > tau:
        return place
    return replace(place, consultation=replace(place.consultation, hidden_state=b""))


def _prompts(trajectory: Trajectory) -> str:
    return "\n".join(segment.text for segment in trajectory.segments if segment.source is Source.PROMPT)
