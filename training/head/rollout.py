"""Rollouts of R-Stitch+: many answers at once through two engines in one process, with decisions that a policy makes.

The answers are those that the served policy `learned` gives for the same decisions: the SLM runs until its entropy is
above tau, then the decider says whether the LLM writes the position; the LLM hands back after a token whose entropy is
at most tau. It knows neither rewards nor learning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from evals.latency import Run
from evals.latency.formulas import Role
from model_worker.engine.engine import Engine
from model_worker.engine.types import FinishReason, Handoff, RunFailed, RunFinished, RunRequest, TokenKept


@dataclass(frozen=True, slots=True)
class Consultation:
    """One question to the policy and what it said.

    Attributes:
        hidden_state: the SLM's at the unsure position, float32 little-endian, [hidden_size].
        context_length: tokens before that position, prompt included.
        entropy: the SLM's there.
        proposal: the token it would write.
        to_llm: the decision.
    """

    hidden_state: bytes
    context_length: int
    entropy: float
    proposal: int
    to_llm: bool


@dataclass(slots=True)
class Answer:
    """One answer, being written or complete.

    Attributes:
        tokens: prompt included.
        start: length of the prompt.
        authors: of the tokens after the prompt.
        runs: who wrote how much, in order, as the latency model wants it.
    """

    tokens: list[int]
    start: int
    authors: list[Role] = field(default_factory=list)
    consultations: list[Consultation] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def written(self) -> list[int]:
        return self.tokens[self.start :]

    @property
    def num_switches(self) -> int:
        return len(self.runs) - 1

    @property
    def num_llm_tokens(self) -> int:
        return self.authors.count("llm")


# Called with the answer's index and the question (its `to_llm` is yet False); says whether the LLM shall write.
Decide = Callable[[int, Consultation], bool]


@dataclass(slots=True)
class _Writing:
    index: int
    answer: Answer
    writer: Role = "slm"
    held: dict[Role, int] = field(default_factory=lambda: {"slm": 0, "llm": 0})
    num_kept: int = 0  # since it writes

    def leave(self, *, discarded: bool) -> None:
        """The other model writes from here, or the answer is complete."""
        self.answer.runs.append(Run(self.writer, self.num_kept, discarded))
        self.writer = "llm" if self.writer == "slm" else "slm"
        self.num_kept = 0


class Rollouts:
    """Writes answers with two engines, which it owns while it does.

    Args:
        tau: gate of the head and bound of the LLM's hand-back.
        max_new_tokens: of an answer.
        num_sessions: answers at once.
    """

    def __init__(
        self, slm: Engine, llm: Engine, stop_tokens: frozenset[int], tau: float, max_new_tokens: int, num_sessions: int
    ) -> None:
        self._engines: dict[Role, Engine] = {"slm": slm, "llm": llm}
        self._stop_tokens = stop_tokens
        self._handoff: dict[Role, Handoff] = {"slm": Handoff(above=tau, hidden_state=True), "llm": Handoff(below=tau)}
        self._max_new_tokens = max_new_tokens
        self._num_sessions = num_sessions
        self._running: dict[tuple[Role, int], _Writing] = {}

    def run(
        self, prompts: Sequence[Sequence[int]], decide: Decide, on_done: Callable[[], None] = lambda: None
    ) -> list[Answer]:
        """One answer for each prompt, in order. Raises RuntimeError if an engine fails."""
        answers = [Answer(list(prompt), len(prompt)) for prompt in prompts]
        waiting = iter(enumerate(answers))
        self._begin(waiting, self._num_sessions)
        while self._running:
            for name, engine in self._engines.items():
                if not engine.is_idle:
                    num_done = self._step(name, engine, decide)
                    for _ in range(num_done):
                        on_done()
                    self._begin(waiting, num_done)
        return answers

    def _begin(self, waiting: Iterable[tuple[int, Answer]], count: int) -> None:
        for _, (index, answer) in zip(range(count), waiting, strict=False):
            self._write(_Writing(index, answer))

    def _write(self, writing: _Writing) -> None:
        """Feeds the writer what it has not seen, and lets it go on."""
        answer, writer = writing.answer, writing.writer
        held = writing.held[writer]
        request = RunRequest(
            session_id=str(writing.index),
            position=held,
            tokens=answer.tokens[held:],
            max_tokens=self._max_new_tokens - len(answer.written),
            stop_tokens=self._stop_tokens,
            handoff=self._handoff[writer],
        )
        self._running[writer, self._engines[writer].submit(request)] = writing

    def _step(self, name: Role, engine: Engine, decide: Decide) -> int:
        """One forward; returns how many answers became complete by it."""
        num_done = 0
        for event in engine.step():
            writing = self._running[name, event.run_id]
            if isinstance(event, TokenKept):
                self._kept(writing, event.token)
            elif isinstance(event, RunFailed):
                raise RuntimeError(f"the {name}'s engine failed: {event.error}") from event.error
            else:
                del self._running[name, event.run_id]
                if self._ended(writing, event, decide):
                    num_done += 1
                    for each in self._engines.values():
                        each.close_session(str(writing.index))
        return num_done

    def _kept(self, writing: _Writing, token: int) -> None:
        writing.answer.tokens.append(token)
        writing.answer.authors.append(writing.writer)
        writing.num_kept += 1

    def _ended(self, writing: _Writing, event: RunFinished, decide: Decide) -> bool:
        """What follows the end of a run; returns whether the answer is complete."""
        answer = writing.answer
        writing.held[writing.writer] = len(answer.tokens)
        if event.reason is not FinishReason.HANDOFF or len(answer.written) == self._max_new_tokens:
            writing.leave(discarded=False)
            return True
        if writing.writer == "llm":
            writing.leave(discarded=False)
        elif self._consult(writing, event, decide):
            writing.leave(discarded=True)
        else:
            assert event.proposal is not None
            self._kept(writing, event.proposal.token)
            if event.proposal.token in self._stop_tokens or len(answer.written) == self._max_new_tokens:
                writing.leave(discarded=False)
                return True
        self._write(writing)
        return False

    def _consult(self, writing: _Writing, event: RunFinished, decide: Decide) -> bool:
        proposal, answer = event.proposal, writing.answer
        assert proposal is not None, "the SLM hands off with its proposal"
        asked = Consultation(proposal.hidden_state, len(answer.tokens), proposal.entropy, proposal.token, to_llm=False)
        to_llm = decide(writing.index, asked)
        answer.consultations.append(replace(asked, to_llm=to_llm))
        return to_llm
