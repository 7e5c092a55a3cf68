"""An answer as it stands: what is kept, who wrote it, and whether it is complete. It starts no run.

Whatever becomes part of an answer goes through `Answer.keep`: into the session's tokens, the policy's history, the
journal, the trace and the usage, at one moment, so that these never tell different stories.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from router_svc.decoding.endings import Endings
from router_svc.observers.trace import GenerationTrace
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.bounded import within
from router_svc.policies.policy import History, Policy
from router_svc.policies.whole_characters import WholeCharacters
from router_svc.text.session_tokens import SessionTokens
from router_svc.trajectory.consultations import Consultation
from router_svc.trajectory.details import details_of, pack_details
from router_svc.trajectory.journal import Journal
from router_svc.trajectory.types import Chunk, FinishReason, Model, Source, SwitchReason, entropies_of, tokens_of
from router_svc.workers.accounting import Accounting
from router_svc.workers.runs import Reply
from router_svc.workers.session import WorkerSession

_NO_SWITCH = (SwitchReason.NONE, 0.0)


class Answer:
    """One answer being written: the `session`'s tokens and the answer's `history` grow.

    The chunks are the trajectory so far: the prompt at least, and where another router broke off. `endings` have read
    what there is of the answer.
    """

    def __init__(
        self,
        settings: AnswerSettings,
        session: SessionTokens,
        chunks: Sequence[Chunk],
        endings: Endings,
        journal: Journal,
        trace: GenerationTrace,
        accounting: Accounting,
    ) -> None:
        policy = within(settings.policy, settings.budget)
        self.policy: Policy = WholeCharacters(policy) if session.through_text else policy
        self.tokens = session.tokens  # the session's; an answer's in the answer's ids
        self.history = History(settings.start, usage=accounting.usage)
        self.traceparent = ""  # of the open segment's span
        self._session = session
        self._settings = settings
        self._endings = endings
        self._journal = journal
        self._trace = trace
        self._accounting = accounting
        self._last = next(chunk for chunk in reversed(chunks) if chunk.tokens)
        # Why the open segment began, until its first chunk has said so. A segment is a run of tokens by one model; the
        # boundary of two is a switch:
        #
        #   chunks   SLM.entropy_above [tokens] | SLM [more tokens] | LLM.entropy_below [tokens] | ...
        #            ^ only a segment's first chunk carries a reason, and it may be empty
        self._opening = _NO_SWITCH
        # What a head was asked for tokens that are not kept yet, and how many of its answers the trajectory has.
        self._asked: list[Consultation] = []
        self._num_kept_consultations = 0
        self.history.segment_start = settings.start
        for chunk in chunks:
            if chunk.position < settings.start or chunk.source is Source.PROMPT:
                continue
            self._num_kept_consultations += len(chunk.consultations)
            if chunk.reason:
                self.history.segment_start = chunk.position
            if chunk.tokens:
                self.history.grow(chunk.entropies, chunk.uncertainties)
        self.history.mid_character = session.mid_character

    @property
    def end(self) -> FinishReason | None:
        """Why the tokens kept are a whole answer, if they are; also where the run that wrote them could not say so."""
        author = self.last_writer
        if author is not None and self.tokens[-1] in self.stop_tokens(author):
            return FinishReason.STOP
        if self._endings.has_stop_string:
            return FinishReason.STOP_STRING
        return FinishReason.LENGTH if self.num_left <= 0 else None

    @property
    def last_writer(self) -> Model | None:
        """The author of the last token; None before the first."""
        return None if self._last.source is Source.PROMPT else self._last.source.model

    @property
    def num_left(self) -> int:
        return self._settings.max_new_tokens - (len(self.tokens) - self._settings.start)

    def num_left_for(self, writer: Model) -> int:
        left = self.policy.tokens_left(writer, self.history)
        return self.num_left if left is None else min(self.num_left, left)

    def stop_tokens(self, author: Model) -> frozenset[int]:
        """Tokens with which the answer ends where `author` wrote them."""
        return self._endings.stop_tokens[author]

    def segment_is_empty(self, writer: Model) -> bool:
        return self._opening is not _NO_SWITCH or self._last.source is not writer.source

    def first_writer(self) -> Model | None:
        """Opens a segment for whoever writes first; None: nobody, the budget of a broken-off answer is spent.

        That is whom the policy says or, where an answer was broken off, whom its last token says.
        """
        broken_off = self.last_writer
        writer = self.policy.first_writer(self.history) if broken_off is None else broken_off
        self._open(writer, SwitchReason.NONE, 0.0)
        return writer if broken_off is None else self.next_writer(writer)

    def next_writer(self, writer: Model) -> Model | None:
        """Who writes after a run of `writer` that did not say: whom its last token says, if it kept one.

        Returns: None where the answer ends there because its budget is spent.
        """
        if self.segment_is_empty(writer) or self.end is not None:
            return writer
        # A worker's word and this rule agree: both compare the same float32 values. So it does not matter which of them
        # a router that takes over has to go by.
        following = self.policy.next_writer(writer, self.history)
        return self.switch(writer) if following is writer.other else following

    def keep(self, writer: Model, reply: Reply, holder: WorkerSession | None) -> bool:
        """Keeps tokens, at least one, up to one that completes a stop string; returns whether one does.

        A proposal has no `holder`: its worker has dropped it.
        """
        # Tokens behind a stop string are nobody's: the worker that holds them drops them at its next run.
        num = self._endings.read(reply.tokens, writer)
        if num < len(reply.tokens):
            reply = reply.part(0, num)
        tokens, entropies = tokens_of(reply.tokens), entropies_of(reply.entropies)
        uncertainties = entropies_of(reply.uncertainties)
        beside = self._take_asked(num), self._details(reply, num)
        chunk = self._next_chunk(writer, tokens, entropies, uncertainties, *beside)
        self._session.keep(writer, tokens)
        self._last = chunk
        self.history.grow(entropies, uncertainties)
        self.history.mid_character = self._session.mid_character
        self._trace.add_kept(num, holder.confirm_kept(num) if holder is not None else 0)
        self._accounting.count_kept(writer, num)
        # Last, since it takes a copy of the usage: what is stored beside a token counts that token.
        self._journal.add(chunk, self._accounting.usage)
        return self._endings.has_stop_string

    def switch(self, writer: Model, value: float | None = None, reason: SwitchReason | None = None) -> Model:
        """`writer` hands over, by the signal's value (default: at the last token kept). Returns the new writer."""
        value = self.history.uncertainty if value is None else value
        reason = self.policy.switch_reason(writer, self.history) if reason is None else reason
        self._accounting.count_switch()
        if self.segment_is_empty(writer):
            # Readers hear of every switch: a writer that kept nothing leaves an empty chunk.
            chunk = self._next_chunk(writer, tokens_of(), entropies_of(), entropies_of())
            self._journal.add(chunk, self._accounting.usage)
        self._open(writer.other, reason, 0.0 if reason in (SwitchReason.COIN, SwitchReason.BUDGET) else value)
        return writer.other

    def forget_opening(self) -> None:
        """The answer ends before the open segment has a token: nobody will hear of the switch to it."""
        if self._opening[0]:
            self._accounting.count_switch(-1)

    @property
    def keeps_consultations(self) -> bool:
        """Whether what a head is asked next is kept with the trajectory."""
        return len(self._asked) < self.num_consultations_left

    @property
    def num_consultations_left(self) -> int:
        """How many of those asked for tokens that are not kept yet can be kept with them."""
        return self._settings.keep_consultations - self._num_kept_consultations

    def note_consultations(self, consultations: Sequence[Consultation]) -> None:
        """Takes what a head was asked, each before its token; it is kept with that token, up to the bound."""
        for asked in consultations:
            # A round that failed asks again from its first token that was not kept.
            while self._asked and self._asked[-1].position >= asked.position:
                self._asked.pop()
            if asked.position >= len(self.tokens) and self.keeps_consultations:
                self._asked.append(asked)

    def forget_asked(self) -> None:
        """Forgets what was asked for the next token: the answer does not follow it."""
        self._asked.clear()

    def _details(self, reply: Reply, num_tokens: int) -> bytes:
        """What is told of the next tokens, packed, if that was asked for."""
        top_logprobs = self._settings.top_logprobs
        if top_logprobs is None:
            return b""
        index = len(self.tokens) - self._settings.start
        return pack_details(details_of(reply.logprobs[:num_tokens], reply.alternatives, index, top_logprobs))

    def _take_asked(self, num_tokens: int) -> tuple[Consultation, ...]:
        """What was asked for the next tokens, which are about to be kept."""
        if not self._asked:
            return ()
        end = len(self.tokens) + num_tokens
        taken = tuple(asked for asked in self._asked if asked.position < end)
        del self._asked[: len(taken)]
        self._num_kept_consultations += len(taken)
        self._accounting.count_kept_consultations(len(taken))
        return taken

    @property
    def has_room(self) -> bool:
        """Whether `wait_for_room` would not wait."""
        return self._journal.has_room

    async def wait_for_room(self) -> float:
        """Waits until the journal can take more. Returns for how long, in s."""
        if self._journal.has_room:
            return 0.0
        since = self._accounting.now()
        await self._journal.room()
        return self._accounting.waited_for_store(since)

    def _open(self, writer: Model, reason: SwitchReason, value: float) -> None:
        self._opening = (reason, value) if reason else _NO_SWITCH
        if reason or self.last_writer is None:  # else a segment that was broken off goes on
            self._session.begin_segment(writer)
            self.history.segment_start = len(self.tokens)
            self.history.mid_character = False
        bound = self.policy.bound(writer.other if reason else Model.SLM)
        self.traceparent = self._trace.begin_segment(writer, len(self.tokens), reason, value, bound)

    def _next_chunk(
        self,
        writer: Model,
        tokens: array[int],
        entropies: array[float],
        uncertainties: array[float],
        asked: tuple[Consultation, ...] = (),
        details: bytes = b"",
    ) -> Chunk:
        reason, value = self._opening
        self._opening = _NO_SWITCH
        told = writer.source, len(self.tokens), tokens, entropies, reason, value, uncertainties
        return Chunk(*told, consultations=asked, details=details)
