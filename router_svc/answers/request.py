"""What a client asks for, as the router's own values. It knows neither wire nor store."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, replace

import grpc

from router_svc.policies.budget import NO_BUDGET, Budget
from router_svc.policies.early_exit import EarlyExit
from router_svc.policies.policy import Policy
from router_svc.text.turns import Turn
from router_svc.trajectory.types import Sampling
from rstitch.errors import RstitchError


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

    tenant: str  # whose session it is; "": where no keys are asked for
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
    cache_salt: str = ""  # within the tenant, workers take over what they have computed under this one only
    stop_token_ids: tuple[int, ...] = ()  # ids of the LLM that end the answer beside the models' own
    keep_consultations: int = 0  # so many of the head's are kept with the trajectory, the first ones
    top_logprobs: int | None = None  # details of tokens are wanted, with so many alternatives each; None: no details
    stops_unread: bool | None = None  # whether it ends as soon as its last reader has left; None: the router's setting
    json_schema: str = ""  # what the answer must be; "": anything
    num_bytes: int = 0  # about how long the input is
    only_if_new: bool = False  # the session must not exist
    request_id: str = ""  # by which it is known if it comes again; with a session id only

    def beginning(self) -> str:
        """Gives what later questions of a chat begin with, too, if they send all of it: all up to its first question.

        Of whom workers share nothing with, it is another. "" of what is no chat.
        """
        if not isinstance(self.input, Chat):
            return ""
        turn = self.input.turn
        first = next((at for at, message in enumerate(turn.messages) if message.role == "user"), len(turn.messages))
        told = replace(turn, messages=turn.messages[: first + 1]).to_json()
        return hashlib.blake2b("\0".join((self.tenant, self.cache_salt, told)).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An answer that this router need not have written."""

    tenant: str  # who gives it
    turn: Turn  # a chat
    text: str  # never empty
    num_bytes: int = 0  # of both, about


@dataclass(frozen=True, slots=True)
class Reattach:
    """An answer is wanted from a position on."""

    tenant: str
    session_id: str
    resume_from: int
    request_id: str = ""  # the question that the answer must be to; "": any


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
