"""Rollouts: in one process they are the reference's, kept ones are those that were written, and asked for once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from evals.algorithm.reference import Threshold as Tau
from evals.algorithm.reference import stitch
from evals.algorithm.uncached_model import UncachedModel
from evals.asking.systems import Terms
from evals.checking.checker import OwnCheck
from evals.latency import Decode, LatencyModel, ModelLatency, Prefill
from evals.tasks.data import Problem
from evals.tasks.tiny.arithmetic import is_correct, problems
from rstitch.client.events import Consultation
from rstitch.client.policies import Learned, LlmOnly, Threshold
from rstitch.local.part import bundled_model
from rstitch.service.coin import uniform
from tests.support.heads import random_head
from tests.support.toy_rollouts import HIDDEN_SIZE, ToyRollouts, toy_problems
from training.head.effort import Clock, Effort
from training.head.rollouts.engines import Engines, open_engines
from training.head.rollouts.in_process import InProcessRollouts
from training.head.rollouts.judging import Judge
from training.head.rollouts.kept import KeptRollouts
from training.head.rollouts.types import Asked, Job, Rollout, Rollouts

LIMIT, TAU = 60, 0.01
LATENCY = LatencyModel(
    ModelLatency(Prefill(0, 0, 0.03, 1.0), Decode(0, 1.0)), ModelLatency(Prefill(0, 0, 0.1, 2.0), Decode(0, 3.0))
)


@pytest.fixture(scope="module")
def engines() -> Engines:
    torch.set_num_threads(1)
    return open_engines(bundled_model("tiny-slm"), bundled_model("tiny-llm"))


@pytest.fixture(scope="module")
def rollouts(engines: Engines) -> Iterator[InProcessRollouts]:
    judge = Judge(Terms(LIMIT), OwnCheck(is_correct), LATENCY)  # type: ignore[arg-type]
    with InProcessRollouts(engines, judge, num_sessions=3) as made:
        yield made


@pytest.fixture(scope="module")
def oracles(engines: Engines) -> list[UncachedModel]:
    folders = [bundled_model(f"tiny-{name}") for name in ("slm", "llm")]
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders]
    return [UncachedModel(model, len(engines.tokenizer)) for model in models]


def questions(num: int) -> list[Problem]:
    return [Problem(i, str(i), made.question, "", source=made) for i, made in enumerate(problems("train", num))]


def test_rollouts_are_the_reference(
    engines: Engines, rollouts: InProcessRollouts, oracles: list[UncachedModel]
) -> None:
    """With the same coins the reference writes the same tokens, which tests/laws hold the service to."""
    head = random_head(engines.hidden_size, seed=4)
    jobs = [Job(problem, explore_seed=100 + problem.index) for problem in questions(4)]
    made = rollouts.run(jobs, Learned(rollouts.use(head), TAU))
    assert {said.to_llm for each in made for said in each.consultations} == {True, False}
    for job, each in zip(jobs, made, strict=True):
        assert job.explore_seed is not None
        seed = job.explore_seed

        def wants_llm(tokens: Sequence[int], seed: int = seed) -> bool:
            probability = head.probability(oracles[0].hidden_state(tokens), len(tokens))
            return uniform(seed, len(tokens), b"explore") < probability

        prompt = engines.prompt(job.problem.prompt, Terms(LIMIT))
        rule = Tau(TAU, wants_llm=wants_llm)
        naive = stitch(*oracles, prompt, rule, max_new_tokens=LIMIT, stop_tokens=engines.stop_tokens).written
        assert each.text == engines.text([token.id for token in naive])
        assert (each.num_tokens, each.num_llm_tokens) == (len(naive), sum(token.model == "llm" for token in naive))
        assert each.latency_ms == LATENCY.trajectory_ms(len(prompt), each.runs, Judge(*[None] * 3).service)  # type: ignore[arg-type]
        to_llm = sum(said.to_llm for said in each.consultations)
        assert sum(run.discarded for run in each.runs) == to_llm
        assert all(said.position == said.context_length >= len(prompt) for said in each.consultations)
        assert all(len(said.hidden_state) == 2 * engines.hidden_size for said in each.consultations)
    for engine in (engines.slm, engines.llm):
        engine.check_integrity()
        assert engine.capacity.num_sessions == 0


def test_a_budget_bounds_the_llm_and_the_slm_writes_the_rest(engines: Engines, rollouts: InProcessRollouts) -> None:
    always = Learned(rollouts.use(random_head(engines.hidden_size, bias=1e6)), 0.0)
    free, bounded, none = rollouts.run([Job(questions(1)[0], None, budget) for budget in (None, 2, 0)], always)
    assert free.num_llm_tokens > 2
    assert (bounded.num_llm_tokens, none.num_llm_tokens) == (2, 0)
    assert bounded.runs[-1].model == "slm"
    assert len(none.consultations) == 0


def test_policies_without_a_head(engines: Engines, rollouts: InProcessRollouts, oracles: list[UncachedModel]) -> None:
    (problem,) = questions(1)
    (alone,) = rollouts.run([Job(problem)], LlmOnly())
    assert alone.num_llm_tokens == alone.num_tokens
    (stitched,) = rollouts.run([Job(problem)], Threshold(0.05))
    prompt = engines.prompt(problem.prompt, Terms(LIMIT))
    naive = stitch(*oracles, prompt, Tau(0.05), max_new_tokens=LIMIT, stop_tokens=engines.stop_tokens).written
    assert stitched.text == engines.text([token.id for token in naive])


def kept_by(rollouts: Rollouts, folder: Path) -> KeptRollouts:
    return KeptRollouts(rollouts, folder, Clock(folder / "clock.json"))


def test_what_was_written_is_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    head = random_head(HIDDEN_SIZE, seed=2)
    jobs = [Job(problem, seed) for problem in toy_problems(3) for seed in (1, 2)]
    jobs.append(jobs[0])  # an equal job has the same answer
    toy = ToyRollouts()
    expected = toy.run(jobs, Learned(toy.use(head)))
    assert any(each.consultations for each in expected)

    toy = ToyRollouts(fails_after=4)
    kept, told = kept_by(toy, tmp_path), list[Rollout]()
    with pytest.raises(KeyboardInterrupt), kept.stage("some"):
        kept.run(jobs, Learned(kept.use(head)))
    path = tmp_path / "some.rollouts"
    path.write_bytes(path.read_bytes()[:-7])  # the fourth was half written when the process was killed

    toy = ToyRollouts()
    kept = kept_by(toy, tmp_path)
    with kept.stage("some", forget=True):
        assert kept.run(jobs, Learned(kept.use(head)), told.append) == expected
        assert (toy.num_written, len(told)) == (3, len(jobs))
        assert kept.run(jobs, Learned(kept.use(head))) == expected
        assert toy.num_written == 3, "all of them are known"
        other = random_head(HIDDEN_SIZE, seed=3)
        kept.run(jobs[:1], Learned(kept.use(other)))
        kept.run([replace(jobs[0], llm_tokens=5)], Learned(kept.use(head)))
        assert toy.num_written == 5, "another head's answers, and those within a budget, are others"
    assert not path.exists()
    assert Clock(tmp_path / "clock.json").effort.num_rollouts == 4 + 3 + 2, "those of both processes"


def test_an_answer_of_one_stage_is_known_in_the_next_ones(tmp_path: Path) -> None:
    toy = ToyRollouts()
    jobs = [Job(problem) for problem in toy_problems(5)]
    kept = kept_by(toy, tmp_path)
    with kept.stage("alone"):
        kept.run(jobs[:3], LlmOnly())
    for again in (kept, kept_by(toy, tmp_path)):
        with again.stage("warm"):
            assert again.run(jobs, LlmOnly()) == ToyRollouts().run(jobs, LlmOnly())
        assert toy.num_written == 5
    (tmp_path / "warm.rollouts").unlink()
    with kept.stage("warm"):
        kept.run(jobs, LlmOnly())
    assert toy.num_written == 7, "the first three are those of the other stage"


def test_hidden_states_are_in_memory_once(tmp_path: Path) -> None:
    size = 4_000_000

    class Large(ToyRollouts):
        def run(
            self, jobs: Sequence[Job], policy: Asked, on_done: Callable[[Rollout], None] = lambda rollout: None
        ) -> list[Rollout]:
            for job in jobs:
                asked = Consultation(3, bytes(size), 0.5, 1)
                on_done(Rollout(job.problem, "", True, 1.0, 1, 0, (), (asked,), "", job.explore_seed))
            return []

    jobs, kept = [Job(problem, 1) for problem in toy_problems(3)], kept_by(Large(), tmp_path)
    tracemalloc.start()
    try:
        with kept.stage("some"):
            made = kept.run(jobs, Learned("any"))
            assert tracemalloc.get_traced_memory()[0] < 1.5 * len(made) * size
            assert kept.run(jobs, Learned("any")) == made
    finally:
        tracemalloc.stop()


def test_time_is_that_of_the_answers_that_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over two processes, the first of them killed: the rate is of all that was waited for, and of nothing else."""
    now = [100.0]
    monkeypatch.setattr("training.head.effort.monotonic", lambda: now[0])

    class Slow(ToyRollouts):
        def _written(self, job: Job, policy: Asked) -> Rollout:
            now[0] += 2.0
            return super()._written(job, policy)

    jobs = [Job(problem) for problem in toy_problems(5)]
    kept = kept_by(Slow(fails_after=2), tmp_path)
    now[0] += 7  # learning, say
    with pytest.raises(KeyboardInterrupt), kept.stage("some"):
        kept.run(jobs, LlmOnly())
    now[0] += 1000  # nobody runs
    clock = Clock(tmp_path / "clock.json")
    assert clock.effort == Effort(11.0, 2, 4.0)
    with (kept := KeptRollouts(Slow(), tmp_path, clock)).stage("some"):
        kept.run(jobs, LlmOnly())
        kept.run(jobs, LlmOnly())
    assert clock.effort == Effort(17.0, 5, 10.0)
    assert Effort(92, 181, 89).text().startswith("1.5 minutes; of them 1.5 waiting for 181 answers (2.0 a second)")
