"""The bodies of the router's own contract as JSON, by the contract's names, and the questions that they are.

Types and bounds that the wire has are checked here, all else is the router's to judge.
"""

from __future__ import annotations

from json import dumps
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from gateway.bodies import BoundedBody, Few, Ids, Objects, Texts, Uint32
from rstitch.client import Details, Sampling
from rstitch.client.question import Question
from rstitch.client.specs import Spec, parse
from rstitch.errors import invalid

Uint64 = Annotated[int, Field(ge=0, lt=1 << 64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
TokenId = Annotated[str, Field(pattern=r"^\d{1,10}$")]
Name = Annotated[str, Field(max_length=128)]


class _Body(BoundedBody):
    # Strict: "1" is no number. A field that nobody knows is refused: who wrote it meant something by it.
    model_config = ConfigDict(strict=True, extra="forbid")


class SamplingBody(_Body):
    """How tokens are chosen; unset: greedy. top_p 0 and top_k 0: all tokens."""

    temperature: Finite = 0.0
    top_p: Finite = 0.0
    top_k: Uint32 = 0
    seed: Uint64 = 0
    min_p: Finite = 0.0
    logit_bias: Annotated[dict[TokenId, Finite], Few] = Field(default={}, description="By ids of the LLM, as texts.")
    presence_penalty: Finite = 0.0
    frequency_penalty: Finite = 0.0
    repetition_penalty: Finite = 0.0

    def sampling(self) -> Sampling:
        """Makes the client's value."""
        bias = {int(token): value for token, value in self.logit_bias.items()}
        return Sampling(**self.model_dump() | {"logit_bias": bias or None})


class DetailsBody(_Body):
    """What is told of each token: its log-probability, its text, and so many of the most probable ones."""

    top_logprobs: Uint32 = 0


class AttachBody(_Body):
    """An answer that exists, and the position of the first token of it that is wanted."""

    session_id: Name
    resume_from: Uint32 = 0


class GenerateBody(_Body):
    """A question: one of text, chat and tokens. Or an answer to go on reading: attach, and nothing else."""

    text: str | None = None
    chat: Annotated[Objects, Field(min_length=1)] | None = None
    tokens: Annotated[Ids, Field(min_length=1)] | None = None
    tools: Objects = Field(default=[])
    documents: Objects = Field(default=[])
    chat_template_kwargs: dict[str, Any] | None = None
    policy: str | None = Field(default=None, description="One word, with early exit and budget: threshold:tau=0.02.")
    sampling: SamplingBody | None = None
    details: DetailsBody | None = None
    max_new_tokens: Uint32 = Field(default=0, description="0: the router's.")
    stop: Texts = Field(default=[])
    stop_token_ids: Ids = Field(default=[])
    json_schema: dict[str, Any] | None = Field(default=None, description="The answer is JSON that it allows.")
    session_id: Name = Field(default="", description="Continues a conversation, or names a new one.")
    only_if_new: bool = Field(default=False, description="The session must not exist.")
    request_id: Name = Field(default="", description="Sent again under it, with a session_id, it is asked once.")
    guard: bool | None = Field(default=None, description="May the LLM write alone? Unset: the router's.")
    cache_salt: Name = ""
    on_disconnect: Literal["continue", "stop"] = Field(default="stop", description="When nobody reads any more.")
    attach: AttachBody | None = None

    def check(self) -> None:
        """Refuses a question beside `attach`. Raises: RstitchError naming the field at fault."""
        if self.attach is not None and (beside := sorted(self.model_fields_set - {"attach"})):
            what = "attach reads an answer that exists, and takes nothing beside it."
            raise invalid(beside[0], what, "Send attach alone, or leave it out.")

    def question(self) -> Question:
        """Makes the question, without its text. Raises: RstitchError naming what in the policy is wrong."""
        spec = parse(self.policy) if self.policy is not None else Spec()
        return {
            "chat": self.chat,
            "tokens": self.tokens,
            "tools": self.tools,
            "documents": self.documents,
            "chat_template_kwargs": self.chat_template_kwargs or {},
            "policy": spec.policy,
            "early_exit": spec.early_exit,
            "budget": spec.budget,
            "sampling": self.sampling.sampling() if self.sampling else None,
            "details": Details(self.details.top_logprobs) if self.details else None,
            "max_new_tokens": self.max_new_tokens,
            "stop": self.stop,
            "stop_token_ids": self.stop_token_ids,
            "json_schema": dumps(self.json_schema) if self.json_schema is not None else "",
            "session_id": self.session_id,
            "only_if_new": self.only_if_new,
            "request_id": self.request_id,
            "guard": self.guard,
            "cache_salt": self.cache_salt,
            "on_disconnect": self.on_disconnect,
        }


class LabelBody(_Body):
    """Whether a session's last answer was right; null: nobody says so any more."""

    right: bool | None
