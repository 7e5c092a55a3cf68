"""What a client asks for, as the router's own values, and how it becomes a prompt that fits.

It knows neither wire nor store.
"""

from __future__ import annotations

from array import array
from collections.abc import Container, Sequence
from dataclasses import dataclass

import grpc

from router_svc.policies.budget import NO_BUDGET, Budget
from router_svc.policies.early_exit import EarlyExit
from router_svc.policies.policy import Policy
from router_svc.text.conversation import first_prompt, next_prompt
from router_svc.text.tokenizer import Tokenizer
from router_svc.text.turns import Answered, Turn
from router_svc.trajectory.types import Sampling, Trajectory
from rstitch.errors import RstitchError, invalid


@dataclass(frozen=True, slots=True)
class Text:
    """Raw text, continued as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages and what goes with them, put through the chat template."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids, taken as they are."""

    ids: array[int]


@dataclass(frozen=True, slots=True)
class Question:
    """A new answer is wanted."""

    session_id: str  # "" for a new one
    input: Text | Chat | Tokens
    policy: Policy
    sampling: Sampling
    max_new_tokens: int  # 0: the router's default, cut to what fits
    stop: tuple[str, ...]
    guard: bool | None = None  # whether the guard may choose another policy; None: the router's setting
    budget: Budget = NO_BUDGET
    profile: str = ""  # name of the profile that the policy came from
    early_exit: EarlyExit | None = None
    cache_salt: str = ""  # workers take over what they have computed under this one only
    stop_token_ids: tuple[int, ...] = ()  # end the answer beside the models' own; ids of the LLM


@dataclass(frozen=True, slots=True)
class Reattach:
    """An answer is wanted from a position on."""

    session_id: str
    resume_from: int


def prompt_of(
    asked: Text | Chat | Tokens,
    tokenizer: Tokenizer,
    vocab_size: int,
    before: Trajectory | None,
    ends: Container[int],
) -> array[int]:
    """The tokens to put behind the session so far; `ends` are those that end answers.

    Raises RstitchError for input that makes no tokens or unknown ones.
    """
    match asked:
        case Text(text):
            field, prompt = "text", tokenizer.encode(text, begins=before is None)
        case Chat(turn) if before is None:
            field, prompt = "chat", first_prompt(tokenizer, turn)
        case Chat(turn):
            assert before is not None
            read = before.tokens()
            # What was asked before is not stored yet, so that all of it counts as raw and stays.
            raw = Turn(answer=Answered(read[-1:], "", read[-1] in ends))
            field, prompt = "chat", next_prompt(tokenizer, [raw, turn], read, len(read)).tokens
        case Tokens(ids):
            field, prompt = "tokens.ids", ids
    if not prompt:
        raise invalid(field, "the prompt is empty.", "Send at least one token.")
    for index, token in enumerate(prompt):
        if token >= vocab_size:
            raise invalid(
                f"{field}[{index}]" if isinstance(asked, Tokens) else field,
                f"token id {token} is outside the vocabulary of {vocab_size}.",
                f"Send ids below {vocab_size}, made with the models' tokenizer.",
            )
    return prompt


def check_stop_token_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Raises RstitchError (field `stop_token_ids`) for an id that the LLM's vocabulary has not."""
    for index, token in enumerate(ids):
        if token >= vocab_size:
            raise invalid(
                f"stop_token_ids[{index}]",
                f"token id {token} is outside the vocabulary of {vocab_size}.",
                f"Send ids of the LLM below {vocab_size}.",
            )


def budget_for(num_tokens: int, max_new_tokens: int, default: int, context_length: int) -> int:
    """How many tokens may be written after `num_tokens`. Raises RstitchError (OUT_OF_RANGE) if too few."""
    left = context_length - num_tokens
    if left < max(1, max_new_tokens):
        wanted = f"{num_tokens} tokens of prompt" + (f" and {max_new_tokens} new ones" if max_new_tokens else "")
        raise RstitchError(
            grpc.StatusCode.OUT_OF_RANGE,
            "CONTEXT_FULL",
            f"{wanted} do not fit the models' context of {context_length} tokens.",
            field="max_new_tokens" if left >= 1 else "input",
            remedy=f"Ask for at most {left} new tokens." if left >= 1 else "Shorten the prompt or begin a new session.",
        )
    return max_new_tokens or min(default, left)


def check_within(asked: Reattach, length: int) -> None:
    """Raises RstitchError (OUT_OF_RANGE) for a position that the session has not reached."""
    if asked.resume_from > length:
        raise RstitchError(
            grpc.StatusCode.OUT_OF_RANGE,
            "RESUME_BEYOND_END",
            f"the session has {length} tokens, {asked.resume_from} is beyond them.",
            field="resume_from",
            remedy="Send the position of the first token that you have not got.",
            metadata={"session_id": asked.session_id, "length": str(length)},
        )
