"""Labels and features of answers whose tokens are known, by who wrote them and whether the answer was right."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from rstitch.client.events import Consultation, Model, Observation, SwitchReason
from rstitch.client.types import Segment, Source, Trajectory, TrajectoryState
from rstitch.errors import RstitchError
from training.head.warm_start.observed_states import given, logged, states_from

START = 10
PROPOSALS = (1, 2, 9, 4, 9, 6)  # the tokens are 1 to 6
ENTROPIES = (0.0, 0.5, 0.6, 0.01, 0.7, 0.3)


def places(by: Sequence[Source] = (), only_above: float = -1.0) -> list[Observation]:
    """What the SLM thought of six tokens, by these writers; of none if they were given."""
    writers = [Model(source) for source in by] or [Model.UNSPECIFIED] * 6
    states = [np.full(4, i, "<f2").tobytes() for i in range(6)]
    return [
        Observation(
            Consultation(START + i, states[i], entropy, PROPOSALS[i], context_length=START + i), i + 1, writers[i]
        )
        for i, entropy in enumerate(ENTROPIES)
        if entropy > only_above
    ]


def trajectory(by: Sequence[Source]) -> Trajectory:
    """Two prompts and answers; the last answer's tokens by these sources, with entropies 0.1, 0.2 and so on."""
    segments = [Segment(Source.PROMPT, 0, (7, 7), (), "", SwitchReason.UNSPECIFIED, 0.0),
                Segment(Source.LLM, 2, (8,), (0.9,), "", SwitchReason.UNSPECIFIED, 0.0),
                Segment(Source.PROMPT, 3, (7,) * 7, (), "", SwitchReason.UNSPECIFIED, 0.0)]  # fmt: skip
    segments += [
        Segment(source, START + i, (i + 1,), ((i + 1) / 10,), "", SwitchReason.UNSPECIFIED, 0.0)
        for i, source in enumerate(by)
    ]
    now = datetime.now(UTC)
    return Trajectory("s", TrajectoryState.FINISHED, START + len(by), 1, tuple(segments), None, None, now, now)


def test_a_given_answer_is_right_where_the_slm_differs() -> None:
    states = states_from([given(places()), given(places())], 0.1, ("recent", "spent"))
    assert states.wrong.tolist() == [0, 1, 1, 0] * 2
    assert states.answers.tolist() == [0] * 4 + [1] * 4
    assert states.num_answers == 2
    hidden, length, recent, spent = states.inputs[3].split([4, 1, 6, 1])
    assert hidden.tolist() == [5.0] * 4
    assert length.tolist() == [START + 5]
    # What differs the LLM is thought to have written, with an entropy of 0.
    assert recent[:4].tolist() == pytest.approx([0.0, 0.01, 0.0, 0.5])
    assert spent.tolist() == pytest.approx([np.log1p(2)])


S, L = Source.SLM, Source.LLM


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (True, {1: 0, 2: 1, 4: 1, 5: 0}),  # what the SLM kept did no harm
        (False, {1: 0.5, 2: 1, 4: 1, 5: 0.5}),  # one of two did, and nobody knows which
        (None, {2: 1, 4: 1}),  # nothing is known of the SLM's
    ],
)
def test_labels_of_a_logged_answer(right: bool | None, wrong: dict[int, float]) -> None:
    seen = logged(trajectory(by := [S, S, L, S, L, S]), places(by, 0.1), right)
    states = states_from([seen], 0.1)
    assert dict(zip((states.inputs[:, 4] - START).int().tolist(), states.wrong.tolist(), strict=True)) == wrong


def test_features_of_a_logged_answer_are_those_of_its_path() -> None:
    states = states_from(
        [logged(trajectory(by := [S, S, L, S, S, S]), places(by, 0.1), True)], 0.1, ("recent", "segment", "spent")
    )
    recent, segment, spent = states.inputs[-1, 5:].split([6, 1, 1])
    assert recent[:4].tolist() == pytest.approx([0.5, 0.4, 0.3, 0.2]), "by whoever wrote, newest first"
    assert segment.tolist() == pytest.approx([np.log1p(2)])
    assert spent.tolist() == pytest.approx([np.log1p(1)])


def test_what_tells_nothing_is_refused() -> None:
    with pytest.raises(RstitchError, match="tau below 0"):
        given([place for place in places() if place.consultation.position != START + 3])
    with pytest.raises(RstitchError, match="worked solution"):
        given([])
    with pytest.raises(RstitchError, match="without an id in common"):
        logged(trajectory([S] * 6), places([L] * 6), True)
    with pytest.raises(RstitchError, match="smaller tau"):
        states_from([given(places())], 0.9)
