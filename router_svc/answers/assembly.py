"""Puts together all that writes one answer, once its session is ours. Nothing here waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from router_svc.access.account import Admission
from router_svc.answers.events import context_of
from router_svc.answers.log import AnswerLog, chunks_of_answer
from router_svc.answers.preparation import Prepared, Ready
from router_svc.decoding.answer import Answer
from router_svc.decoding.early_exit import Exits
from router_svc.decoding.endings import Endings
from router_svc.decoding.follower import Follower
from router_svc.decoding.loop import Decoding
from router_svc.decoding.recovery import Recovery
from router_svc.decoding.speculation import Speculation
from router_svc.decoding.trials import Trials
from router_svc.observers.trace import GenerationTrace
from router_svc.policies.kinds import Learned, Speculative
from router_svc.settings import RouterSettings
from router_svc.text.answer_text import AnswerText
from router_svc.text.session_tokens import SessionTokens
from router_svc.trajectory.journal import Journal
from router_svc.trajectory.session_names import id_in
from router_svc.trajectory.store import Owned, TrajectoryStore
from router_svc.trajectory.types import Model
from router_svc.workers.accounting import Accounting
from router_svc.workers.bound import BoundSession
from router_svc.workers.fleet import Fleet
from router_svc.workers.manner import Manner
from router_svc.workers.runs import Grammar, SessionKey
from router_svc.workers.session import BackgroundWork, WorkerSession
from rstitch.service.head import Head


@dataclass(frozen=True, slots=True)
class ClaimedAnswer:
    """A session that is ours and what is to be written in it: all that assembly needs, and nothing that waits."""

    name: str  # of the session
    ready: Ready
    owned: Owned
    bound: BoundSession
    resumes: bool  # the workers presumably hold all of it; else what was there before the prompt
    trace: GenerationTrace
    admission: Admission


@dataclass(frozen=True, slots=True)
class Writing:
    """What writes one answer: the loop, and all that must be closed or told when it ends."""

    name: str  # of the session
    log: AnswerLog
    loop: Decoding | Speculation
    journal: Journal
    workers: dict[Model, WorkerSession]
    bound: BoundSession
    accounting: Accounting
    trace: GenerationTrace
    admission: Admission


@dataclass(frozen=True, slots=True)
class Assembly:
    """Assembles answers over one fleet of workers and one store; `clock` is monotonic, in s."""

    settings: RouterSettings
    fleet: Fleet
    store: TrajectoryStore
    background: BackgroundWork
    clock: Callable[[], float]

    def assemble(self, claimed: ClaimedAnswer, started: float, claim_s: float) -> Writing:
        """Makes what writes the answer, for a request that came at `started`; its journal's task starts at once."""
        settings, trace = claimed.ready.prepared.settings, claimed.trace
        vocabularies, session = claimed.ready.prepared.vocabularies, claimed.ready.session
        tokens = session.tokens
        written = chunks_of_answer(claimed.ready.chunks, settings.start)
        tokenizers = vocabularies.answer_tokenizers
        context = context_of(claimed.ready.chunks, settings.start, tokenizers)
        log = AnswerLog(id_in(claimed.name), settings, context, tokenizers, written)
        # Stop strings look at every token's text, which costs; without them readers alone detokenise.
        text = AnswerText(tokenizers, context, settings.stop) if settings.stop else None
        # The journal first: it copies the usage that the store has, and the accounting then adds the claim to it.
        journal = Journal(self.store, claimed.name, claimed.owned, len(tokens), claimed.ready.usage, log.show)
        accounting = Accounting(claimed.ready.usage, started, claim_s, self.clock)
        accounting.counts_reuse = not (claimed.resumes or vocabularies.is_through_text)
        endings = Endings(vocabularies.ends(settings.stop_token_ids), text)
        for chunk in written:
            endings.read(chunk.tokens, chunk.source.model)
        answer = Answer(settings, session, claimed.ready.chunks, endings, journal, trace, accounting)
        bound = claimed.bound
        bound.begin(partial(self.store.rebinding.bind, claimed.name, claimed.owned.owner, claimed.owned.epoch))
        # Each reads its view of the session, which the answer alone makes grow.
        workers = {
            model: WorkerSession(
                bound.client(model),
                SessionKey(claimed.name, settings.cache_salt),
                view,
                (len(view.tokens) if claimed.resumes else view.num_kept_before) if bound.holds(model) else 0,
                self._manner(model, claimed.ready.prepared, session, endings),
                accounting,
                self.background,
            )
            for model, view in session.views.items()
        }
        patience_s = (self.settings.worker_patience_s, self.settings.capacity_patience_s)
        recovery = Recovery(self.fleet, bound, vocabularies, *patience_s)
        follower = Follower(answer, workers, recovery, trace, accounting)
        rules, has_exited = claimed.ready.prepared.exit_rules, claimed.ready.usage.exit_position > 0
        exits = Exits(rules, session, settings.start, has_exited) if rules is not None else None
        trials = Trials(exits, answer, follower, trace, accounting)
        loop: Decoding | Speculation
        if isinstance(settings.policy, Speculative):
            loop = Speculation(settings, answer, follower, trials, trace, accounting)
        else:
            loop = Decoding(answer, follower, trials, accounting, self._head_asked_here(claimed.ready.prepared))
        trace.describe(claimed.name, claimed.owned.epoch, settings, self.fleet.names())
        claimed.admission.begin(claimed.ready.usage, 0 if claimed.resumes else len(claimed.ready.chunks[-1].tokens))
        return Writing(claimed.name, log, loop, journal, workers, bound, accounting, trace, claimed.admission)

    def _manner(self, model: Model, prepared: Prepared, session: SessionTokens, endings: Endings) -> Manner:
        """How all runs of the answer on a worker are."""
        vocabularies, view, sampling = prepared.vocabularies, session.views[model], prepared.settings.sampling
        # Both draw by the LLM's positions: a draft of the SLM is then drawn as the LLM would draw it.
        draws_alike = sampling.temperature > 0 and not vocabularies.is_through_text
        offset = session.views[Model.LLM].start - view.start if draws_alike else 0
        stops = endings.stop_tokens[model]
        is_own = view.own_ends(stops) == vocabularies.sides[model].stop_tokens
        masked = vocabularies.matching.masked[model]
        size = vocabularies.sides[model].size
        biases = tuple(
            (own, bias)
            for token, bias in sampling.logit_bias
            for own in (vocabularies.ends_of_slm([token]) if model is Model.SLM else [token])
            if own < size
        )
        return Manner(
            replace(sampling, logit_bias=biases),
            prepared.context_lengths[model],
            position_offset=offset,
            masked_tokens=masked,
            penalized_from=view.start if sampling.penalizes else 0,
            top_logprobs=prepared.settings.top_logprobs or 0,
            stop_tokens=frozenset() if is_own else stops,
            grammar=Grammar(own.json_schema, view.start, own.thinking_end, own.thinking_begin)
            if (own := prepared.settings).json_schema
            else None,
        )

    def _head_asked_here(self, prepared: Prepared) -> Head | None:
        """The head that this router consults; None if there is none, or the SLM's worker does, for which it is kept."""
        policy = prepared.settings.policy
        if prepared.head is None or not isinstance(policy, Learned):  # the guard may have chosen another policy
            return None
        if not policy.in_worker:
            return prepared.head.head
        self.fleet.keep_head(Model.SLM, prepared.head.full_name, prepared.head.head.data)
        return None
