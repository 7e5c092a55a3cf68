"""The two workers together: whether they answer, how their vocabularies belong together, and their tokenizers.

It looks at them all the time: a worker that was restarted is looked at anew before anything is trusted to it. It
decodes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import grpc
import structlog

from router_svc.text import render_process
from router_svc.text.matching import Vocabulary
from router_svc.text.tokenizer import Tokenizer, TokenizerFiles
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.session_names import facts_of
from router_svc.trajectory.types import Model
from router_svc.workers.client import WorkerClient
from router_svc.workers.runs import WorkerInfo
from rstitch.backoff import Backoff
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)
_LOOK_EVERY_S = 1.0
# A worker that takes longer to say what it is does not answer, as people are told; it may still do so in time.
_SILENT_S = 0.5
_NO_ANSWER = "no answer"


@dataclass(slots=True)
class _Side:
    client: WorkerClient
    info: WorkerInfo | None = None  # of the last instance that answered
    files: TokenizerFiles | None = None
    answers: bool = False
    detail: str = "not reached yet"
    look: asyncio.Event = field(default_factory=asyncio.Event)
    asked_at: float | None = None  # by the loop's clock, while it is asked what it is


class WorkerPair:
    """The SLM's and the LLM's worker. The task of `monitor` must run."""

    def __init__(self, slm: WorkerClient, llm: WorkerClient) -> None:
        self._sides = {Model.SLM: _Side(slm), Model.LLM: _Side(llm)}
        self._changed = asyncio.Condition()
        self._matching = asyncio.Lock()
        self._vocabularies: Vocabularies | None = None
        self._matched: dict[Model, _Matched] = {}  # what these were made of
        self.mismatch: RstitchError | None = None

    @property
    def ready(self) -> bool:
        """Whether both workers were seen and can be stitched; one of them may be away at the moment."""
        return self._vocabularies is not None and self.mismatch is None

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
    def _waits_for(self) -> str:
        """What is waited for, in the words of an error: without addresses."""
        missing = [model.name for model, side in self._sides.items() if not side.answers]
        return f"it waits for the worker of the {' and of the '.join(missing)}" if missing else "the models are matched"

    @property
    def vocabularies(self) -> Vocabularies:
        """Both models' vocabularies. Raises RstitchError (UNAVAILABLE) while they are not known."""
        self.check_ready()
        assert self._vocabularies is not None
        return self._vocabularies

    @property
    def told(self) -> str:
        """How the vocabularies were matched, in one line; "" until they are."""
        return self._vocabularies.matching.told if self._vocabularies is not None else ""

    def is_current(self, vocabularies: Vocabularies) -> bool:
        """Whether these are still those of the two workers."""
        return self._vocabularies is vocabularies

    def context_lengths(self) -> Mapping[Model, int]:
        """The most tokens of a session, by the model that reads it."""
        self.check_ready()
        return {model: side.info.context_length for model, side in self._sides.items() if side.info is not None}

    def check_ready(self) -> None:
        """Raises RstitchError (UNAVAILABLE) unless questions can be taken."""
        if self.mismatch is not None:
            raise self.mismatch
        if self._vocabularies is None:
            what, remedy = f"the router is not ready: {self._waits_for}.", "Try again when its health says SERVING."
            raise RstitchError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", what, remedy=remedy, retry_after_s=1.0)

    def client(self, model: Model) -> WorkerClient:
        return self._sides[model].client

    def info(self, model: Model) -> WorkerInfo | None:
        """What the worker last said of itself; None before it answered."""
        return self._sides[model].info

    def names(self) -> dict[Model, str]:
        """The models' names, "" for one that was not seen yet."""
        return {model: side.info.model if side.info else "" for model, side in self._sides.items()}

    def status(self, model: Model) -> tuple[bool, str]:
        """Whether the worker answers, and what it waits for if not; of one that answered last, whether it is silent."""
        side = self._sides[model]
        if not side.answers:
            return False, side.detail
        is_silent = side.asked_at is not None and asyncio.get_running_loop().time() - side.asked_at > _SILENT_S
        return True, _NO_ANSWER if is_silent else ""

    async def wait_ready(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.ready)

    async def wait_change(self) -> None:
        async with self._changed:
            await self._changed.wait()

    async def wait_usable(self, model: Model, timeout_s: float, *, suspect: bool = False) -> None:
        """Returns when the worker answers and has the pair's tokenizer; a suspect one is looked at first.

        Raises RstitchError (UNAVAILABLE) after the timeout, at once if what it came back as cannot be stitched.
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
            raise worker_unavailable(model) from None
        if self.mismatch is not None:
            raise self.mismatch

    async def monitor(self) -> None:
        async with asyncio.TaskGroup() as group:
            for model in Model:
                group.create_task(self._monitor(model), name=f"monitor-{model.label}")

    async def forget(self, name: str) -> None:
        """Closes a session on both workers. Best effort: what one holds of a forgotten session is evicted anyway."""
        closing = [client.close_session(name) for client in map(self.client, Model)]
        for model, error in zip(Model, await asyncio.gather(*closing, return_exceptions=True), strict=True):
            if isinstance(error, RstitchError):
                _log.info("session not closed on worker", role=model.label, error=str(error), **facts_of(name))
            elif error is not None:
                raise error

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
                is_silent = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
                detail = _NO_ANSWER if is_silent else f"{error.code.name.lower()}: {error.message}"
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
        side.asked_at = asyncio.get_running_loop().time()
        try:
            info = await side.client.info()
        finally:
            side.asked_at = None
        if side.info is None or side.info.instance_id != info.instance_id:
            if info.role is not None and info.role is not model:
                what = f"it says that it is the {info.role.name}"
                raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_ROLE", what)
            files = await side.client.tokenizer()
            _log.info("worker found", role=model.label, address=side.client.address, model=info.model)
            side.info, side.files = info, files
            side.answers, side.detail = False, "its tokenizer is being read"
            try:
                await self._match()
            except RstitchError:
                side.info = None  # to be looked at again
                raise
        side.answers, side.detail = True, ""

    async def _match(self) -> None:
        """Called when a worker is new: finds out how the two vocabularies belong together."""
        async with self._matching:
            sides = {model: _Matched.of(side) for model, side in self._sides.items()}
            found = {model: side for model, side in sides.items() if side is not None}
            if len(found) < len(sides):
                return
            if found == self._matched:  # big ones take long to read
                self.mismatch = None
                return
            names = self.names()
            # What comes now is not what there was: until it is matched nobody is to trust the worker in the old ids.
            self._vocabularies, self._matched = None, {}
            try:
                made = await asyncio.to_thread(_vocabularies, found[Model.SLM], found[Model.LLM])
            except RstitchError as error:
                if error.reason != "TOKENIZER_MISMATCH":
                    raise
                self.mismatch = error
                _log.error(
                    "models cannot be stitched", detail=error.message, slm=names[Model.SLM], llm=names[Model.LLM]
                )
                return
            self.mismatch, self._vocabularies, self._matched = None, made, found
            _log.info("vocabularies matched", how=made.matching.told)


@dataclass(frozen=True, slots=True)
class _Matched:
    """What the vocabulary of a side is made of."""

    files: TokenizerFiles
    size: int
    stop_tokens: frozenset[int]
    fingerprint: str

    @classmethod
    def of(cls, side: _Side) -> _Matched | None:
        info = side.info
        if info is None or side.files is None:
            return None
        return cls(side.files, info.vocab_size, info.stop_tokens, info.fingerprint)

    def vocabulary(self, tokenizer: Tokenizer) -> Vocabulary:
        return Vocabulary(tokenizer, self.size, self.stop_tokens, self.fingerprint)


def _vocabularies(slm: _Matched, llm: _Matched) -> Vocabularies:
    """Reads the tokenizers and matches them; one object where they do not differ in anything."""
    style = llm.files.early_exit.over(slm.files.early_exit)
    # A model without a template is given the other's.
    templates = llm.files if llm.files.has_template else slm.files
    files = [
        replace(
            own if own.has_template else replace(templates, data=own.data, special_tokens=own.special_tokens),
            early_exit=style,
        )
        for own in (slm.files, llm.files)
    ]
    of_llm = Tokenizer(files[1])
    of_slm = of_llm if files[0] == files[1] else Tokenizer(files[0])
    if templates.has_template:
        render_process.warm_up()
    try:
        return Vocabularies.of(slm.vocabulary(of_slm), llm.vocabulary(of_llm))
    except RstitchError:
        raise
    except Exception as error:  # whatever the library raises of a file that it could read
        _log.error("tokenizers cannot be compared", exc_info=error)
        what = "the two tokenizers cannot be compared; the router's log says why"
        remedy = "Give the workers model folders whose tokenizer.json are sound."
        raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "BAD_TOKENIZER", what, remedy=remedy) from error


def worker_unavailable(model: Model) -> RstitchError:
    """UNAVAILABLE: the patience with a worker is at its end. Where it is and why, the log and GetStatus say."""
    what = f"the {model.name}'s worker does not answer."
    remedy = "Start it again, then re-attach with resume_from."
    return RstitchError(grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE", what, remedy=remedy, retry_after_s=1.0)
