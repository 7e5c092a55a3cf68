"""What goes into the engine and what comes out of it. Plain data: no torch, no grpc, no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol, TypeAlias

from model_worker.engine.grammar import Grammar
from model_worker.engine.observing import Observe, Observed


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen; a function of (seed, position + position_offset, logits)."""

    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # nucleus mass in (0, 1]; 1 keeps all
    top_k: int = 0  # how many of the most probable tokens are kept; 0 keeps all
    seed: int = 0  # starts the counter-based generator, which has no other state
    position_offset: int = 0  # added to the position that a token is drawn by
    min_p: float = 0.0  # tokens less probable than so many times the most probable one are left out
    logit_bias: tuple[tuple[int, float], ...] = ()  # added to the logits of tokens, each once
    presence_penalty: float = 0.0  # taken off the logits of tokens that the answer has
    frequency_penalty: float = 0.0  # likewise, once for each of them
    repetition_penalty: float = 1.0  # what such logits are divided by over 0, and multiplied with below
    penalized_from: int = 0  # the position where the answer begins

    @property
    def penalizes(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1

    @property
    def shapes(self) -> bool:
        """Whether it changes logits before a token is chosen."""
        return bool(self.logit_bias) or self.penalizes


GREEDY = Sampling()

MAX_MASKED_TOKENS = 8192  # of a run

# What else could stand where a token was chosen: (token, logprob), the most probable first, by id among equals.
Alternatives: TypeAlias = tuple[tuple[int, float], ...]

# What sessions that begin with the same tokens have of each other: nothing, the same pages, or copies of them.
PrefixCache = Literal["off", "share", "copy"]


class Signal(Enum):
    """A measure of uncertainty; `bookkeeping/signals.py` says how each is computed."""

    ENTROPY = "entropy"
    CONFIDENCE = "confidence"
    MARGIN = "margin"
    ENTROPY_WINDOW = "entropy_window"


class Verdict(Protocol):
    """What was said of one token by whoever has the last word; the engine passes it on and knows no more of it."""

    @property
    def to_llm(self) -> bool:
        """Whether the run hands over."""


class Consultant(Protocol):
    """Has the last word during one run where the signal is above the bound."""

    def ask(self, hidden_state: bytes, context_length: int, entropy: float) -> Verdict:
        """Decides about the next token.

        It is told the last hidden state (float32 little-endian, [hidden_size]), how many tokens the session has before
        that token, and the entropy of its distribution.
        """

    def keep(self, entropy: float) -> None:
        """Takes note of a token that the run kept, asked about or not."""


@dataclass(frozen=True, slots=True)
class Handoff:
    """When the other model is to write on: signal > `above` (token not kept) or signal <= `below` (token kept)."""

    above: float | None = None
    below: float | None = None
    hidden_state: bool = False
    signal: Signal = Signal.ENTROPY
    window: int = 0  # over how many tokens ENTROPY_WINDOW takes the mean; otherwise 0
    recent_entropies: tuple[float, ...] = ()  # of the last tokens before this run, oldest first; at most window - 1
    consultant: Consultant | None = None  # has the last word under `above`; None: it is handed over always


@dataclass(frozen=True, slots=True)
class Returns:
    """What a step returns beside its token: the `top_logits` largest logits (-1: all), and the hidden state."""

    top_logits: int = 0
    hidden_state: bool = False


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Append `tokens` at `position` of a session, then decode up to `max_tokens`.

    With `returns` the run is a step: nothing is decoded, the next token comes back as a proposal. Without it,
    `max_tokens == 0` is catch-up only, at background priority.

    A `draft` is verified: the longest prefix of it that the model itself would have written is kept, then the model's
    own next token, and the run ends.

    With `observe` nothing is decoded either: the run is told, step by step, what the model would have written after
    each of its tokens (`Observed`), and ends with STEP.

    A `background` run takes only the room that others leave, and ends early (LENGTH) where pages run short.
    A `shallow` run is the SLM's, where the SLM is the model's first layers.
    Sessions take pages over from one another only under the same `cache_salt`, and under None from nobody.
    The model is without the `masked_tokens`: it cannot write them, and all that is said of a distribution is said of
    the others.
    """

    session_id: str
    position: int
    tokens: Sequence[int]
    sampling: Sampling = GREEDY
    max_tokens: int = 0
    stop_tokens: frozenset[int] = frozenset()
    handoff: Handoff | None = None
    returns: Returns | None = None
    observe: Observe | None = None
    prefix_checksum: int | None = None
    background: bool = False
    draft: Sequence[int] = ()
    shallow: bool = False
    cache_salt: str | None = ""
    masked_tokens: tuple[int, ...] = ()
    top_logprobs: int = 0  # how many alternatives come with each token; 0: none are looked for
    grammar: Grammar | None = None  # what the answer must be; None: anything

    @property
    def wants_token(self) -> bool:
        """Whether the distribution after the last token is asked for."""
        return self.max_tokens > 0 or self.returns is not None or self.observe is not None

    @property
    def end(self) -> int:
        """The position that the first written token will get."""
        return self.position + len(self.tokens)

    @property
    def is_background(self) -> bool:
        """Whether it yields to all others: it only catches up, or it was asked for as background work."""
        return self.background or not self.wants_token


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """Make session `session_id` of the tokens [0, position) of session `source_id`, which must be of this salt."""

    source_id: str
    session_id: str
    position: int
    cache_salt: str | None = ""


class FinishReason(Enum):
    """Why a run ended, without an error."""

    STOP = "stop"  # its last token is a stop token
    LENGTH = "length"  # as many tokens as asked for, or a draft is verified, or a background run ends early
    HANDOFF = "handoff"
    SUPERSEDED = "superseded"  # the caller has sent another run of the session
    CONTEXT = "context"  # the session is as long as the model's context
    STEP = "step"  # the distribution that was asked for is in the proposal, or all that was to be observed is told


@dataclass(frozen=True, slots=True)
class Proposal:
    """A token that the model would write and that is not in the session; the last four are empty unless asked for."""

    token: int
    entropy: float  # in [0, 1]
    logprob: float  # natural, at temperature 1
    uncertainty: float | None = None  # the hand-off's signal; None where that is the entropy
    hidden_state: bytes = b""  # float32 little-endian, [hidden_size]
    logits: bytes = b""  # float32 little-endian, [vocab_size]
    top_logits: tuple[tuple[int, float], ...] = ()  # (token, logit), descending
    alternatives: Alternatives | None = None  # under RunRequest.top_logprobs


@dataclass(slots=True)
class Timing:
    """Where the time of a run went."""

    queue_us: int = 0  # from its arrival until its first step
    forward_us: int = 0  # forwards of the steps that it took part in; one shared with others counts in full
    host_us: int = 0  # the rest of those steps: scheduling, bookkeeping
    total_us: int = 0  # from its arrival until now
    num_steps: int = 0
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0  # that other sessions had computed

    @property
    def wait_us(self) -> int:
        """Time after its first step in which others were stepped and it was not."""
        return max(0, self.total_us - self.queue_us - self.forward_us - self.host_us) if self.num_steps else 0


@dataclass(frozen=True, slots=True)
class TokenKept:
    """A decoded token is now in the session. `uncertainty` is the hand-off's signal; None where that is the entropy."""

    run_id: int
    token: int
    entropy: float
    logprob: float
    uncertainty: float | None = None
    verdict: Verdict | None = None  # by which it was kept, though the signal was above the bound
    alternatives: Alternatives | None = None  # under RunRequest.top_logprobs


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run ended without an error."""

    run_id: int
    reason: FinishReason
    held: int  # tokens that the session holds now
    timing: Timing
    proposal: Proposal | None = None
    num_accepted: int = 0  # tokens of its draft that were kept
    num_consultations: int = 0  # how often its hand-off's consultant was asked
    verdict: Verdict | None = None  # by which it handed over the proposal


@dataclass(frozen=True, slots=True)
class RunFailed:
    """A run ended by an error; the session keeps the tokens that it held."""

    run_id: int
    error: Exception


Event = TokenKept | Observed | RunFinished | RunFailed


Attention = Literal["auto", "varlen", "triton", "native", "in-place", "gather"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an engine may take of everything, and how its steps run."""

    vocab_size: int  # of the real vocabulary; an LM head may have more rows, and no token is one of these
    context_length: int  # the most tokens of a session
    num_pages: int
    page_size: int = 16  # tokens per KV page
    max_batch_tokens: int = 512  # the most of one forward
    background_stretch: float = 0.25  # background rows make a step that others wait for longer by at most this share
    background_us: int = 5000  # longest step of background rows alone, or one decode step if that is longer
    # How the cache is read: through block tables on CUDA, "varlen" by torch's kernel (16-bit) or "triton" by our own;
    # "in-place" by views where pages lie side by side, "gather" by copies; "auto" takes the first that works here.
    attention: Attention = "auto"
    # Matrix products in bfloat16 on a CPU: "native" by a kernel of our own; "auto": where it was faster when tried.
    matmul: Literal["auto", "native", "torch"] = "auto"
    # Forwards as compiled code, on a CPU; "auto": if it is on disk already, and faster where it was tried.
    compile: Literal["auto", "on", "off"] = "off"
    # Captures of steps of fixed shapes; "auto": on CUDA where attention goes through block tables.
    graphs: Literal["auto", "on", "off"] = "auto"
    batch_invariant: bool = False  # a token's distribution has the same bits alone and in any batch
    # Reading in place wants the pages of a session side by side: "copy". Block tables do not care: "share".
    prefix_cache: PrefixCache = "off"
    # Fused kernels for norms, rotary embeddings and gated MLPs, where they give what the model's own code gives;
    # "auto": on CUDA where attention goes through block tables.
    fused: Literal["auto", "on", "off"] = "auto"
    # Tokens of the prompt by which the engine's logits are compared with the model's own; 0: enough to see a window
    # that is not too long.
    check_tokens: int = 0
    # Pages that layers which see a window only have room for at once; 0: for all, and nothing is given back. Sessions
    # of such a model share no pages.
    num_window_pages: int = 0
    num_states: int = 64  # slots for the states of recurrent and convolution layers, where a model has any
