"""What one worker holds of one session, as far as the router knows, and how it is brought up to date.

Here the answer's ids meet the model's own: what comes in is translated for the worker, and `read` translates what it
says. It knows no policy; errors of runs go to the caller.
"""

from __future__ import annotations

import time
from array import array
from contextlib import suppress
from dataclasses import dataclass, fields, replace

from router_svc.text.views import View
from router_svc.trajectory.packing import PrefixChecksum
from router_svc.workers.accounting import Accounting
from router_svc.workers.client import WorkerClient
from router_svc.workers.manner import Manner
from router_svc.workers.run_ahead import RunAheadGate, RunAheadSlot
from router_svc.workers.runs import PendingRun, Reply, Run, RunFinish, RunSpec, SessionKey
from router_svc.workers.streams import DecodeStream
from router_svc.workers.translating import in_answer_ids
from rstitch.errors import RstitchError

# After a failed run in the background the next one waits this long: it is a convenience, not worth a storm.
_BACKGROUND_PAUSE_S = 1.0
_REFUSED = ("HELD_TOO_SHORT", "PREFIX_MISMATCH")
# What a run takes over from its spec as it is; the rest are token ids, which are translated.
_IDS = ("stop_tokens", "draft", "prompt")
_SPEC_FIELDS = [field.name for field in fields(RunSpec) if field.name not in _IDS]


@dataclass(frozen=True, slots=True)
class BackgroundWork:
    """What this router lets workers do for sessions whose writer is the other model."""

    catch_up_tokens: int  # a worker that lags by fewer is not fed; 0: it is never fed before its turn
    gate: RunAheadGate


class WorkerSession:
    """One worker's side of an answer. The stream is opened with the first run.

    What the router knows of the worker's tokens, in the model's own ids:

        tokens  [0 .................... held ............ len(tokens))    the model's view of the session, which grows
        worker  [0 .................... held)[ahead, trial, draft ..)     behind `held` nothing is the session's
                                                                          for certain: `_has_foreign_tokens`
        a run   sends tokens[held:] at position = held, with a checksum of [0, held); the worker first drops
                whatever it has from `held` on

    A run that is started counts as arrived: `held` is len(tokens) from then on, and is put back if it is refused. At
    first it may be a guess, which the worker corrects.
    """

    def __init__(
        self,
        worker: WorkerClient,
        key: SessionKey,
        view: View,
        held: int,
        manner: Manner,
        accounting: Accounting,
        background: BackgroundWork,
    ) -> None:
        self.model = worker.model
        self._worker = worker
        self._key = key
        self._view = view
        self._tokens = view.tokens
        self._held = held
        self._checksum = PrefixChecksum(view.tokens)
        self._manner = manner
        self._accounting = accounting
        self._catch_up_tokens = background.catch_up_tokens
        self._ahead = RunAheadSlot(background.gate, accounting)
        self._stream: DecodeStream | None = None
        self._lost_stream = False  # a stream before this one broke off, and nobody has looked at the worker since
        self._catching_up: PendingRun | None = None
        self._tidying: PendingRun | None = None  # the run with which the worker drops what is not the session's
        self._has_foreign_tokens = False
        self._next_background = 0.0

    @property
    def length(self) -> int:
        """Tokens of the session as the model reads it: the position of the next one on the worker."""
        return len(self._tokens)

    @property
    def room(self) -> int:
        """How many tokens more the model's context has room for; below 0 where its view has outgrown it."""
        self._refresh()
        return self._manner.context_length - len(self._tokens)

    @property
    def is_lost(self) -> bool:
        """Whether the worker went away since `mark_found`; it may have come back as another."""
        return self._lost_stream or (self._stream is not None and self._stream.lost)

    @property
    def rests(self) -> bool:
        """Whether `catch_up` has nothing to do now."""
        if self.is_lost or not self._ahead.is_idle:
            return False
        if (run := self._catching_up) is not None:
            return run.finish is None and run.failure is None
        return not self._catch_up_tokens or self._lag < self._catch_up_tokens

    @property
    def _lag(self) -> int:
        return len(self._tokens) - self._held + self._view.num_unread

    async def mark_found(self, worker: WorkerClient) -> None:
        """The worker was looked at: a stream opened since it came back stays. Another one is fed everything."""
        is_same = worker is self._worker
        if not is_same or (self._stream is not None and self._stream.lost):
            await self.close()  # nothing is heard any more of what went on there
        self._lost_stream = False
        if not is_same:
            self._worker, self._held, self._next_background, self._has_foreign_tokens = worker, 0, 0.0, False

    async def decode(self, spec: RunSpec) -> PendingRun:
        """Starts a run at the end of the tokens, or goes on with the one that ran ahead if it was right.

        A catch-up that is going on is promoted: its tokens stay.
        """
        self._settle()
        self._refresh()
        # Already asked for, with the same spec: what has come of it is read from it as if it came now.
        run = self._ahead.take_over(self._tokens)
        if run is not None:
            self._accounting.count_sent(run.num_sent)
            self._held = len(self._tokens)
            return run
        self._drop_ahead()
        return await self._start_anew(spec)

    async def try_out(self, spec: RunSpec) -> PendingRun:
        """Starts a run whose tokens are not the session's: a trial or a draft.

        Those that are kept all the same are to be told to `confirm_kept`; the worker drops the rest at its next run.
        """
        self._settle()
        self._refresh()
        self._drop_ahead()
        run = await self._start_anew(spec)
        self._has_foreign_tokens = True
        return run

    async def catch_up(self, traceparent: str) -> None:
        """Feeds what this model has not seen, in the background, if there is enough of it and none under way.

        A run-ahead that may still be right goes on instead; one that was wrong ends here.
        """
        self._settle()
        if self._ahead.may_be_right(self._tokens, self._catch_up_tokens):
            return
        self._drop_ahead()
        if self._catching_up is not None:
            return
        if self._ahead.unwanted is None:  # else a run now ends that one, however short the lag
            is_due = self._catch_up_tokens and self._lag >= self._catch_up_tokens
            if not is_due or time.monotonic() < self._next_background:
                return
        self._refresh()  # not before: to read an answer as text takes its time
        if self.room < 0:
            return
        self._catching_up = await self._start_anew(RunSpec(max_tokens=0, traceparent=traceparent))

    def run_ahead(self, proposal: int, spec: RunSpec) -> bool:
        """Lets the model go on from the proposal that was just discarded, in the background, if that is worth it.

        Returns whether it does.
        """
        self._settle()
        # Only from where the proposal was made: a worker that lags would have to be fed first, and the LLM would win.
        if self._stream is None or self._stream.broken or self._held != len(self._tokens):
            return False
        max_tokens = min(spec.max_tokens, self._ahead.max_tokens)
        if max_tokens <= 0 or time.monotonic() < self._next_background:
            return False
        tokens = self._view.to_own([proposal])
        run = self._run(tokens, replace(spec, max_tokens=max_tokens), background=True)
        self._ahead.begin(self._stream.start(run), run.position, tokens[0])
        return True

    def finish(self, traceparent: str) -> None:
        """The answer is complete: the worker drops what is not the session's, lest the next turn find it there."""
        self._drop_ahead()
        self._refresh()
        if self._has_foreign_tokens and self._stream is not None and not self._stream.broken and self.room >= 0:
            self._catching_up = self._start(RunSpec(max_tokens=0, traceparent=traceparent))

    async def tidied(self) -> None:
        """Waits until the worker has dropped what is not the session's: to close the stream would take that back."""
        with suppress(RstitchError):  # the next turn finds out what the worker holds
            while self._tidying is not None and self._tidying.finish is None:
                await self._tidying.next()

    def read(self, reply: Reply) -> Reply:
        """What a run of this worker said, in the answer's ids."""
        return in_answer_ids(reply, self._view)

    def confirm_kept(self, num_tokens: int) -> int:
        """Tokens that this worker computed were kept; returns how many of them were written ahead."""
        self._held += num_tokens
        return self._ahead.confirm_kept(num_tokens)

    async def cut_short(self, run: PendingRun, traceparent: str) -> RunFinish | None:
        """Ends a run whose rest is not wanted. Returns how it ended; None if the worker does not say any more."""
        self._settle()
        if run.finish is None:
            # A new run supersedes the one that is going on; this one feeds what was kept and decodes nothing.
            self._catching_up = self._start(RunSpec(max_tokens=0, traceparent=traceparent))
        try:
            while run.finish is None:
                await run.next()
        except RstitchError:
            return None
        return run.finish

    def account_failure(self, run: PendingRun, error: RstitchError) -> None:
        """A run failed: what it was to feed was not fed, and what the worker holds may be less than thought."""
        if not run.accepted:
            self._accounting.count_sent(-run.num_sent)
            self._held = max(0, self._held - run.num_sent)
        self._correct_held(error)

    async def close(self) -> None:
        self._lost_stream = self.is_lost
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
        self._drop_ahead()
        self._settle()
        self._catching_up = None

    async def _start_anew(self, spec: RunSpec) -> PendingRun:
        if self._stream is not None and self._stream.broken:
            await self.close()
        return self._start(spec)

    def _start(self, spec: RunSpec) -> PendingRun:
        if self._stream is None:
            self._stream = self._worker.open(self._key.session_id)
        run = self._run(self._tokens[self._held :], spec)
        # Counted as held before the worker says so, since the next request may go out before its reply is here.
        self._held = len(self._tokens)
        self._accounting.count_sent(len(run.tokens))
        pending = self._stream.start(run)
        self._accounting.reuse.note(self._view.start, run, pending)
        if self._has_foreign_tokens:
            self._has_foreign_tokens, self._tidying = False, pending
        return pending

    def _run(self, tokens: array[int], spec: RunSpec, background: bool = False) -> Run:
        """Appends `tokens` to what the worker holds."""
        to_own, manner = self._view.to_own, self._manner
        decodes = spec.max_tokens > 0  # what only feeds writes nothing that could be masked, or end it
        stops = spec.stop_tokens or (manner.stop_tokens if decodes else frozenset())
        return Run(
            position=self._held,
            tokens=tokens,
            sampling=manner.sampling,
            position_offset=manner.position_offset,
            penalized_from=manner.penalized_from,
            prefix_checksum=self._checksum.at(self._held),
            background=background,
            cache_salt=self._key.cache_salt,
            masked_tokens=manner.masked_tokens if decodes else (),
            top_logprobs=manner.top_logprobs if decodes and not spec.is_draft else 0,
            stop_tokens=stops if self._view.is_shared else self._view.own_ends(stops),
            grammar=manner.grammar if decodes else None,
            draft=to_own(spec.draft),
            prompt=to_own(spec.prompt),
            **{name: getattr(spec, name) for name in _SPEC_FIELDS},
        )

    def _refresh(self) -> None:
        """Brings the view up to date; the worker drops what has changed at its next run."""
        changed = self._view.refresh()
        if changed is not None:
            self._has_foreign_tokens |= changed < self._held
            self._held = min(self._held, changed)
            self._checksum.changed_from(changed)

    def _drop_ahead(self) -> None:
        if not self._ahead.is_taken:
            return
        agreed_end = self._ahead.drop(self._tokens)
        self._has_foreign_tokens = True
        if agreed_end is not None:
            self._held = agreed_end
        self._settle()

    def _settle(self) -> None:
        """Counts what ended in the background since the last call."""
        unwanted = self._ahead.read_unwanted()
        if unwanted is not None:
            self._count_background(unwanted)
        run = self._catching_up
        if run is not None and (run.failure is not None or run.finish is not None):
            if run.failure is not None:
                self.account_failure(run, run.failure)
            self._count_background(run)
            self._catching_up = None

    def _count_background(self, run: PendingRun) -> None:
        if run.finish is not None and run.failure is None:
            self._accounting.count_run(self.model, run.finish)
        elif run.failure is not None:
            self._correct_held(run.failure)
            pause_s = 0 if run.failure.reason in _REFUSED else _BACKGROUND_PAUSE_S
            self._next_background = time.monotonic() + pause_s

    def _correct_held(self, error: RstitchError) -> None:
        if error.reason == "HELD_TOO_SHORT":
            self._held = min(int(error.metadata.get("held", "0")), len(self._tokens))
        elif error.reason == "PREFIX_MISMATCH":
            self._held = 0
