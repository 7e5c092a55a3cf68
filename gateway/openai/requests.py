"""The bodies that OpenAI's clients send, and what of them is taken, only hinted, or refused by name.

Hints change nothing that a client could read back, so they are accepted. What the answer would have to show (calls of
tools, sound, a schema) is refused while we do not have it. A field that nobody knows is told in `x-rstitch-ignored`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from gateway.bodies import BoundedBody, Few, Ids, ListsOfIds, Objects, Texts
from rstitch.limits import MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY

_INT64 = 1 << 63

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Repetition = Annotated[float, Field(ge=MIN_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Stop = str | Texts


class _Body(BoundedBody):
    # Strict: "1" is no number. Extra: who sends more than we know hears of it, and gets an answer all the same.
    model_config = ConfigDict(strict=True, extra="allow")


class BudgetOptions(_Body):
    """What an answer may take of the LLM."""

    llm_tokens: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None
    max_switches: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None
    stop: bool = Field(default=False, description="End the answer when it is spent; otherwise the SLM writes the rest.")


class EarlyExitOptions(_Body):
    """Where the thinking may end early."""

    threshold: Probability
    boundaries: Texts = Field(default=[])
    prompt: str = ""
    end: str = ""
    max_trial_tokens: Annotated[int, Field(ge=0, le=256)] = 0


class RstitchOptions(_Body):
    """What only rstitch knows: `extra_body={"rstitch": {...}}`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    policy: str | None = Field(default=None, description="One word, such as threshold:tau=0.02.")
    tau: Annotated[float, Field(ge=-1, le=2, allow_inf_nan=False)] | None = Field(
        default=None, description="In short for threshold:tau=..."
    )
    profile: str | None = Field(default=None, description="In short for profile:...")
    budget: BudgetOptions | None = None
    early_exit: EarlyExitOptions | None = None
    guard: bool | None = Field(default=None, description="May the LLM write alone? Unset: the router's.")
    session_id: str | None = Field(
        default=None,
        description="Of a conversation: the messages are its next turn.",
    )
    on_disconnect: Literal["continue", "stop"] | None = Field(default=None, description="Unset: the answer ends.")
    stop: Annotated[Texts, Field(max_length=16)] | None = Field(default=None, description="Beside OpenAI's.")


class StreamOptions(_Body):
    """How an answer is streamed."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None  # a hint: nothing is hidden in the lengths of our chunks


class Request(_Body):
    """What both kinds of completions share."""

    model: str
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 32)] | None = None
    temperature: Temperature | None = Field(default=None, description="Unset: 0, greedy.")
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = Field(default=None, description="0 and -1: all tokens.")
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[Ids, Field(max_length=64)] | None = None
    min_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Few] | None = Field(default=None, description="By ids of the LLM.")
    cache_salt: Annotated[str, Field(max_length=128)] | None = None
    rstitch: RstitchOptions | None = None
    # Hints.
    user: str | None = None
    metadata: dict[str, Any] | None = None

    def unknown(self) -> list[str]:
        """Names the fields that nobody knows."""
        return sorted(self.model_extra or ())


class ChatRequest(Request):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[Objects, Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 32)] | None = Field(
        default=None, description="Goes first."
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Objects | None = None
    include_reasoning: bool | None = Field(default=None, description="false: the thinking is not sent.")
    separate_reasoning: bool | None = Field(default=None, description="false: it stays in the content.")
    reasoning: dict[str, Any] | None = Field(default=None, description="Only `exclude` is taken.")
    # What an answer would have to show: refused where it asks for anything.
    tools: Objects | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: Objects | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    modalities: Texts | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    # Hints.
    prediction: dict[str, Any] | None = Field(default=None, description="Of the answer's text: it is not looked at.")
    store: bool | None = None
    service_tier: str | None = None
    parallel_tool_calls: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None


class CompletionRequest(Request):
    """The body of POST /v1/completions."""

    prompt: str | Texts | Ids | ListsOfIds
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
