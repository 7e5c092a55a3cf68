"""What a head is trained with. Values only; a run is a function of them, of the pair and of the questions."""

from __future__ import annotations

from dataclasses import dataclass

from evals.tasks.tiny.domain import Style

# Thresholds and prices that are looked at on dev; a price in multiples of that of the training.
TAUS = (0.001, 0.01, 0.03, 0.1)
PRICES = (0.25, 0.5, 1.0, 2.0, 4.0)
# What a warm start learns from (`warm_start.sources`).
SOURCES = ("chains", "answers", "solutions", "logs")
# Whose the lines of a chain are: the style that its writer begins lines in, and whether others are among them, of whose
# first tokens nothing is said. `slm`: the SLM's alone. `mixed`: its own among the LLM's, as in answers that the LLM
# wrote lines of. `llm`: the other way round, so that the LLM is called where it would begin a line.
LINES: dict[str, tuple[Style, bool]] = {"slm": ("short", False), "mixed": ("short", True), "llm": ("verbose", True)}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Numbers of questions and answers are the paper's; where it is silent, what did best on the tiny pair.

    Attributes:
        tau: gate: the head is asked where the SLM's entropy is above; the LLM hands back at or below.
        hidden: sizes of the MLP's layers between input and logits.
        num_readout: tokens whose logits the head sees (ours, see `rstitch.service.head`); 0: none, as in the paper.
        features: what else it sees, by names of `rstitch.service.head_features` (ours).
        start_llm: without a warm start: P(LLM) at first, near the threshold rule, which is P(LLM) = 1.
        warm_answers: answers (or reference chains) of the warm start; 0: none, pure DAPO.
        warm_lines: whose lines reference chains have, by names of `LINES`; "": what the domain needs.
        warm_epochs, warm_lr: passes over the states found in them, and the highest learning rate.
        warm_error: the warm start calls the LLM where the SLM's token is wrong with more than this probability.
        num_steps: of DAPO.
        num_questions, group_size: groups with a signal in a step, and answers to each question.
        max_rounds: dynamic sampling gives up after so many batches of questions.
        lr, num_minibatches: of DAPO: Adam, one pass over a step's decisions in so many parts.
        epsilon_low, epsilon_high: clip-higher.
        std_floor: the least divisor of the advantages (see `dapo`).
        accuracy_only: only groups with right and wrong answers have a signal (DAPO's own rule).
        budgets: share of the questions that are answered within a budget of the LLM's tokens, where the head sees it.
        eval_every: DAPO steps between two looks at dev.
    """

    seed: int = 1
    tau: float = 0.01
    hidden: tuple[int, ...] = (512, 256, 128)
    num_readout: int = 64
    features: tuple[str, ...] = ()
    start_llm: float = 0.9
    warm_answers: int = 240_000
    warm_lines: str = ""
    warm_epochs: int = 20
    warm_lr: float = 2e-3
    warm_error: float = 0.03
    num_steps: int = 20
    num_questions: int = 32
    group_size: int = 8
    max_rounds: int = 3
    lr: float = 1e-4
    num_minibatches: int = 4
    epsilon_low: float = 0.2
    epsilon_high: float = 0.28
    std_floor: float = 0.1
    accuracy_only: bool = False
    budgets: float = 0.5
    eval_every: int = 10

    @property
    def num_looks(self) -> int:
        """How often dev is looked at, from which one head is chosen: before DAPO, every so many steps, at the end."""
        return len({*range(0, self.num_steps + 1, self.eval_every), max(0, self.num_steps)})


# Seconds, for tests: everything is done, nothing is learned.
FAST = Recipe(
    hidden=(16,), warm_answers=64, warm_epochs=2, num_steps=2, num_questions=2, group_size=3, max_rounds=2, eval_every=2
)
