"""What one worker holds of one session, as far as the router knows, and how it is brought up to date.

It knows no policy; errors of runs go to the caller.
"""

from __future__ import annotations

import time
from array import array

from router_svc.packing import PrefixChecksum
from router_svc.policies import Handoff
from router_svc.runs import PendingRun, Run, RunFinish
from router_svc.trajectory import Model, Sampling, Usage
from router_svc.workers import DecodeStream, WorkerClient
from rstitch.errors import RstitchError

# After a failed catch-up the next one waits so long: it is a convenience, not worth a storm.
_CATCH_UP_PAUSE_S = 1.0
_REFUSED = ("HELD_TOO_SHORT", "PREFIX_MISMATCH")


class WorkerSession:
    """One worker's side of a generation. The stream is opened with the first run.

    Args:
        tokens: of the session, growing; owned by the generation.
        held: how many of them the worker presumably holds; wrong guesses are corrected by the worker.
        usage: where tokens fed and time spent are counted.
        catch_up_tokens: `catch_up` does nothing while the lag is smaller.
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
        self._stream: DecodeStream | None = None
        self._catching_up: PendingRun | None = None
        self._next_catch_up = 0.0

    async def decode(self, max_tokens: int, handoff: Handoff | None, traceparent: str) -> PendingRun:
        """Starts a run at the end of the tokens. A catch-up that is going on is promoted: its tokens stay."""
        self._settle_catch_up()
        if self._stream is not None and self._stream.broken:
            await self.close()
        return self._start(max_tokens, handoff, traceparent)

    async def catch_up(self, traceparent: str) -> None:
        """Feeds what this model has not seen, in the background, if there is enough of it and none under way."""
        self._settle_catch_up()
        if self._catching_up is not None or not self._catch_up_tokens:
            return
        if len(self._tokens) - self._held < self._catch_up_tokens or time.monotonic() < self._next_catch_up:
            return
        if self._stream is not None and self._stream.broken:
            await self.close()
        self._catching_up = self._start(0, None, traceparent)

    def wrote(self, num: int) -> None:
        """The worker decoded `num` tokens that were kept; what it decoded beyond is dropped at the next run."""
        self._held += num

    async def cut_short(self, run: PendingRun) -> RunFinish | None:
        """Ends a run whose rest is not wanted: the worker drops that. What the run took is left to be counted.

        Returns: how it ended; None if the worker does not say any more.
        """
        self._settle_catch_up()
        if run.finish is None:
            self._catching_up = self._start(0, None, "")
        try:
            while run.finish is None:
                await run.next()
        except RstitchError:
            return None
        return run.finish

    def count(self, finish: RunFinish, took_us: int | None = None) -> None:
        """Adds what a run took to the usage: a decoding one `took_us` as seen from here; None: it ran beside those."""
        slm = self.model is Model.SLM
        breakdown = self._usage.breakdown
        if slm:
            self._usage.slm_forward_us += finish.forward_us
        else:
            self._usage.llm_forward_us += finish.forward_us
        if took_us is None:
            breakdown.background_us += finish.forward_us
            return
        if slm:
            breakdown.slm_forward_us += finish.forward_us
        else:
            breakdown.llm_forward_us += finish.forward_us
        breakdown.scheduling_us += finish.host_us
        breakdown.waiting_us += finish.queue_us + finish.wait_us
        breakdown.transport_us += max(0, took_us - finish.total_us)

    def refused(self, run: PendingRun, error: RstitchError) -> None:
        """A run failed: what it was to feed was not fed, what the worker holds may be less than thought."""
        if not run.accepted:
            self._usage.num_catch_up_tokens -= run.num_sent
            self._held -= run.num_sent
        if error.reason == "HELD_TOO_SHORT":
            self._held = min(int(error.metadata.get("held", "0")), len(self._tokens))
        elif error.reason == "PREFIX_MISMATCH":
            self._held = 0

    async def close(self) -> None:
        """Ends the stream and with it whatever the worker does for this session."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
        self._settle_catch_up()
        self._catching_up = None

    def _start(self, max_tokens: int, handoff: Handoff | None, traceparent: str) -> PendingRun:
        if self._stream is None:
            self._stream = self._worker.open(self._session_id)
        position = min(self._held, len(self._tokens))
        run = Run(
            position=position,
            tokens=self._tokens[position:],
            max_tokens=max_tokens,
            sampling=self._sampling,
            handoff=handoff,
            prefix_checksum=self._checksum.at(position),
            traceparent=traceparent,
        )
        self._held = len(self._tokens)
        self._usage.num_catch_up_tokens += len(run.tokens)
        return self._stream.start(run)

    def _settle_catch_up(self) -> None:
        run = self._catching_up
        if run is None:
            return
        if run.failure is not None:
            self.refused(run, run.failure)
            self._next_catch_up = time.monotonic() + (0 if run.failure.reason in _REFUSED else _CATCH_UP_PAUSE_S)
        elif run.finish is not None:
            self.count(run.finish)
        else:
            return
        self._catching_up = None
