"""What a head is trained on: torch's head and the served one, features as serving has them, states, their sources."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from rstitch.client.events import Consultation
from rstitch.local.part import bundled_model
from rstitch.service.consulting import Consultant, HeadTerms
from rstitch.service.head import Head, HeadFacts
from rstitch.service.head_features import NAMES, num_numbers, numbers
from training.head.mlp import Policy, inputs_of
from training.head.warm_start.chain_states import Chains, chain_states
from training.head.warm_start.fitting import fit, lean
from training.head.warm_start.states import States, situations
from training.tiny import data

FEATURE_SETS = [(), ("entropy",), ("recent", "spent"), NAMES]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the chains that are sorted by length, seconds go into those that a test does not look at."""
    monkeypatch.setattr(data, "_POOL", 128)


@pytest.mark.parametrize("num_readout", [0, 6])
@pytest.mark.parametrize("features", FEATURE_SETS)
def test_torchs_head_and_the_served_one_agree(num_readout: int, features: tuple[str, ...]) -> None:
    """Whatever sizes, features and weights are drawn."""
    for seed in range(5):
        torch.manual_seed(seed)
        rng = random.Random(seed)
        size, width = rng.randint(4, 12), num_numbers(features)
        policy = Policy(size, num_readout, [rng.randint(1, 9) for _ in range(rng.randint(0, 3))], 0.9, features)
        policy.readout.normal_()
        policy.normalise(torch.randn(50, policy.num_given))
        assert policy(torch.randn(7, policy.num_given)).exp()[:, 1].tolist() == pytest.approx([0.9] * 7), "at first"
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.normal_()
        head = Head.from_bytes(policy.to_head(HeadFacts(size, "", 0.1)).data)
        assert head.facts.features == features
        asked = [
            Consultation(0, torch.randn(size).half().numpy().tobytes(), 0.5, 0, tuple(torch.randn(width).tolist()),
                         context_length=length)
            for length in range(1, 20)
        ]  # fmt: skip
        for each, row in zip(asked, policy(inputs_of(asked)).detach(), strict=True):
            hidden = np.frombuffer(each.hidden_state, "<f2").astype("<f4").tobytes()
            slm, llm = head.logits(hidden, each.context_length, each.features)
            assert llm - slm == pytest.approx(float(row[1] - row[0]), rel=1e-3, abs=1e-3)


def test_situations_are_those_of_a_head_that_is_served() -> None:
    """An answer is walked through as the service does it, run by run; the same places are then computed at once."""
    rng = random.Random(0)
    shown: list[tuple[float, ...]] = []
    torch.manual_seed(0)
    head = Policy(4, 0, (), 0.5, NAMES).to_head(HeadFacts(4, "", 0.1))
    entropies: list[float] = []
    by_llm: list[bool] = []
    asked: list[tuple[int, float]] = []
    for _ in range(12):  # runs of the SLM, each ended by a call of the LLM
        began = len(entropies)
        terms = HeadTerms(began, recent_entropies=tuple(entropies), num_llm_tokens=sum(by_llm))
        consultant = Consultant(head, terms)
        for place in range(began, began + rng.randint(0, 20)):
            if rng.random() < 0.3:
                asked.append((place, entropy := rng.random()))
                shown.append(consultant.ask(bytes(16), 9, entropy).features)
            entropies.append(rng.random())
            by_llm.append(False)
            consultant.keep(entropies[-1])
        asked.append((len(entropies), entropy := rng.random()))
        shown.append(consultant.ask(bytes(16), 9, entropy).features)
        for _ in range(rng.randint(1, 3)):
            entropies.append(rng.random())
            by_llm.append(True)
    computed = [tuple(numbers(NAMES, situation)) for situation in situations(asked, entropies, by_llm)]
    assert len(computed) > 40
    for ours, theirs in zip(computed, shown, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


def states(n: int, num_answers: int, seed: int = 0, width: int = 5) -> States:
    """Draws states whose first input says whether the token is wrong."""
    torch.manual_seed(seed)
    inputs = torch.randn(n, width)
    answers = torch.randint(num_answers, (n,)).sort().values
    return States(inputs, (inputs[:, 0] > 0.5).float(), answers, num_answers)


def test_states_are_split_by_answers_and_put_together_again() -> None:
    whole = states(60, 10)
    first, rest = whole.split(4)
    assert (first.num_answers, rest.num_answers) == (4, 6)
    assert set(first.answers.tolist()) <= set(range(4))
    joined = States.joined([first, rest])
    assert torch.equal(joined.inputs, whole.inputs)
    assert torch.equal(joined.answers, whole.answers)
    assert joined.num_answers == 10
    with pytest.raises(ValueError, match="one width"):
        States.joined([whole, states(3, 2, width=4)])


def test_states_can_be_shown_with_fewer_features() -> None:
    had = ("entropy", "recent", "spent")
    whole = states(6, 2, width=5 + num_numbers(had))
    assert torch.equal(whole.shown(had, had).inputs, whole.inputs)
    assert torch.equal(whole.shown(had, ()).inputs, whole.inputs[:, :5])
    assert torch.equal(whole.shown(had, ("spent", "entropy")).inputs[:, 5:], whole.inputs[:, [13, 5, 6]])


@pytest.mark.parametrize(("domain", "slm"), [("words", "tiny-slm"), ("programs", "tiny-programs-slm")])
def test_states_of_chains_are_a_function_of_their_arguments_and_kept(domain: str, slm: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    chains = Chains(bundled_model(slm), domain, 0.02, 30, seed=5, features=("entropy", "spent"))
    made = chain_states(chains, tmp_path)
    assert made.inputs.shape == (len(made), 96 + 1 + 3)
    assert 0 < made.wrong.mean() < 0.9
    assert made.inputs[:, 97].min() > 0.02, "the gate"
    assert made.answers.max() < made.num_answers
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = chain_states(chains, tmp_path)
    assert torch.equal(again.inputs, made.inputs)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_where_the_lines_are_the_llms_the_slm_would_begin_others() -> None:
    torch.set_num_threads(1)
    of = {
        lines: chain_states(Chains(bundled_model("tiny-programs-slm"), "programs", 1e-4, 60, seed=5, lines=lines))
        for lines in ("slm", "llm")
    }
    wrong = {lines: float(states.wrong.sum()) / states.num_answers for lines, states in of.items()}
    # The SLM errs twice in a program; of the lines, seven in a program, the LLM begins half.
    assert wrong["slm"] < 3
    assert wrong["llm"] > wrong["slm"] + 2


def test_the_warm_start_learns_and_leans() -> None:
    seen, fresh = states(2_000, 300), states(500, 100, seed=1)
    policy = Policy(4, 0, (8,), 0.5)
    policy.normalise(seen.inputs)
    losses: list[float] = []
    fit(policy, seen, 100, 1e-2, 1, losses.append)
    assert losses[-1] < losses[0] / 2

    def calls() -> torch.Tensor:
        return policy(fresh.inputs)[:, 1] > policy(fresh.inputs)[:, 0]

    before = calls()
    assert (before.float() == fresh.wrong).float().mean() > 0.95
    lean(policy, 0.01)
    assert calls().sum() > before.sum()
