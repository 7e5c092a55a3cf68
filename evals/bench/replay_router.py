"""The router with routing imposed on it: `python -m evals.bench.replay_router --traces FILE ...`, else as router_svc.

The decode loop, journal, Redis and the wire are the router's own. Only a run's end is not left to the models'
entropies: a run is asked for by its length in the trace, and comes back as if its hand-off condition had held. An SLM's
run is asked for one token more, which is dropped: the proposal that a real one computes in vain.

Which trace a session follows is in its id; answers without a hand-off condition (llm_only, slm_only) follow none.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import uuid
from pathlib import Path
from typing import Any

from evals.bench.traces import Trace, read
from router_svc import main as router
from router_svc.workers.runs import PendingRun, Proposal, Reply, Run, RunEnd
from router_svc.workers.streams import DecodeStream

_PREFIX = "replay"
_SURE, _UNSURE = 0.0, 1.0  # entropies as the trace has them; THRESHOLD lies between
THRESHOLD = 0.5


def session_id(trace_index: int, num_prompt_tokens: int) -> str:
    """A new session that follows a trace of the router's file from the end of its prompt on."""
    return f"{_PREFIX}.{trace_index}.{num_prompt_tokens}.{uuid.uuid4().hex}"


class _ImposedRun(PendingRun):
    """A run that ends where the trace says; `left` is None for one that is left alone."""

    __slots__ = ("is_slm", "left", "num_seen")

    def __init__(self, num_sent: int) -> None:
        super().__init__(num_sent)
        self.left: int | None = None
        self.is_slm = False
        self.num_seen = 0

    def feed(self, reply: Reply) -> None:
        if self.left is not None:
            self._impose(reply, self.left)
        super().feed(reply)

    def _impose(self, reply: Reply, left: int) -> None:
        """Entropies as the trace implies them, and its hand-off in place of the length that stood for it."""
        first, self.num_seen = self.num_seen, self.num_seen + len(reply.tokens)
        over = self.num_seen > left
        proposal = reply.tokens.pop() if over else None
        num_kept = len(reply.tokens)
        if self.is_slm:
            reply.entropies = [_SURE] * num_kept
        else:
            reply.entropies = [_SURE if first + index + 1 == left else _UNSURE for index in range(num_kept)]
        finish = reply.finish
        if finish is None or finish.end is not RunEnd.LENGTH:
            return
        if over:
            reply.finish = dataclasses.replace(
                finish,
                end=RunEnd.HANDOFF,
                held=finish.held - 1,
                proposal=Proposal(proposal, _UNSURE, _UNSURE, b"") if proposal is not None else None,
            )
        elif not self.is_slm and self.num_seen == left:
            reply.finish = dataclasses.replace(finish, end=RunEnd.HANDOFF)


class _ReplayStream(DecodeStream):
    """A stream that sends the lengths of a trace in place of hand-off conditions."""

    pending = _ImposedRun

    def __init__(self, traces: list[Trace], stub: Any, session: str) -> None:
        # Tokens until the hand-off, by whether the SLM writes and the offset in the answer.
        self._left: dict[bool, list[int]] = {}
        if session.startswith(f"{_PREFIX}."):
            _, index, num_prompt_tokens, _ = session.split(".")
            trace, self._num_prompt_tokens = traces[int(index)], int(num_prompt_tokens)
            self._left = {True: trace.left("slm"), False: trace.left("llm")}
        super().__init__(stub, session)

    def start(self, run: Run) -> PendingRun:
        if not self._left or run.handoff is None or run.max_tokens == 0:
            return super().start(run)
        is_slm = run.handoff.above is not None
        counts = self._left[is_slm]
        offset = run.position + len(run.tokens) - self._num_prompt_tokens
        # Behind the trace's end as many as one likes.
        left = counts[offset] if offset < len(counts) else sys.maxsize
        length = min(run.max_tokens, left + 1 if is_slm else left)
        pending = super().start(dataclasses.replace(run, max_tokens=length, handoff=None))
        assert isinstance(pending, _ImposedRun)
        pending.is_slm, pending.left = is_slm, left
        return pending


def main() -> None:
    """Runs the router with --traces."""
    at = sys.argv.index("--traces")
    _, file = sys.argv[at : at + 2]
    del sys.argv[at : at + 2]  # what is left is the router's own
    router.main(functools.partial(_ReplayStream, read(Path(file))))


if __name__ == "__main__":
    main()
