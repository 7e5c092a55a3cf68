"""What a head is trained with. Values only; a run is a function of them and of the pair."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """Defaults are the tiny pair's on a CPU.

    Attributes:
        tau: gate: the head is asked where the SLM's entropy is above; the LLM hands back at or below.
        hidden: sizes of the MLP's layers between input and logits.
        num_readout: tokens whose logits the head sees (ours, see `rstitch.service.head`); 0: none, as in the paper.
        start_llm: pure DAPO: P(LLM) at the start, near the threshold rule, which is P(LLM) = 1.
        warm_chains: reference chains of the warm start; 0: none, pure DAPO.
        warm_epochs, warm_lr: passes over the states found in them, and the highest learning rate.
        warm_error: the warm start calls the LLM where the SLM's token is wrong with more than this probability.
        num_steps: of DAPO.
        num_questions, group_size: groups with a signal in a step, and answers to each question.
        max_rounds: dynamic sampling gives up after so many batches of questions.
        price: lambda, per millisecond.
        lr, num_minibatches: of DAPO: Adam, one pass over a step's decisions in so many parts.
        epsilon_low, epsilon_high: clip-higher.
        std_floor: the least divisor of the advantages (see `dapo`).
        accuracy_only: only groups with right and wrong answers have a signal (DAPO's own rule).
        overlong_margin: soft punishment of answers within so many tokens of the limit; 0: none.
        max_new_tokens: of an answer.
        num_sessions: answers written at once.
        num_dev: problems of the dev split on which the best head is chosen.
        eval_every: DAPO steps between two looks at them.
    """

    seed: int = 1
    tau: float = 0.01
    hidden: tuple[int, ...] = (512, 256, 128)
    num_readout: int = 64
    start_llm: float = 0.9
    warm_chains: int = 240_000
    warm_epochs: int = 20
    warm_lr: float = 2e-3
    warm_error: float = 0.03
    num_steps: int = 20
    num_questions: int = 32
    group_size: int = 8
    max_rounds: int = 3
    price: float = 1e-3
    lr: float = 1e-4
    num_minibatches: int = 4
    epsilon_low: float = 0.2
    epsilon_high: float = 0.28
    std_floor: float = 0.1
    accuracy_only: bool = False
    overlong_margin: int = 0
    max_new_tokens: int = 320
    num_sessions: int = 64
    num_dev: int = 500
    eval_every: int = 10


# Seconds, for tests: everything is done, nothing is learned.
FAST = Recipe(
    hidden=(16,), warm_chains=64, warm_epochs=2, num_steps=2, num_questions=2, group_size=3, max_rounds=2, num_dev=8,
    eval_every=2, num_sessions=8, max_new_tokens=120,
)  # fmt: skip
