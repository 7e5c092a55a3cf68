"""Algorithm 1 of R-Stitch (arXiv 2507.17307) in the fewest clear lines: no cache, no batch, no service, no torch.

The oracle of the served system: right by being short. It knows a model only as something that names a next token and
how unsure it is of it, so that transformers models and the toys of tests are decoded by the same loop.

It departs from the paper in five things, and is the paper's in all else:
1. The LLM may hand back at a bound of its own (`tau_return`); the paper has one tau.
2. Other signals than the entropy can be compared with tau.
3. Who writes may be known beforehand (random routing, one model alone): the rule `Authors`.
4. A budget bounds what the LLM writes.
5. DEER's early exit (arXiv 2504.15895) may end the thinking.
R-Stitch+ is the paper's: where the SLM is unsure, a head says whether its token is discarded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias

Author: TypeAlias = Literal["slm", "llm"]
Signal: TypeAlias = Literal["entropy", "confidence", "margin", "entropy_window"]


class Proposal(NamedTuple):
    """What a model would write next, greedily. Signals are in [0, 1]; one that a model does not tell is nan.

    Attributes:
        entropy: -sum p log p / log V.
        confidence: 1 - p of the token.
        margin: 1 - (p1 - p2) of the two most probable.
        probability: p of the token.
    """

    token: int
    entropy: float
    confidence: float = math.nan
    margin: float = math.nan
    probability: float = math.nan


class Model(Protocol):
    """A language model, as Algorithm 1 sees one."""

    def next(self, tokens: Sequence[int]) -> Proposal:
        """The proposal for the position behind `tokens`, at least one."""


class Token(NamedTuple):
    """A kept token: its id, who wrote it, its distribution's entropy, and the value that was compared."""

    id: int
    model: Author
    entropy: float
    uncertainty: float


@dataclass(slots=True)
class Answer:
    """An answer as far as it is written.

    Attributes:
        tokens: prompt and answer.
        written: the answer.
        exited: where the thinking ended early, and how sure the trial was; None: it did not.
        num_trial_tokens: those of early exit, whether kept or not.
    """

    tokens: list[int]
    writer: Author
    written: list[Token] = field(default_factory=list)
    num_switches: int = 0
    is_over_budget: bool = False
    exited: tuple[int, float] | None = None
    num_trials: int = 0
    num_trial_tokens: int = 0

    @property
    def num_llm_tokens(self) -> int:
        return sum(token.model == "llm" for token in self.written)


class Rule(Protocol):
    """Decides who writes."""

    def first(self, position: int) -> Author:
        """The writer of the answer's first token."""

    def value(self, proposal: Proposal, written: Sequence[Token]) -> float:
        """What is compared: how unsure the model is of its proposal behind `written`."""

    def discards(self, value: float, tokens: Sequence[int]) -> bool:
        """Whether the LLM writes in place of the SLM's proposal behind `tokens`, which was as unsure as `value`."""

    def following(self, writer: Author, value: float, position: int) -> Author:
        """The writer of `position`, after `writer` has written the one before, as unsure as `value`."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """R-Stitch, or R-Stitch+ if there is a head.

    Attributes:
        tau: an SLM token with a value > tau is discarded and the LLM writes that position.
        tau_return: after an LLM token with a value <= tau_return the SLM goes on; None: tau.
        signal: the value: one of the proposal's, or the mean entropy of the last `window` tokens, this one included.
        wants_llm: the head: whether a token as unsure as that is discarded, by the tokens before it.
    """

    tau: float
    tau_return: float | None = None
    signal: Signal = "entropy"
    window: int = 0
    wants_llm: Callable[[Sequence[int]], bool] | None = None

    def first(self, position: int) -> Author:
        return "slm"

    def value(self, proposal: Proposal, written: Sequence[Token]) -> float:
        if self.signal != "entropy_window":
            return float(getattr(proposal, self.signal))
        recent = [*(token.entropy for token in written), proposal.entropy][-self.window :]
        return sum(recent) / len(recent)

    def discards(self, value: float, tokens: Sequence[int]) -> bool:
        return value > self.tau and (self.wants_llm is None or self.wants_llm(tokens))

    def following(self, writer: Author, value: float, position: int) -> Author:
        return "slm" if value <= (self.tau if self.tau_return is None else self.tau_return) else writer


@dataclass(frozen=True, slots=True)
class Authors:
    """The author of each position is known beforehand."""

    author: Callable[[int], Author]

    def first(self, position: int) -> Author:
        return self.author(position)

    def value(self, proposal: Proposal, written: Sequence[Token]) -> float:
        return proposal.entropy

    def discards(self, value: float, tokens: Sequence[int]) -> bool:
        return False

    def following(self, writer: Author, value: float, position: int) -> Author:
        return self.author(position)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much the LLM may write; then the SLM writes on or, if it `ends`, the answer does where the LLM was due.

    Attributes:
        max_switches: the way to the LLM and back, two switches, must fit in.
    """

    llm_tokens: float = math.inf
    max_switches: float = math.inf
    ends: bool = False

    def allows_llm(self, answer: Answer) -> bool:
        may_switch = answer.writer == "llm" or answer.num_switches + 2 <= self.max_switches
        return answer.num_llm_tokens < self.llm_tokens and may_switch


NO_BUDGET = Budget()


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """DEER: behind a boundary the writer tries an answer, and the answer keeps it if the writer is sure of it.

    Attributes:
        threshold: a trial whose mean token probability is above it ends the thinking.
        boundaries: a trial follows each token whose text contains one of these.
        prompt: token ids that ask for the answer.
        end: a trial ends with a token whose text contains this, or after `max_trial_tokens`.
        thinking_end: once the answer's text contains this there are no more trials.
        text: of tokens.
    """

    threshold: float
    boundaries: tuple[str, ...]
    prompt: tuple[int, ...]
    end: str
    max_trial_tokens: int
    thinking_end: str
    text: Callable[[Sequence[int]], str]


def stitch(
    slm: Model,
    llm: Model,
    prompt: Sequence[int],
    rule: Rule,
    *,
    max_new_tokens: int,
    stop_tokens: Collection[int],
    budget: Budget = NO_BUDGET,
    early_exit: EarlyExit | None = None,
) -> Answer:
    """Decodes greedily.

    Args:
        slm, llm: models that are asked in the same token ids.
        prompt: token ids, at least one.
        max_new_tokens: only kept tokens count.
        stop_tokens: end the answer and are kept.
    """
    models = {"slm": slm, "llm": llm}
    answer = Answer(list(prompt), rule.first(len(prompt)) if budget.llm_tokens else "slm")

    def complete() -> bool:
        stopped = bool(answer.written) and answer.tokens[-1] in stop_tokens
        return stopped or len(answer.written) >= max_new_tokens or answer.is_over_budget

    def pass_to(writer: Author) -> Author | None:
        """Returns who writes next; None: nobody, since the budget is spent."""
        if writer == "llm" and not budget.allows_llm(answer):
            answer.is_over_budget, writer = budget.ends, "slm"
        answer.num_switches += writer != answer.writer
        answer.writer = writer
        return None if answer.is_over_budget else writer

    def keep(tokens: Sequence[Token]) -> None:
        answer.written += tokens
        answer.tokens += [token.id for token in tokens]
        if not complete():
            pass_to(rule.following(answer.writer, tokens[-1].uncertainty, len(answer.tokens)))

    while not complete():
        proposal = models[answer.writer].next(answer.tokens)
        value = rule.value(proposal, answer.written)
        if answer.writer == "slm" and rule.discards(value, answer.tokens) and pass_to("llm") != "slm":
            continue
        keep([Token(proposal.token, answer.writer, proposal.entropy, value)])
        if early_exit is not None and not complete():
            room: float = max_new_tokens - len(answer.written)
            if answer.writer == "llm":
                room = min(room, budget.llm_tokens - answer.num_llm_tokens)
            if trial := _trial(models[answer.writer], answer, rule, early_exit, room, stop_tokens):
                keep(trial)
    return answer


def _trial(
    model: Model, answer: Answer, rule: Rule, early_exit: EarlyExit, room: float, stop_tokens: Collection[int]
) -> list[Token]:
    """The tokens of an early exit; none if no trial is due or the model is not sure of it."""
    text = early_exit.text
    at_boundary = any(boundary in text(answer.tokens[-1:]) for boundary in early_exit.boundaries)
    thinking = answer.exited is None and early_exit.thinking_end not in text([token.id for token in answer.written])
    most = min(early_exit.max_trial_tokens, room - len(early_exit.prompt))
    if not at_boundary or not thinking or most < 1:
        return []
    trial = [Token(token, answer.writer, 0.0, 0.0) for token in early_exit.prompt]
    probabilities: list[float] = []
    ended = False
    while len(probabilities) < most and not ended:
        proposal = model.next([*answer.tokens, *(token.id for token in trial)])
        value = rule.value(proposal, [*answer.written, *trial])
        trial.append(Token(proposal.token, answer.writer, proposal.entropy, value))
        probabilities.append(proposal.probability)
        ended = proposal.token in stop_tokens or early_exit.end in text([proposal.token])
    answer.num_trials += 1
    answer.num_trial_tokens += len(trial)
    confidence = sum(probabilities) / len(probabilities)
    if confidence <= early_exit.threshold:
        return []
    answer.exited = len(answer.tokens), confidence
    return trial
