"""How much of an answer's prompt no model had to compute: what workers held of earlier turns, or took from others.

It looks at the runs that fed a prompt, and changes none.
"""

from __future__ import annotations

from dataclasses import dataclass

from router_svc.workers.runs import PendingRun, Run


@dataclass(frozen=True, slots=True)
class _Fed:
    """A run that fed some of a prompt, [position, position + num_sent), without its tokens: they may be many."""

    position: int
    num_sent: int
    num_beside: int  # of the answer, a draft or a trial's prompt, fed with it
    held: int  # on the worker once all of it is fed
    pending: PendingRun

    @property
    def was_taken(self) -> bool:
        return self.pending.accepted or self.pending.failure is None

    @property
    def num_reused(self) -> int:
        computed, finish = self.num_sent, self.pending.finish
        if finish is not None:
            # More than was sent is computed of what the worker held without having put it through the model: the last
            # token that it wrote, or the rest of a catch-up.
            decoded = finish.held - self.held - finish.num_accepted + (finish.proposal is not None)
            of_prompt = finish.num_computed_tokens - self.num_beside - max(0, decoded - 1)
            computed = max(self.num_sent - min(self.num_sent, finish.num_cached_tokens), of_prompt)
        return max(0, self.position + self.num_sent - computed)


class PromptReuse:
    """Counts tokens of the prompt that each model which read it had computed before; the least of them counts.

    It is never more than that: where a worker has not told, all that it was sent was computed.
    """

    def __init__(self) -> None:
        self._fed: list[_Fed] = []

    def note(self, start: int, run: Run, pending: PendingRun) -> None:
        """A run was started, for a model that reads the answer's first token at `start`."""
        if run.position >= start:
            return
        end = run.position + len(run.tokens)
        num_beside = max(0, end - start) + len(run.prompt) + len(run.draft)
        fed = _Fed(run.position, min(start, end) - run.position, num_beside, end + len(run.prompt), pending)
        self._fed.append(fed)

    def num_tokens(self) -> int | None:
        """Gives the count; None: no prompt was fed."""
        return min((each.num_reused for each in self._fed if each.was_taken), default=None)
