"""Settles what a question leaves open: its prompt in tokens, its head, its seed, the tokens of early exit.

All of it can be done before the session is claimed. Whatever may take long runs off the event loop.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import grpc

from router_svc.answers.apart import Apart
from router_svc.answers.plain import check_plain
from router_svc.answers.prompts import Prompt, budget_for, check_size, make_prompt
from router_svc.answers.request import Question, Tokens
from router_svc.answers.schemas import check_pair, thinking_marks
from router_svc.decoding.early_exit import ExitRules, settle
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.early_exit import EarlyExit, ExitStyle
from router_svc.policies.heads import NamedHead
from router_svc.policies.kinds import Learned, Random, Speculative
from router_svc.policies.policy import Policy
from router_svc.policies.stored_heads import StoredHeads
from router_svc.settings import RouterSettings
from router_svc.text.session_tokens import SessionTokens
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.consultations import num_bytes
from router_svc.trajectory.session_names import salt_of
from router_svc.trajectory.types import Chunk, Model, Sampling, Source, Trajectory, entropies_of
from router_svc.trajectory.usage import Usage
from router_svc.workers.fleet import Fleet
from rstitch.errors import RstitchError, invalid
from rstitch.limits import MAX_CONSULTATION_BYTES
from rstitch.service.head_features import LOOKING_BACK, num_numbers
from rstitch.service.schema_trial import check_schema


@dataclass(frozen=True, slots=True)
class Decided:
    """A question, and what was found for it: the policy that it has now, its head, and why the guard chose it."""

    question: Question
    head: NamedHead | None
    guard_reason: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """An answer's settings, which any router can go on with, and what they name in this process."""

    settings: AnswerSettings
    vocabularies: Vocabularies  # that the answer is written in
    context_lengths: Mapping[Model, int]  # the most tokens that each model reads
    head: NamedHead | None
    exit_rules: Mapping[Model, ExitRules] | None  # by author


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer that can be written as soon as its session is claimed."""

    prepared: Prepared
    chunks: list[Chunk]  # the trajectory, with the new prompt as its last if there is one
    session: SessionTokens  # the same as the models read it
    usage: Usage


@dataclass(frozen=True, slots=True)
class Preparation:
    """Prepares answers with this router's settings, models and heads. Its methods raise RstitchError.

    `load_price` says what a token of the LLM costs an answer that begins now, over what it costs one alone; `apart`
    makes what takes a text.
    """

    settings: RouterSettings
    fleet: Fleet
    heads: StoredHeads
    load_price: Callable[[], float]
    apart: Apart = field(default_factory=Apart)

    async def settle_policy(self, policy: Policy, session_id: str) -> tuple[Policy, NamedHead | None]:
        """Fills in the seed of a coin, or version, gate, place and price of a head; and finds the head."""
        if isinstance(policy, Random) and policy.seed is None:
            return replace(policy, seed=zlib.crc32(session_id.encode())), None
        if not isinstance(policy, Learned):
            return policy, None
        head = await self.heads.get(policy.head)
        facts = head.head.facts
        price = self.load_price() if policy.price_by_load else policy.price
        # A worker that is too old for terms would ask the head without them: then it is asked here.
        slm = self.fleet.info(Model.SLM)
        knows_terms = slm is None or slm.head_terms
        return replace(
            policy,
            head=head.full_name,
            tau=facts.tau if policy.tau is None else policy.tau,
            in_worker=self.settings.head_in_worker and knows_terms,
            price=price if price != 1.0 else None,
            price_by_load=False,  # it is found now, and stays: as a policy to ask with, this gives the same answer
            looks_back=not LOOKING_BACK.isdisjoint(facts.features),
        ), head

    async def prompt(self, question: Question, vocabularies: Vocabularies, before: Trajectory | None) -> Prompt:
        """Makes the prompt of each model."""
        if before is not None:
            check_same(AnswerSettings.from_json(before.header.settings), vocabularies)
        own, most = self.settings.prompt == "own", self.fleet.context_lengths()
        if isinstance(question.input, Tokens):
            check_size(len(question.input.ids), most)

        def make() -> Prompt:
            if self.settings.special_tokens_in_text == "refuse":
                check_plain(question.input, vocabularies)
            return make_prompt(question.input, vocabularies, before, most, each_its_own=own)

        if question.json_schema:
            await self.apart.make_schema(lambda: check_schema(question.json_schema, "json_schema"))
        return await self.apart.make(make, question.num_bytes)

    async def ready(self, decided: Decided, before: Trajectory | None, traceparent: str) -> Ready:
        """Makes ready the answer to a question, behind what was there before it."""
        question, head, guard_reason = decided.question, decided.head, decided.guard_reason
        vocabularies = self.fleet.vocabularies  # once: a worker may come back as another model meanwhile
        prompt = await self.prompt(question, vocabularies, before)
        length = before.header.length if before is not None else 0
        start = length + len(prompt.tokens)
        prepared = await self.prepare(question, vocabularies, prompt, start, head, guard_reason, traceparent)
        chunk = Chunk(Source.PROMPT, length, prompt.tokens, entropies_of(), notes=prompt.notes)
        chunks = [*(before.chunks if before is not None else ()), chunk]
        return Ready(prepared, chunks, await read_session(chunks, vocabularies), Usage(num_prompt_tokens=start))

    async def ready_again(self, trajectory: Trajectory) -> Ready:
        """Makes ready what is left of a session's last answer."""
        header, vocabularies = trajectory.header, self.fleet.vocabularies
        settings = AnswerSettings.from_json(header.settings)
        prepared = await self.prepare_again(settings, vocabularies, header.session_id)
        chunks = list(trajectory.chunks)
        # Counted on: what the router before spent belongs to the same answer.
        return Ready(prepared, chunks, await read_session(chunks, vocabularies), header.usage.copy())

    async def prepare(
        self,
        question: Question,
        vocabularies: Vocabularies,
        prompt: Prompt,
        start: int,
        head: NamedHead | None,
        guard_reason: str,
        traceparent: str,
    ) -> Prepared:
        """Completes a question whose policy is settled and whose answer will begin at position `start`."""
        vocabularies.check_ids("stop_token_ids", question.stop_token_ids)
        check_policy(question.policy, vocabularies)
        check_bias(question.sampling, vocabularies)
        marks = ("", "")
        if question.json_schema:
            check_pair(vocabularies, map(self.fleet.info, Model))
            default_end = self.settings.early_exit_thinking_end
            marks = thinking_marks(vocabularies.tokenizer(Model.LLM), prompt.tokens, default_end)
        rules = await self._exit_rules(question.early_exit, vocabularies)
        wanted, default = question.max_new_tokens, self.settings.max_new_tokens
        context_lengths = self.fleet.context_lengths()
        settings = AnswerSettings(
            policy=question.policy,
            sampling=question.sampling,
            max_new_tokens=budget_for(prompt, wanted, default, context_lengths),
            stop=question.stop,
            start=start,
            traceparent=traceparent,
            guard_reason=guard_reason,
            budget=question.budget,
            profile=question.profile,
            early_exit=rules[Model.LLM].settings if rules is not None else None,
            cache_salt=salt_of(question.tenant, question.cache_salt),
            stop_token_ids=question.stop_token_ids,
            keep_consultations=_num_kept(question.keep_consultations, head),
            top_logprobs=question.top_logprobs,
            stops_unread=self._stops_unread(question),
            request_id=question.request_id,
            json_schema=question.json_schema,
            thinking_begin=marks[0],
            thinking_end=marks[1],
            vocabularies=vocabularies.key,
        )
        return Prepared(settings, vocabularies, context_lengths, head, rules)

    def _stops_unread(self, question: Question) -> bool:
        return self.settings.on_disconnect == "stop" if question.stops_unread is None else question.stops_unread

    async def prepare_again(self, settings: AnswerSettings, vocabularies: Vocabularies, session_id: str) -> Prepared:
        """Finds what the settings of a broken-off answer name."""
        check_same(settings, vocabularies)
        policy, head = await self.settle_policy(settings.policy, session_id)
        rules = await self._exit_rules(settings.early_exit, vocabularies)
        kept = _num_kept(settings.keep_consultations, head)
        settings = replace(settings, policy=policy, keep_consultations=kept)
        return Prepared(settings, vocabularies, self.fleet.context_lengths(), head, rules)

    async def _exit_rules(
        self, asked: EarlyExit | None, vocabularies: Vocabularies
    ) -> Mapping[Model, ExitRules] | None:
        if asked is None:
            return None
        own = self.settings
        style = ExitStyle(
            tuple(own.early_exit_boundaries), own.early_exit_prompt, own.early_exit_end, own.early_exit_thinking_end
        )
        # All tokens of the vocabulary are looked through.
        return await asyncio.to_thread(settle, asked, style, vocabularies)


def _num_kept(wanted: int, head: NamedHead | None) -> int:
    """How many consultations of a head are kept of those wanted: they fit into one message."""
    if head is None:
        return wanted
    facts = head.head.facts
    return min(wanted, math.ceil(MAX_CONSULTATION_BYTES / num_bytes(facts.hidden_size, num_numbers(facts.features))))


async def read_session(chunks: Sequence[Chunk], vocabularies: Vocabularies) -> SessionTokens:
    """A session as both models read it; through text that takes its time."""
    if vocabularies.is_through_text:
        return await asyncio.to_thread(SessionTokens, chunks, vocabularies)
    return SessionTokens(chunks, vocabularies)


def is_kept_in(settings: AnswerSettings, vocabularies: Vocabularies) -> bool:
    """Whether a session with these settings is kept in these vocabularies."""
    return settings.vocabularies in ("", vocabularies.key)  # "": by an older router, which had one kind of pair


def check_same(settings: AnswerSettings, vocabularies: Vocabularies) -> None:
    """Raises RstitchError (FAILED_PRECONDITION) if a session is kept in other ids than the two models now have."""
    if not is_kept_in(settings, vocabularies):
        what = "the session was written by models with other vocabularies than those that are served now."
        remedy = "Serve the models that it was begun with, or begin a new session."
        code = grpc.StatusCode.FAILED_PRECONDITION
        raise RstitchError(code, "OTHER_VOCABULARY", what, field="session_id", remedy=remedy)


def check_bias(sampling: Sampling, vocabularies: Vocabularies) -> None:
    """Raises RstitchError, naming the field, for a bias of what is no token of the LLM or cannot be both models'."""
    size = vocabularies.sides[Model.LLM].size
    for token, _ in sampling.logit_bias:
        if vocabularies.is_through_text:
            what = "the two models have no token ids in common."
            raise invalid("sampling.logit_bias", what, "Leave it out, or use a pair of one family.")
        if token >= size:
            what = f"token id {token} is outside the vocabulary of {size}."
            raise invalid(
                f"sampling.logit_bias[{token}]", what, f"Send ids below {size}, made with the LLM's tokenizer."
            )


def check_policy(policy: Policy, vocabularies: Vocabularies) -> None:
    """Raises RstitchError, naming the field, for a policy that such a pair cannot be written by."""
    if isinstance(policy, Speculative) and vocabularies.is_through_text:
        what = "the LLM cannot verify a draft: the two models have no token ids in common."
        raise invalid("policy.speculative", what, "Use threshold, or a pair of one family.")
