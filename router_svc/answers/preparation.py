"""Settles what a question leaves open: its prompt in tokens, its head, its seed, the tokens of early exit.

All of it can be done before the session is claimed. Whatever may take long runs off the event loop.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from router_svc.answers.prompts import Prompt, budget_for, make_prompt
from router_svc.answers.request import Question
from router_svc.decoding.early_exit import ExitRules, settle
from router_svc.policies.answer_settings import AnswerSettings
from router_svc.policies.early_exit import EarlyExit, ExitStyle
from router_svc.policies.heads import Heads, NamedHead
from router_svc.policies.kinds import Learned, Random, Speculative
from router_svc.policies.policy import Policy
from router_svc.settings import RouterSettings
from router_svc.trajectory.types import Model, Trajectory
from router_svc.workers.pair import WorkerPair
from rstitch.errors import invalid


@dataclass(frozen=True, slots=True)
class Prepared:
    """An answer's settings, which any router can go on with, and what they name in this process."""

    settings: AnswerSettings
    head: NamedHead | None
    exit_rules: Mapping[Model, ExitRules] | None  # by author


@dataclass(frozen=True, slots=True)
class Preparation:
    """Prepares answers with this router's settings, models and heads. Its methods raise RstitchError."""

    settings: RouterSettings
    pair: WorkerPair
    heads: Heads

    async def settle_policy(self, policy: Policy, session_id: str) -> tuple[Policy, NamedHead | None]:
        """Fills in the seed of a coin, or version, gate and place of a head; and finds the head."""
        if isinstance(policy, Speculative) and self.pair.vocabularies.is_through_text:
            what = "the LLM cannot verify a draft: the two models have no token ids in common."
            raise invalid("policy.speculative", what, "Use threshold, or a pair of one family.")
        if isinstance(policy, Random) and policy.seed is None:
            return replace(policy, seed=zlib.crc32(session_id.encode())), None
        if not isinstance(policy, Learned):
            return policy, None
        head = await asyncio.to_thread(self.heads.get, policy.head)  # from a file, or fetched
        tau = head.head.facts.tau if policy.tau is None else policy.tau
        return Learned(head.full_name, tau, self.settings.head_in_worker), head

    async def prompt(self, question: Question, before: Trajectory | None) -> Prompt:
        """Makes the prompt of each model."""
        vocabularies, own = self.pair.vocabularies, self.settings.prompt == "own"
        # A long text takes its time.
        return await asyncio.to_thread(make_prompt, question.input, vocabularies, before, each_its_own=own)

    async def prepare(
        self,
        question: Question,
        prompt: Prompt,
        start: int,
        head: NamedHead | None,
        guard_reason: str,
        traceparent: str,
    ) -> Prepared:
        """Completes a question whose policy is settled and whose answer will begin at position `start`."""
        self.pair.vocabularies.check_ids("stop_token_ids", question.stop_token_ids)
        rules = await self._exit_rules(question.early_exit)
        wanted, default = question.max_new_tokens, self.settings.max_new_tokens
        settings = AnswerSettings(
            policy=question.policy,
            sampling=question.sampling,
            max_new_tokens=budget_for(prompt, wanted, default, self.pair.context_lengths()),
            stop=question.stop,
            start=start,
            traceparent=traceparent,
            guard_reason=guard_reason,
            budget=question.budget,
            profile=question.profile,
            early_exit=rules[Model.LLM].settings if rules is not None else None,
            cache_salt=question.cache_salt,
            stop_token_ids=question.stop_token_ids,
        )
        return Prepared(settings, head, rules)

    async def prepare_again(self, settings: AnswerSettings, session_id: str) -> Prepared:
        """Finds what the settings of a broken-off answer name."""
        policy, head = await self.settle_policy(settings.policy, session_id)
        return Prepared(replace(settings, policy=policy), head, await self._exit_rules(settings.early_exit))

    async def _exit_rules(self, asked: EarlyExit | None) -> Mapping[Model, ExitRules] | None:
        if asked is None:
            return None
        own = self.settings
        style = ExitStyle(
            tuple(own.early_exit_boundaries), own.early_exit_prompt, own.early_exit_end, own.early_exit_thinking_end
        )
        # All tokens of the vocabulary are looked through.
        return await asyncio.to_thread(settle, asked, style, self.pair.vocabularies)
