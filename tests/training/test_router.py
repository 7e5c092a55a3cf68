"""Training of heads: DAPO against naive numbers, rollouts against the reference, runs as functions of their seed."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from evals.algorithm.reference import Threshold, stitch
from evals.algorithm.uncached_model import UncachedModel
from evals.latency import Decode, LatencyModel, ModelLatency, Prefill
from evals.tasks.tiny.arithmetic import problems
from rstitch.local.part import bundled_model
from rstitch.service.head import Head
from tests.support.heads import random_head
from training.head import dapo
from training.head.__main__ import main
from training.head.evaluate import greedy
from training.head.mlp import Policy
from training.head.pair import TrainingPair, open_pair
from training.head.recall import recall
from training.head.recipe import FAST
from training.head.rollout import Rollouts
from training.head.train import CHECKPOINT, LOG, Trainer

LATENCY = LatencyModel(
    ModelLatency(Prefill(0, 0, 0.03, 1.0), Decode(0, 1.0)), ModelLatency(Prefill(0, 0, 0.1, 2.0), Decode(0, 3.0))
)


@pytest.fixture(scope="module")
def pair() -> TrainingPair:
    torch.set_num_threads(1)
    return open_pair(bundled_model("tiny-slm"), bundled_model("tiny-llm"))


def test_the_loss_is_dapos() -> None:
    rng = random.Random(0)
    new, old, advantages = ([rng.uniform(-2, 0) for _ in range(60)] for _ in range(3))
    advantages = [value + 1 for value in advantages]
    expected = 0.0
    for a, b, advantage in zip(new, old, advantages, strict=True):
        ratio = math.exp(a - b)
        expected -= min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage) / len(new)
    got = dapo.loss(torch.tensor(new), torch.tensor(old), torch.tensor(advantages), 0.2, 0.28)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_a_clipped_action_teaches_nothing() -> None:
    for new, advantage in ((0.3, 1.0), (-0.3, -1.0)):  # beyond 1.28 upwards, below 0.8 downwards
        log_p = torch.tensor([new], requires_grad=True)
        dapo.loss(log_p, torch.zeros(1), torch.tensor([advantage]), 0.2, 0.28).backward()
        assert log_p.grad is not None
        assert float(log_p.grad) == 0


def test_a_wrong_answer_gains_nothing_by_being_fast() -> None:
    got = dapo.rewards(torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([100.0, 50.0, 100.0, 1.0]), 2e-3)
    assert got.tolist() == pytest.approx([0.8, 0.9, 0.0, 0.0])
    assert dapo.overlong(torch.tensor([50.0, 95.0, 100.0]), 100, 10).tolist() == pytest.approx([0, -0.5, -1])


def test_advantages_are_normalised_in_their_group() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.9, 0.8, 0.9, 0.8]])
    assert dapo.advantages(rewards).tolist() == [
        pytest.approx([1, -1, -1, 1], rel=1e-4),
        pytest.approx([1, -1, 1, -1], rel=1e-4),
    ]
    floored = dapo.advantages(rewards, std_floor=0.1)
    assert floored[1].tolist() == pytest.approx([0.5, -0.5, 0.5, -0.5], rel=1e-4)
    assert [dapo.has_signal(group) for group in (rewards[0], rewards[1], torch.ones(4))] == [True, True, False]


def test_rollouts_are_the_reference(pair: TrainingPair) -> None:
    """The tokens that the served policy gives, for tests/laws hold that to the same reference."""
    folders = [bundled_model(f"tiny-{name}") for name in ("slm", "llm")]
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders]
    oracles = [UncachedModel(model, len(pair.tokenizer)) for model in models]

    def wants_llm(tokens: Sequence[int]) -> bool:
        return head.wants_llm(oracles[0].hidden_state(tokens), len(tokens))

    head, tau, limit = random_head(pair.hidden_size, seed=4), 0.01, 60
    prompts = [pair.prompt(problem) for problem in problems("train", 4)]
    rollouts = Rollouts(pair.slm, pair.llm, pair.stop_tokens, tau, limit, num_sessions=3)
    answers = rollouts.run(prompts, greedy(head))
    decisions = [each.to_llm for answer in answers for each in answer.consultations]
    assert set(decisions) == {True, False}, "a head of one mind tests nothing"
    for prompt, answer in zip(prompts, answers, strict=True):
        rule = Threshold(tau, wants_llm=wants_llm)
        naive = stitch(*oracles, prompt, rule, max_new_tokens=limit, stop_tokens=pair.stop_tokens).written
        assert answer.written == [token.id for token in naive]
        assert answer.authors == [token.model for token in naive]
        assert sum(run.num_tokens for run in answer.runs) == len(answer.written)
        to_llm = sum(each.to_llm for each in answer.consultations)
        assert sum(run.discarded for run in answer.runs) == to_llm
    pair.slm.check_integrity()
    pair.llm.check_integrity()
    assert pair.slm.capacity.num_sessions == pair.llm.capacity.num_sessions == 0


def trainer(pair: TrainingPair, folder: Path, seed: int = 1, latency: LatencyModel = LATENCY) -> Trainer:
    recipe = replace(FAST, seed=seed, warm_chains=0, max_new_tokens=60)
    torch.manual_seed(recipe.seed)
    return Trainer(recipe, pair, latency, Policy(pair.hidden_size, 0, (8,), 0.5), folder)


def test_a_run_is_a_function_of_its_seed_and_resumes_as_if_uninterrupted(pair: TrainingPair, tmp_path: Path) -> None:
    whole = trainer(pair, tmp_path / "whole")
    curves = [whole.step(), whole.step()]
    other = trainer(pair, tmp_path / "other", seed=2)
    assert other.step() != curves[0]

    broken = trainer(pair, tmp_path / "broken")
    assert broken.step() == curves[0]
    broken.save()
    broken.step()  # and was stopped before it could be saved
    again = trainer(pair, tmp_path / "broken")
    assert again.resume()
    assert again.step() == curves[1]
    assert again.head().version == whole.head().version != trainer(pair, tmp_path / "new").head().version
    assert [json.loads(line) for line in (tmp_path / "broken" / LOG).read_text().splitlines()] == curves
    with pytest.raises(ValueError, match="another recipe"):
        trainer(pair, tmp_path / "broken", seed=3).resume()
    slower = replace(LATENCY, llm=replace(LATENCY.llm, decode_coefficients=Decode(0, 30.0)))
    with pytest.raises(ValueError, match="another latency model"):
        trainer(pair, tmp_path / "broken", latency=slower).resume()
    with pytest.raises(ValueError, match="another pair"):
        trainer(replace(pair, names=("a", "b")), tmp_path / "broken").resume()


def test_a_run_that_begins_anew_forgets_the_curves_of_the_one_before(pair: TrainingPair, tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(json.dumps({"step": 1, "reward": 0.5}) + "\n")  # its checkpoint was removed
    fresh = trainer(pair, tmp_path)
    assert not fresh.resume()
    assert not (tmp_path / LOG).read_text()


def test_the_command_makes_a_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LATENCY.save(tmp_path / "latency.json")
    out, work = tmp_path / "heads" / "quick", tmp_path / "work"
    arguments = ["--fast", "--num-steps", "1", "--latency", str(tmp_path / "latency.json")]
    assert main([*arguments, "--num-dev", "2", "--work", str(work), "--out", str(out)]) == 0
    head = Head.from_bytes((out / "head.safetensors").read_bytes())
    assert f"quick@{head.version}" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert f"`{head.version}`" in card
    assert "looked at after steps 0 and 1" in card  # what was chosen of
    assert "thinks of 64 tokens" in card  # what it sees beside the paper's inputs
    assert (out / "training.png").stat().st_size > 0
    assert (work / CHECKPOINT).exists()
    assert main(["--latency", str(tmp_path / "none.json"), "--work", str(work)]) == 2


def test_recall_counts_the_wrong_tokens_among_the_calls() -> None:
    wrong = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    perfect = recall(wrong, wrong, num_answers=5)
    assert perfect == pytest.approx({0.4: 0.5, 0.6: 0.75, 0.8: 1.0, 1.0: 1.0, 1.2: 1.0})
    worst = recall(-wrong, wrong, num_answers=5)
    assert worst == pytest.approx({0.4: 0.0, 0.6: 0.0, 0.8: 0.0, 1.0: 0.0, 1.2: 0.0})
    assert recall(wrong, wrong, num_answers=100)[1.2] == pytest.approx(1.0), "more calls than unsure tokens"
