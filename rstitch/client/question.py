"""What can be asked of a router: the keyword arguments of the clients' `generate` and `answer`.

They mirror GenerateRequest in protos/rstitch/v1/router.proto, which says what each field means. They know no wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

from rstitch.client.policies import Budget, EarlyExit, Policy

__all__ = ["ChatInput", "Details", "Message", "Question", "Sampling", "TemplateArguments"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Says how a token is chosen; the default is greedy. top_p 0 and top_k 0 mean all tokens."""

    temperature: float = 0.0
    top_p: float = 0.0
    top_k: int = 0
    seed: int = 0
    min_p: float = 0.0  # only tokens at least so many times as probable as the most probable one; 0: all
    logit_bias: Mapping[int, float] | None = None  # added to logits, by ids of the LLM, in [-100, 100]; at most 300
    presence_penalty: float = 0.0  # in [-2, 2]: taken off the logits of tokens that the answer has
    frequency_penalty: float = 0.0  # in [-2, 2]: likewise, once for each of them
    repetition_penalty: float = 0.0  # over 0: what such logits are divided by, or multiplied with below 0; 0 is 1


@dataclass(frozen=True, slots=True)
class Details:
    """Asks for each token's log-probability and bytes, and for so many alternatives to it, at most 20."""

    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation; the chat template of the models says which roles there are.

    `parts` is the text in parts, in place of `content`; `fields` is what else the template knows of a message:
    tool_calls, tool_call_id, name, reasoning_content.
    """

    role: str
    content: str = ""
    parts: Sequence[str] = ()
    fields: Mapping[str, Any] | None = None


# A mapping has the names of Message. Its content may be a list of parts, and the fields may be its own.
ChatInput: TypeAlias = Sequence[Message | Mapping[str, Any]]


class TemplateArguments(TypedDict, total=False):
    """What goes with a chat to the chat template."""

    tools: Sequence[Mapping[str, Any]]  # functions as JSON schemas
    documents: Sequence[Mapping[str, Any]]  # such as {"title": ..., "text": ...}
    chat_template_kwargs: Mapping[str, Any]  # further variables of the template, such as enable_thinking


class Question(TemplateArguments, total=False):
    """Exactly one of `chat`, `tokens` and the text beside them is given; what is left out is the router's to set."""

    chat: ChatInput | None  # where the assistant's message is the last, the answer goes on with it
    tokens: Sequence[int] | None
    policy: Policy | None
    early_exit: EarlyExit | None
    budget: Budget | None
    sampling: Sampling | None
    max_new_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]  # of the LLM; end the answer as the models' own stop tokens do
    json_schema: str  # a JSON schema that the answer is held to; "": none
    guard: bool | None  # may the LLM write alone where routing is slower?
    keep_consultations: int  # keeps so many of the head's consultations with the trajectory; 0: none
    details: Details | None  # what is told of each token; None: nothing beside its entropy
    cache_salt: str  # what is computed of a prompt is used again only under the same one
    session_id: str  # continues a conversation or names a new one
    only_if_new: bool  # it must name a new one: SESSION_EXISTS if there is one, whoever else asks at the same moment
    request_id: str  # the same question sent again under it is asked once; left out: the client makes one
    on_disconnect: Literal["continue", "stop"] | None  # when nobody reads any more; None: as the router is set
    gather_ms: int  # events may be held back for so long to come together, which costs less; 0: none is
