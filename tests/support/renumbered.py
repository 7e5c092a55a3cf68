"""Pairs whose models number one vocabulary differently, and Algorithm 1 for them.

Written from the files of both models with `tokenizers`, `transformers` and the naive reference: it owes nothing to how
the router matches vocabularies, renders prompts or keeps answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.algorithm.reference import NO_BUDGET, Answer, Budget, EarlyExit, Proposal, Rule, stitch
from evals.algorithm.uncached_model import UncachedModel
from rstitch.service.head import Head

Role = Literal["slm", "llm"]
Chat = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Prompt:
    """A prompt as each model has it; it begins behind so many tokens of answers and prompts of the LLM."""

    slm: list[int]
    llm: list[int]
    position: int = 0


@dataclass
class Reader:
    """A model that reads and writes an answer in the LLM's ids, by its own ids and with its own prompts."""

    model: UncachedModel
    to_own: Mapping[int, int]
    to_answer: Mapping[int, int]
    prompts: Sequence[tuple[int, int, list[int]]]  # position and length in the LLM's ids, and the model's own

    def own(self, tokens: Sequence[int]) -> list[int]:
        """Tokens of the session as the model reads it."""
        made: list[int] = []
        at = 0
        for position, length, prompt in self.prompts:
            made += [*(self.to_own[token] for token in tokens[at:position]), *prompt]
            at = position + length
        return [*made, *(self.to_own[token] for token in tokens[at:])]

    def next(self, tokens: Sequence[int]) -> Proposal:
        proposal = self.model.next(self.own(tokens))
        return proposal._replace(token=self.to_answer[proposal.token])

    def hidden_state(self, tokens: Sequence[int]) -> tuple[bytes, int]:
        """The model's state behind the session as it reads it, and how many tokens that are."""
        own = self.own(tokens)
        return self.model.hidden_state(own), len(own)

    def wants_llm(self, head: Head, tokens: Sequence[int]) -> bool:
        """What a head says of the session as the model reads it."""
        return head.wants_llm(*self.hidden_state(tokens))


@dataclass
class MappedPair:
    """Two model folders whose tokens have the same texts under other ids, or other special tokens.

    Attributes:
        slm_folder, llm_folder, dtype: as in `served.Pair`.
    """

    slm_folder: Path
    llm_folder: Path
    dtype: str
    _modules: dict[Role, Any] = field(default_factory=dict)

    def folder(self, role: Role) -> Path:
        return self.slm_folder if role == "slm" else self.llm_folder

    def tokenizer(self, role: Role) -> Any:
        return AutoTokenizer.from_pretrained(self.folder(role))

    def stops(self, role: Role) -> set[int]:
        told = self._config(role)["eos_token_id"]
        return set(told) if isinstance(told, list) else {told}

    @cached_property
    def vocabularies(self) -> dict[Role, dict[str, int]]:
        """Ids by spelling, of those tokens that the model has a row for."""
        made: dict[Role, dict[str, int]] = {}
        for role in ("slm", "llm"):
            num_rows = self._config(role)["vocab_size"]
            entries = Tokenizer.from_file(str(self.folder(role) / "tokenizer.json")).get_vocab().items()
            made[role] = {text: token for text, token in entries if token < num_rows}
        return made

    @cached_property
    def to_llm(self) -> dict[int, int]:
        """Of the SLM's ids: those spelled alike, and the one stop token for the other if they are not."""
        slm, llm = self.vocabularies["slm"], self.vocabularies["llm"]
        found = {token: llm[text] for text, token in slm.items() if text in llm}
        ours, theirs = self.stops("slm") - found.keys(), self.stops("llm") - set(found.values())
        if ours and theirs:
            found[min(ours)] = min(theirs)
        return found

    @cached_property
    def masked(self) -> dict[Role, list[int]]:
        """Ids that the other model has no counterpart for."""
        known: dict[Role, set[int]] = {"slm": set(self.to_llm), "llm": set(self.to_llm.values())}
        return {role: sorted(set(ids.values()) - known[role]) for role, ids in self.vocabularies.items()}

    @cached_property
    def stop_tokens(self) -> set[int]:
        """What ends an answer for either model, in the LLM's ids."""
        return self.stops("llm") | {self.to_llm[token] for token in self.stops("slm") if token in self.to_llm}

    def mapped(self, tokens: Sequence[int]) -> list[int]:
        """The SLM's ids for the LLM's."""
        to_slm = {theirs: ours for ours, theirs in self.to_llm.items()}
        return [to_slm[token] for token in tokens]

    def prompt(self, chat: Chat) -> Prompt:
        """A conversation by each model's own template."""
        slm, llm = (
            self.tokenizer(role).apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            for role in ("slm", "llm")
        )
        return Prompt(slm, llm)

    def next_prompt(self, turn: str, position: int, closes: bool) -> Prompt:
        """What follows an answer that ended with its stop token (not if it `closes`), up to where a next one begins."""
        made = []
        for role in ("slm", "llm"):
            tokenizer = self.tokenizer(role)
            answer, end = "ANSWER", tokenizer.eos_token
            chat = [{"role": "user", "content": "-"}, {"role": "assistant", "content": answer}]
            chat.append({"role": "user", "content": turn})
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            rest = text[text.index(answer) + len(answer) :]
            rest = rest if closes else rest.removeprefix(end)
            made.append(tokenizer(rest, add_special_tokens=False).input_ids)
        return Prompt(made[0], made[1], position)

    def tokens_prompt(self, tokens: list[int]) -> Prompt:
        """Tokens of the LLM as they are."""
        return Prompt(self.mapped(tokens), tokens)

    def reader(self, role: Role, prompts: Sequence[Prompt]) -> Reader:
        ids = self.vocabularies[role].values()
        model = UncachedModel(self._module(role), max(ids) + 1, self.masked[role])
        if role == "llm":
            same = {token: token for token in ids}
            return Reader(model, same, same, [])
        to_slm = {theirs: ours for ours, theirs in self.to_llm.items()}
        own = [(prompt.position, len(prompt.llm), prompt.slm) for prompt in prompts]
        return Reader(model, to_slm, self.to_llm, own)

    def stitched(
        self,
        prompts: Sequence[Prompt],
        rule: Rule,
        max_new_tokens: int,
        before: Sequence[int] = (),
        early_exit: EarlyExit | None = None,
        budget: Budget = NO_BUDGET,
    ) -> Answer:
        """Algorithm 1, naively, in the LLM's ids; `before` is what comes before the last of the prompts."""
        return stitch(
            self.reader("slm", prompts),
            self.reader("llm", prompts),
            [*before, *prompts[-1].llm],
            rule,
            max_new_tokens=max_new_tokens,
            stop_tokens=self.stop_tokens,
            early_exit=early_exit,
            budget=budget,
        )

    def _config(self, role: Role) -> dict[str, Any]:
        return json.loads((self.folder(role) / "config.json").read_text())

    def _module(self, role: Role) -> Any:
        if role not in self._modules:
            dtype = getattr(torch, self.dtype)
            self._modules[role] = AutoModelForCausalLM.from_pretrained(self.folder(role), dtype=dtype).eval()
        return self._modules[role]
