"""The two workers together: whether they answer, whether they share one tokenizer, and that tokenizer.

It looks at them all the time: a worker that was restarted is looked at anew before anything is trusted to it. It
decodes nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import grpc
import structlog

from router_svc.text.tokenizer import Tokenizer, TokenizerFiles, first_difference
from router_svc.trajectory.types import Model
from router_svc.workers.client import WorkerClient
from router_svc.workers.runs import WorkerInfo
from rstitch.backoff import Backoff
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
_LOOK_EVERY_S = 2.0


@dataclass(slots=True)
class _Side:
    client: WorkerClient
    info: WorkerInfo | None = None  # of the last instance that answered
    files: TokenizerFiles | None = None
    answers: bool = False
    detail: str = "not reached yet"
    look: asyncio.Event = field(default_factory=asyncio.Event)


class WorkerPair:
    """The SLM's and the LLM's worker. The task of `monitor` must run."""

    def __init__(self, slm: WorkerClient, llm: WorkerClient) -> None:
        self._sides = {Model.SLM: _Side(slm), Model.LLM: _Side(llm)}
        self._changed = asyncio.Condition()
        self._tokenizer: Tokenizer | None = None
        self._tokenizer_files: TokenizerFiles | None = None
        self.mismatch: RstitchError | None = None

    @property
    def ready(self) -> bool:
        """Whether both workers were seen and share one tokenizer; one of them may be away at the moment."""
        return self._tokenizer is not None and self.mismatch is None

    @property
    def detail(self) -> str:
        """What is waited for, "" if nothing is."""
        if self.mismatch is not None:
            return self.mismatch.message
        return "; ".join(
            f"waiting for the {model.name} worker at {side.client.address}: {side.detail}"
            for model, side in self._sides.items()
            if not side.answers
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The common one. Raises RstitchError (UNAVAILABLE) while there is none."""
        self.check_ready()
        assert self._tokenizer is not None
        return self._tokenizer

    @property
    def answer_tokenizers(self) -> dict[Model, Tokenizer]:
        """What reads an answer's tokens, by their writer. Raises RstitchError (UNAVAILABLE) while there is none."""
        return dict.fromkeys(Model, self.tokenizer)

    @property
    def context_length(self) -> int:
        return min(info.context_length for info in self._infos())

    @property
    def vocab_size(self) -> int:
        return min(info.vocab_size for info in self._infos())

    def check_ready(self) -> None:
        """Raises RstitchError (UNAVAILABLE) unless questions can be taken."""
        if self.mismatch is not None:
            raise self.mismatch
        if self._tokenizer is None:
            what, remedy = f"the router is not ready: {self.detail}.", "Try again when its health says SERVING."
            raise RstitchError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", what, remedy=remedy, retry_after_s=1.0)

    def client(self, model: Model) -> WorkerClient:
        return self._sides[model].client

    def info(self, model: Model) -> WorkerInfo | None:
        """What the worker last said of itself; None before it answered."""
        return self._sides[model].info

    def stop_tokens(self) -> dict[Model, frozenset[int]]:
        """Tokens that end an answer, by the model that would write them."""
        return {model: side.info.stop_tokens if side.info else frozenset() for model, side in self._sides.items()}

    def names(self) -> dict[Model, str]:
        """The models' names, "" for one that was not seen yet."""
        return {model: side.info.model if side.info else "" for model, side in self._sides.items()}

    def status(self, model: Model) -> tuple[bool, str]:
        """Whether the worker answers, and what it waits for if not."""
        side = self._sides[model]
        return side.answers, "" if side.answers else side.detail

    async def wait_ready(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.ready)

    async def wait_change(self) -> None:
        async with self._changed:
            await self._changed.wait()

    async def wait_usable(self, model: Model, timeout_s: float, *, suspect: bool = False) -> None:
        """Returns when the worker answers and has the pair's tokenizer; a suspect one is looked at first.

        Raises RstitchError (UNAVAILABLE) after the timeout, at once if it came back with another tokenizer.
        """
        side = self._sides[model]
        if suspect:
            # Until the next look nobody trusts it: the failure may be older than its last good answer.
            side.answers = False
            side.look.set()
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: side.answers or self.mismatch is not None)
        except TimeoutError:
            raise worker_unavailable(model, side.client.address, side.detail) from None
        if self.mismatch is not None:
            raise self.mismatch

    async def monitor(self) -> None:
        async with asyncio.TaskGroup() as group:
            for model in Model:
                group.create_task(self._monitor(model), name=f"monitor-{model.label}")

    async def close(self) -> None:
        for side in self._sides.values():
            await side.client.close()

    async def _monitor(self, model: Model) -> None:
        side = self._sides[model]
        backoff = Backoff(first_s=0.1, max_s=_LOOK_EVERY_S, patience_s=None)
        while True:
            side.look.clear()
            try:
                await self._look(model, side)
                backoff.reset()
                delay_s: float | None = _LOOK_EVERY_S
            except RstitchError as error:
                detail = f"{error.code.name.lower()}: {error.message}"
                if side.answers or side.detail != detail:
                    _log.warning("waiting for worker", role=model.label, address=side.client.address, error=detail)
                side.answers, side.detail = False, detail
                delay_s = backoff.next_s()
            async with self._changed:
                self._changed.notify_all()
            try:
                async with asyncio.timeout(delay_s):
                    await side.look.wait()
                backoff.reset()  # someone waits for it
            except TimeoutError:
                continue

    async def _look(self, model: Model, side: _Side) -> None:
        info = await side.client.info()
        if side.info is None or side.info.instance_id != info.instance_id:
            if info.role is not None and info.role is not model:
                what = f"it says that it is the {info.role.name}"
                raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_ROLE", what)
            files = await side.client.tokenizer()
            _log.info("worker found", role=model.label, address=side.client.address, model=info.model)
            side.info, side.files = info, files
            try:
                self._compare()
            except RstitchError:
                side.info = None  # to be looked at again
                raise
        side.answers, side.detail = True, ""

    def _compare(self) -> None:
        """Called when a worker is new: both tokenizers must give the same ids."""
        slm, llm = self._sides[Model.SLM], self._sides[Model.LLM]
        if slm.info is None or llm.info is None or slm.files is None or llm.files is None:
            return
        if slm.info.fingerprint != llm.info.fingerprint:
            where = first_difference(Tokenizer(slm.files), Tokenizer(llm.files))
            what = f"the two models do not share one tokenizer: {where or 'their fingerprints differ'}."
            remedy = "Serve two models of one family; then the router becomes ready by itself."
            self.mismatch = RstitchError(grpc.StatusCode.UNAVAILABLE, "TOKENIZER_MISMATCH", what, remedy=remedy)
            _log.error("tokenizers differ", detail=where, slm=slm.info.model, llm=llm.info.model)
            return
        self.mismatch = None
        # The LLM is the one whose answers are imitated: its template counts, the SLM's where it has none.
        files = llm.files if llm.files.chat_template or not slm.files.chat_template else slm.files
        files = replace(files, early_exit=llm.files.early_exit.over(slm.files.early_exit))
        if files != self._tokenizer_files:  # a big one takes long to read, and answers are being written
            self._tokenizer, self._tokenizer_files = Tokenizer(files), files

    def _infos(self) -> list[WorkerInfo]:
        self.check_ready()
        return [side.info for side in self._sides.values() if side.info is not None]


def worker_unavailable(model: Model, address: str, why: str) -> RstitchError:
    """UNAVAILABLE: the patience with a worker is at its end."""
    what = f"the {model.name} worker at {address} does not answer: {why.rstrip('.')}."
    remedy = "Start it again, then re-attach with resume_from."
    return RstitchError(grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE", what, remedy=remedy, retry_after_s=1.0)
