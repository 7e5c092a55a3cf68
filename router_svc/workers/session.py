"""What one worker holds of one session, as far as the router knows, and how it is brought up to date.

It knows no policy; errors of runs go to the caller.
"""

from __future__ import annotations

import time
from array import array

from router_svc.policies.policy import Handoff
from router_svc.trajectory.packing import PrefixChecksum
from router_svc.trajectory.types import Model, Sampling, tokens_of
from router_svc.trajectory.usage import Usage
from router_svc.workers.client import DecodeStream, WorkerClient
from router_svc.workers.run_ahead import RunAhead, RunAheadGate
from router_svc.workers.runs import PendingRun, Run, RunFinish
from rstitch.errors import RstitchError

# After a failed run in the background the next one waits so long: it is a convenience, not worth a storm.
_BACKGROUND_PAUSE_S = 1.0
_REFUSED = ("HELD_TOO_SHORT", "PREFIX_MISMATCH")


class WorkerSession:
    """One worker's side of a generation. The stream is opened with the first run.

    Args:
        tokens: of the session, growing; owned by the generation.
        held: how many of them the worker presumably holds; wrong guesses are corrected by the worker.
        usage: where tokens fed and time spent are counted.
        catch_up_tokens: `catch_up` does nothing while the lag is smaller.
        gate: says how far to run ahead.
    """

    def __init__(
        self,
        worker: WorkerClient,
        session_id: str,
        tokens: array[int],
        held: int,
        sampling: Sampling,
        usage: Usage,
        catch_up_tokens: int,
        gate: RunAheadGate,
    ) -> None:
        self.model: Model = worker.model
        self._worker = worker
        self._session_id = session_id
        self._tokens = tokens
        self._held = held
        self._checksum = PrefixChecksum(tokens)
        self._sampling = sampling
        self._usage = usage
        self._catch_up_tokens = catch_up_tokens
        self._gate = gate
        self._stream: DecodeStream | None = None
        self._lost = False  # with a stream before this one
        self._catching_up: PendingRun | None = None
        self._ahead: RunAhead | None = None
        self._in_vain: PendingRun | None = None  # ran ahead and is not wanted; its finish may be still to come
        self._strayed = False  # the worker holds tokens that were written ahead or tried out and are not the session's
        self._num_ahead = 0  # of the tokens to be kept next, those written ahead
        self._next_background = 0.0

    @property
    def lost(self) -> bool:
        """Whether the worker went away since it was last `found`; it may have come back as another."""
        return self._lost or (self._stream is not None and self._stream.lost)

    async def found(self) -> None:
        """The worker was looked at; a stream of after its return stays."""
        if self._stream is not None and self._stream.lost:
            await self.close()
        self._lost = False

    async def decode(
        self,
        max_tokens: int,
        handoff: Handoff | None,
        traceparent: str,
        stop_tokens: frozenset[int] = frozenset(),
        draft: array[int] | None = None,
    ) -> PendingRun:
        """Starts a run at the end of the tokens, or goes on with the one that ran ahead if it was right.

        A catch-up that is going on is promoted: its tokens stay.

        Args:
            stop_tokens: that end it; none: the model's own.
            draft: to be verified.
        """
        self._settle()
        run = self._taken_over()
        if run is not None:
            return run
        if self._stream is not None and self._stream.broken:
            await self.close()
        return self._start(max_tokens, handoff, traceparent, stop_tokens, draft=draft)

    async def try_out(
        self,
        prompt: array[int],
        max_tokens: int,
        handoff: Handoff | None,
        traceparent: str,
        stop_tokens: frozenset[int],
    ) -> PendingRun:
        """Starts a run of which nothing is the session's: the model is fed `prompt` after the tokens, and decodes.

        Tokens of it that are kept all the same are to be told to `wrote`; the worker drops the rest at its next run.
        """
        self._settle()
        if self._ahead is not None:
            self._drop_ahead(self._ahead)
        if self._stream is not None and self._stream.broken:
            await self.close()
        run = self._start(max_tokens, handoff, traceparent, stop_tokens, prompt)
        self._strayed = True
        return run

    async def catch_up(self, traceparent: str) -> None:
        """Feeds what this model has not seen, in the background, if there is enough of it and none under way.

        A run-ahead that may still be right goes on instead; one that was wrong ends here.
        """
        self._settle()
        if self._ahead is not None:
            if self._ahead_may_be_right(self._ahead):
                return
            self._drop_ahead(self._ahead)
        if self._catching_up is not None:
            return
        if self._in_vain is None:
            lag = len(self._tokens) - self._held
            if not self._catch_up_tokens or lag < self._catch_up_tokens or time.monotonic() < self._next_background:
                return
        if self._stream is not None and self._stream.broken:
            await self.close()
        self._catching_up = self._start(0, None, traceparent)

    def run_ahead(
        self,
        proposal: int,
        max_tokens: int,
        handoff: Handoff | None,
        traceparent: str,
        stop_tokens: frozenset[int] = frozenset(),
    ) -> None:
        """The model goes on from the proposal that was just discarded, in the background, if that is worth it."""
        self._settle()
        if self._stream is None or self._stream.broken or self._held != len(self._tokens):
            return
        max_tokens = min(max_tokens, self._gate.num_tokens())
        if max_tokens <= 0 or time.monotonic() < self._next_background:
            return
        run = self._run(tokens_of([proposal]), max_tokens, handoff, traceparent, stop_tokens, background=True)
        self._ahead = RunAhead(self._stream.start(run), run.position, proposal)

    def stop_ahead(self, traceparent: str) -> None:
        """The answer is complete: the worker drops what it wrote ahead or tried out, lest the next turn find tokens not
        its own.
        """
        if self._ahead is not None:
            self._ahead.look(self._tokens)
            self._drop_ahead(self._ahead)
        if self._strayed and self._stream is not None and not self._stream.broken:
            self._catching_up = self._start(0, None, traceparent)

    def wrote(self, num: int) -> int:
        """`num` tokens of this model were kept; what it decoded beyond is dropped at the next run.

        Returns: how many of them were written ahead.
        """
        self._held += num
        num_ahead = min(num, self._num_ahead)
        self._usage.num_run_ahead_tokens += num_ahead
        self._usage.num_run_ahead_discarded += self._num_ahead - num_ahead
        self._num_ahead = 0
        return num_ahead

    async def cut_short(self, run: PendingRun, traceparent: str) -> RunFinish | None:
        """Ends a run whose rest is not wanted: the worker drops that. What the run took is left to be counted.

        Returns: how it ended; None if the worker does not say any more.
        """
        self._settle()
        if run.finish is None:
            self._catching_up = self._start(0, None, traceparent)
        try:
            while run.finish is None:
                await run.next()
        except RstitchError:
            return None
        return run.finish

    def count(self, finish: RunFinish, took_us: int | None = None) -> None:
        """Adds what a run took to the usage.

        Args:
            took_us: of a run that decodes, as seen from here; if it took longer itself, it ran ahead for the rest.
                None: it ran in the background only.
        """
        slm = self.model is Model.SLM
        breakdown = self._usage.breakdown
        if slm:
            self._usage.slm_forward_us += finish.forward_us
        else:
            self._usage.llm_forward_us += finish.forward_us
        if took_us is None:
            breakdown.background_us += finish.forward_us
            return
        share = min(1.0, took_us / finish.total_us) if finish.total_us else 1.0
        forward_us = int(finish.forward_us * share)
        breakdown.background_us += finish.forward_us - forward_us
        if slm:
            breakdown.slm_forward_us += forward_us
        else:
            breakdown.llm_forward_us += forward_us
        breakdown.scheduling_us += int(finish.host_us * share)
        breakdown.waiting_us += int((finish.queue_us + finish.wait_us) * share)
        breakdown.transport_us += max(0, took_us - finish.total_us)

    def refused(self, run: PendingRun, error: RstitchError) -> None:
        """A run failed: what it was to feed was not fed, what the worker holds may be less than thought."""
        if not run.accepted:
            self._usage.num_catch_up_tokens -= run.num_sent
            self._held -= run.num_sent
        self._corrected(error)

    def _corrected(self, error: RstitchError) -> None:
        if error.reason == "HELD_TOO_SHORT":
            self._held = min(int(error.metadata.get("held", "0")), len(self._tokens))
        elif error.reason == "PREFIX_MISMATCH":
            self._held = 0

    async def close(self) -> None:
        """Ends the stream and with it whatever the worker does for this session."""
        self._lost = self.lost
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
        if self._ahead is not None:
            self._drop_ahead(self._ahead)
        self._settle()
        self._catching_up = None

    def _start(
        self,
        max_tokens: int,
        handoff: Handoff | None,
        traceparent: str,
        stop_tokens: frozenset[int] = frozenset(),
        prompt: array[int] | None = None,
        draft: array[int] | None = None,
    ) -> PendingRun:
        if self._stream is None:
            self._stream = self._worker.open(self._session_id)
        run = self._run(self._tokens[self._held :], max_tokens, handoff, traceparent, stop_tokens, prompt, draft)
        self._held = len(self._tokens)
        self._strayed = False
        self._usage.num_catch_up_tokens += len(run.tokens)
        return self._stream.start(run)

    def _run(
        self,
        tokens: array[int],
        max_tokens: int,
        handoff: Handoff | None,
        traceparent: str,
        stop_tokens: frozenset[int],
        prompt: array[int] | None = None,
        draft: array[int] | None = None,
        background: bool = False,
    ) -> Run:
        """Appends `tokens` to what the worker holds."""
        return Run(
            position=self._held,
            tokens=tokens,
            max_tokens=max_tokens,
            sampling=self._sampling,
            handoff=handoff,
            prefix_checksum=self._checksum.at(self._held),
            traceparent=traceparent,
            background=background,
            stop_tokens=stop_tokens,
            prompt=tokens_of() if prompt is None else prompt,
            draft=tokens_of() if draft is None else draft,
        )

    def _taken_over(self) -> PendingRun | None:
        """The run that ran ahead, if it is what would be asked for now."""
        ahead = self._ahead
        if ahead is None:
            return None
        ahead.look(self._tokens)
        if not ahead.is_ahead(len(self._tokens)):
            self._drop_ahead(ahead)
            return None
        self._ahead = None
        # A run of which nothing has come may not have begun, for want of spare rows.
        self._gate.tried(ahead.num_saved(len(self._tokens)) if ahead.run.accepted else 0)
        self._num_ahead = ahead.take_over(len(self._tokens))
        self._usage.num_run_ahead_discarded += ahead.num_written - self._num_ahead
        self._usage.num_catch_up_tokens += ahead.run.num_sent
        self._held = len(self._tokens)
        return ahead.run

    def _ahead_may_be_right(self, ahead: RunAhead) -> bool:
        """Not if the other model wrote something else, nor if it is further and will stay so."""
        ahead.look(self._tokens)
        lag = len(self._tokens) - ahead.end
        is_over = ahead.run.finish is not None
        if ahead.run.failure is not None or not ahead.agrees:
            return False
        return lag <= 0 or not (is_over or 0 < self._catch_up_tokens <= lag)

    def _drop_ahead(self, ahead: RunAhead) -> None:
        """What was written ahead is not wanted. The worker drops at its next run what is not the session's."""
        self._ahead, self._in_vain, self._strayed = None, ahead.run, True
        self._gate.tried(0)
        self._usage.num_run_ahead_discarded += ahead.num_written
        if ahead.run.failure is None:
            self._held = ahead.agreed_end
        self._settle()

    def _settle(self) -> None:
        """Counts what ended in the background since the last call."""
        run = self._in_vain
        if run is not None:
            reply = run.poll()
            self._usage.num_run_ahead_discarded += len(reply.tokens) if reply is not None else 0
            if run.failure is not None:
                self._failed_in_background(run.failure)
            elif run.finish is not None:
                self.count(run.finish)
            if run.failure is not None or run.finish is not None:
                self._in_vain = None
        run = self._catching_up
        if run is not None:
            if run.failure is not None:
                self.refused(run, run.failure)
                self._failed_in_background(run.failure)
            elif run.finish is not None:
                self.count(run.finish)
            if run.failure is not None or run.finish is not None:
                self._catching_up = None

    def _failed_in_background(self, error: RstitchError) -> None:
        self._corrected(error)
        self._next_background = time.monotonic() + (0 if error.reason in _REFUSED else _BACKGROUND_PAUSE_S)
