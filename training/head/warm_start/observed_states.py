"""Unsure states of answers whose tokens are known: the warm start of any pair, from what was written or logged.

The label of a state is whether the SLM's proposal is not the token that stands there. How much that says depends on who
wrote the token:

- *A given answer* (a worked solution): the proposal differs from it. Another wording counts as an error, so the LLM's
  own right answers are the better source where there are some.
- *The LLM* wrote it: the counterfactual is known, for the SLM's proposal beside it is. This needs no label of the
  answer: of answers by the LLM alone, and above the tau of a `threshold`, no unsure state is missing.
- *The SLM* wrote it, in an answer that was right: its token did no harm, 0.
- *The SLM* wrote it, in an answer that was wrong: one of its k unsure tokens may have done the harm, and nobody knows
  which. Each gets 1 / k. To leave them out would be to learn from survivors alone, and to think the SLM too good.
- In an answer without a label nothing is known of what the SLM wrote; those states are left out.

Off-policy: what a log shows was chosen by the policy that wrote it. A label depends on the state alone, so it needs no
weight for who was chosen to write; which states are there does depend on that policy: its paths, and how often it
called the LLM. That is not corrected. 1 / k is too much where the LLM would have failed, too, and too little where
several tokens were wrong. DAPO and the choice on dev, which go by whole answers of the head itself, have the last word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from rstitch.client.events import Consultation, Model, Observation
from rstitch.client.types import Source, Trajectory
from rstitch.errors import invalid
from rstitch.service.head_features import numbers
from training.head.mlp import inputs_of
from training.head.warm_start.states import States, situations


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer with what the SLM thought of it.

    Attributes:
        places: what was observed, ascending; of a given answer everything if features are wanted of it, else, as of a
            trajectory, at least what is above the gate. Only above the gate need hidden states be there.
        start: position of the answer's first token; of a given answer without features of no use.
        entropies, by_llm: of all tokens of a trajectory's answer; None: it was given, nobody wrote it.
        right: None: not known.
    """

    places: Sequence[Observation]
    start: int
    entropies: Sequence[float] | None = None
    by_llm: Sequence[bool] | None = None
    right: bool | None = None


def given(places: Sequence[Observation], *, whole: bool = True) -> Seen:
    """Makes what is known of a given answer.

    Args:
        whole: all its places must be there (observed with a tau below 0), for features look back on them.
    """
    if not whole:
        return Seen(places, 0)
    if not places:
        raise invalid("answers", "one has no token.", "Leave out questions without a worked solution.")
    start = places[0].consultation.position
    if places[-1].consultation.position != start + len(places) - 1:
        raise invalid("tau", "places of a given answer are missing.", "Observe it with a tau below 0.")
    return Seen(places, start)


def logged(trajectory: Trajectory, places: Sequence[Observation], right: bool | None) -> Seen:
    """Makes what is known of a trajectory's last answer, which was observed.

    Raises: RstitchError (INVALID_ARGUMENT) if its positions are not those of the observation.
    """
    prompts = [index for index, segment in enumerate(trajectory.segments) if segment.source is Source.PROMPT]
    written = trajectory.segments[prompts[-1] + 1 if prompts else 0 :]
    start = written[0].position if written else trajectory.length
    entropies = [entropy for segment in written for entropy in segment.entropies]
    by_llm = [segment.source is Source.LLM for segment in written for _ in segment.tokens]
    for place in places:
        index = place.consultation.position - start
        if not 0 <= index < len(by_llm) or by_llm[index] != (place.writer is Model.LLM):
            told = f"{trajectory.session_id}: its positions are not those of the SLM's ids."
            raise invalid(
                "session_id", told, "Of models without an id in common only given answers can be learned from."
            )
    return Seen(places, start, entropies, by_llm, right)


def states_from(answers: Iterable[Seen], tau: float, features: Sequence[str] = ()) -> States:
    """Makes the states with entropy above `tau`, and labels them as this module says.

    Features are those that a served head would have been shown. Of a given answer, the LLM is thought to have written
    what differs, with an entropy of 0: it hands back where it is sure.

    Raises: RstitchError (INVALID_ARGUMENT) if there is no state.
    """
    consultations: list[Consultation] = []
    labels: list[float] = []
    of_answer: list[int] = []
    num_answers = 0
    for seen in answers:
        unsure = [place for place in seen.places if place.consultation.entropy > tau]
        shown = _features(seen, unsure, features) if features else [()] * len(unsure)
        for place, label, numbers_shown in zip(unsure, _labels(seen, unsure), shown, strict=True):
            if label is not None:
                consultations.append(replace(place.consultation, features=numbers_shown))
                labels.append(label)
                of_answer.append(num_answers)
        num_answers += 1
    if not labels:
        told = (
            f"in {num_answers} answers the SLM's entropy was nowhere above {tau:g}, or nothing is known of its tokens."
        )
        raise invalid("tau", told, "Use a smaller tau, or answers with a label.")
    return States(inputs_of(consultations), torch.tensor(labels), torch.tensor(of_answer), num_answers)


def _differs(place: Observation) -> bool:
    return place.consultation.proposal != place.token


def _features(seen: Seen, unsure: Sequence[Observation], features: Sequence[str]) -> list[tuple[float, ...]]:
    asked = [(place.consultation.position - seen.start, place.consultation.entropy) for place in unsure]
    return [tuple(numbers(features, situation)) for situation in situations(asked, *_as_written(seen))]


def _as_written(seen: Seen) -> tuple[Sequence[float], Sequence[bool]]:
    """Gives entropies and authors of all tokens."""
    if seen.entropies is not None and seen.by_llm is not None:
        return seen.entropies, seen.by_llm
    by_llm = [_differs(place) for place in seen.places]
    return [0.0 if _differs(place) else place.consultation.entropy for place in seen.places], by_llm


def _labels(seen: Seen, unsure: Sequence[Observation]) -> list[float | None]:
    """One for each unsure place; None: nothing is known."""
    by_llm = seen.by_llm
    if by_llm is None:
        return [float(_differs(place)) for place in unsure]
    stayed = sum(not by_llm[place.consultation.position - seen.start] for place in unsure)
    blame = {True: 0.0, False: 1 / max(1, stayed), None: None}[seen.right]
    return [float(_differs(place)) if by_llm[place.consultation.position - seen.start] else blame for place in unsure]
