"""Rollouts by two engines in this process, many at once: what the served system is held to, and one process to profile.

The SLM runs until its entropy is above tau, then the head is asked as the service asks it; the LLM hands back after a
token whose entropy is at most tau. The answers are those of the service for the same policy, and so are the
consultations, bit by bit. It knows neither rewards nor learning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from evals.latency import Run
from evals.latency.formulas import Role
from model_worker.engine.engine import Engine
from model_worker.engine.types import FinishReason, Handoff, Proposal, RunFailed, RunFinished, RunRequest, TokenKept
from rstitch.client.events import Consultation
from rstitch.client.policies import Learned, LlmOnly, SlmOnly
from rstitch.errors import invalid
from rstitch.service.consulting import Consultant, HeadTerms, in_half_precision
from rstitch.service.head import Head
from rstitch.service.head_features import NUM_RECENT
from training.head.rollouts.engines import Engines
from training.head.rollouts.judging import Judge, Written
from training.head.rollouts.types import Asked, Job, Rollout


@dataclass(frozen=True, slots=True)
class _Rule:
    """A policy as it is followed here: who begins, and unless that one writes all the gate, with a head or without."""

    first: Role
    tau: float | None = None
    head: Head | None = None
    price: float = 1.0


@dataclass(slots=True)
class _Writing:
    """Holds one answer while it is written: its tokens, whose they are, and what each model has of them."""

    index: int
    job: Job
    rule: _Rule
    tokens: list[int]  # prompt included
    start: int
    writer: Role
    entropies: list[float] = field(default_factory=list)
    num_by_llm: int = 0
    consultations: list[Consultation] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    held: dict[Role, int] = field(default_factory=lambda: {"slm": 0, "llm": 0})
    num_kept: int = 0  # since this one writes

    @property
    def num_written(self) -> int:
        return len(self.tokens) - self.start

    @property
    def llm_left(self) -> int | None:
        return None if self.job.llm_tokens is None else max(0, self.job.llm_tokens - self.num_by_llm)

    def keep(self, token: int, entropy: float) -> None:
        self.tokens.append(token)
        self.entropies.append(entropy)
        self.num_kept += 1
        self.num_by_llm += self.writer == "llm"

    def leave(self, *, discarded: bool = False) -> None:
        """The other model writes from here, or the answer is complete."""
        self.runs.append(Run(self.writer, self.num_kept, discarded))
        self.writer = "llm" if self.writer == "slm" else "slm"
        self.num_kept = 0

    def consult(self, proposal: Proposal) -> bool:
        """Asks the head, if the rule has one, whether the LLM writes the next position."""
        if self.rule.head is None:
            return self.job.calls()
        terms = HeadTerms(
            position=len(self.tokens),
            explore_seed=self.job.explore_seed,
            price=self.rule.price,
            recent_entropies=tuple(self.entropies[-NUM_RECENT:]),
            segment_length=self.num_kept,
            num_llm_tokens=self.num_by_llm,
            llm_tokens_left=self.llm_left,
        )
        said = Consultant(self.rule.head, terms).ask(proposal.hidden_state, len(self.tokens), _single(proposal.entropy))
        self.consultations.append(
            Consultation(
                said.position,
                in_half_precision(said.hidden_state),
                said.entropy,
                proposal.token,
                tuple(map(_single, said.features)),
                _single(said.probability),
                said.to_llm,
                said.context_length,
            )
        )
        return said.to_llm


class InProcessRollouts:
    """`Rollouts` by engines, which it owns while it runs. A context manager: it holds the judge's checker.

    Args:
        num_sessions: answers at once.
    """

    def __init__(self, engines: Engines, judge: Judge, num_sessions: int = 64) -> None:
        if judge.terms.stop:
            raise invalid("--in-process", "the task has stop strings.", "Leave it out: the service looks for them.")
        self._pair = engines
        self._engines: dict[Role, Engine] = {"slm": engines.slm, "llm": engines.llm}
        self._judge = judge
        self._num_sessions = num_sessions
        self._heads: dict[str, Head] = {}
        self._running: dict[tuple[Role, int], _Writing] = {}
        self._loop = asyncio.Runner()  # of the checker

    def __enter__(self) -> Self:
        self._loop.run(self._judge.checker.__aenter__())
        return self

    def __exit__(self, *raised: object) -> None:
        self._loop.run(self._judge.checker.__aexit__())
        self._loop.close()

    def use(self, head: Head) -> str:
        """Makes a head known; one at a time is kept."""
        name = f"in-process@{head.version}"
        self._heads = {name: head}
        return name

    def run(
        self, jobs: Sequence[Job], policy: Asked, on_done: Callable[[Rollout], None] = lambda rollout: None
    ) -> list[Rollout]:
        """Writes the answers, in the order of the jobs. Raises RuntimeError if an engine fails."""
        rule = self._rule(policy)
        if isinstance(policy, Learned) and policy.explore_seed is not None:
            jobs = [
                job if job.explore_seed is not None else replace(job, explore_seed=policy.explore_seed) for job in jobs
            ]
        done: dict[int, Rollout] = {}
        waiting = iter([self._begun(index, job, rule) for index, job in enumerate(jobs)])
        self._begin(waiting, self._num_sessions)
        while self._running:
            for name in self._engines:
                for writing in self._step(name):
                    made = self._loop.run(self._judge.judged(writing.job, self._written(writing)))
                    done[writing.index] = made
                    on_done(made)
                    self._begin(waiting, 1)
        return [done[index] for index in range(len(jobs))]

    def _rule(self, policy: Asked) -> _Rule:
        match policy:
            case LlmOnly():
                return _Rule("llm")
            case SlmOnly():
                return _Rule("slm")
            case Learned():
                head = self._heads[policy.name]
                return _Rule("slm", head.facts.tau if policy.tau is None else policy.tau, head, policy.price or 1.0)
        return _Rule("slm", policy.tau)

    def _begun(self, index: int, job: Job, rule: _Rule) -> _Writing:
        prompt = self._pair.prompt(job.problem.prompt, self._judge.terms)
        return _Writing(index, job, rule, prompt, len(prompt), rule.first)

    def _begin(self, waiting: Iterator[_Writing], count: int) -> None:
        for _, writing in zip(range(count), waiting, strict=False):
            self._write(writing)

    def _write(self, writing: _Writing) -> None:
        """Feeds the writer what it has not seen, and lets it go on."""
        writer, rule = writing.writer, writing.rule
        held = writing.held[writer]
        max_tokens = self._judge.terms.max_new_tokens - writing.num_written
        handoff = None
        if writer == "llm":
            if writing.llm_left is not None:
                max_tokens = min(max_tokens, writing.llm_left)
            handoff = None if rule.tau is None else Handoff(below=rule.tau)
        elif rule.tau is not None and writing.llm_left != 0:
            handoff = Handoff(above=rule.tau, hidden_state=rule.head is not None)
        request = RunRequest(
            session_id=str(writing.index),
            position=held,
            tokens=writing.tokens[held:],
            max_tokens=max_tokens,
            stop_tokens=self._pair.stop_tokens,
            handoff=handoff,
        )
        self._running[writer, self._engines[writer].submit(request)] = writing

    def _step(self, name: Role) -> list[_Writing]:
        """One forward, if there is something to do; returns the answers that became complete by it."""
        engine = self._engines[name]
        done = []
        for event in [] if engine.is_idle else engine.step():
            writing = self._running[name, event.run_id]
            if isinstance(event, TokenKept):
                writing.keep(event.token, _single(event.entropy))
            elif isinstance(event, RunFailed):
                raise RuntimeError(f"the {name}'s engine failed: {event.error}") from event.error
            elif isinstance(event, RunFinished):
                del self._running[name, event.run_id]
                if self._ended(writing, event):
                    done.append(writing)
                    for each in self._engines.values():
                        each.close_session(str(writing.index))
                else:
                    self._write(writing)
        return done

    def _ended(self, writing: _Writing, event: RunFinished) -> bool:
        """What follows the end of a run; returns whether the answer is complete."""
        writing.held[writing.writer] = len(writing.tokens)
        if event.reason is not FinishReason.HANDOFF:
            by_llm = writing.writer == "llm" and event.reason is FinishReason.LENGTH
            writing.leave()
            # The LLM may have stopped where its budget is spent; the SLM then writes the rest.
            return not (by_llm and writing.llm_left == 0) or self._is_full(writing)
        if self._is_full(writing) or writing.writer == "llm":
            writing.leave()
            return self._is_full(writing)
        assert event.proposal is not None, "the SLM hands off with its proposal"
        if writing.consult(event.proposal):
            writing.leave(discarded=True)
            return False
        writing.keep(event.proposal.token, _single(event.proposal.entropy))
        if event.proposal.token in self._pair.stop_tokens or self._is_full(writing):
            writing.leave()
            return True
        return False

    def _is_full(self, writing: _Writing) -> bool:
        return writing.num_written == self._judge.terms.max_new_tokens

    def _written(self, writing: _Writing) -> Written:
        text = self._pair.text(writing.tokens[writing.start :])
        asked = tuple(writing.consultations)
        return Written(text, writing.start, tuple(writing.runs), asked, num_consultations=len(asked))


def _single(value: float) -> float:
    """Rounds as the contract does, whose numbers are float32."""
    return float(np.float32(value))
