"""One answer as a choice of a completion: what came, in the words of OpenAI's API. It knows neither route nor frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.openai.thinking import Marks, Parted, Piece, ThoughtTokens
from rstitch.client import Chunk, Event, Finished, FinishReason, Started, Switch
from rstitch.client.specs import Spec, text_of

# Stock clients know these two; which it was is in `rstitch.finish_reason`.
_REASONS = {FinishReason.STOP: "stop", FinishReason.STOP_STRING: "stop"}


@dataclass(slots=True)
class Asked:
    """What of a choice the client wants to see.

    Attributes:
        marks: of the thinking; None leaves it in the content, as it is written.
        include_thinking: whether it is sent at all.
        tokens: whether each token is told with its model, entropy and log-probability.
        num_alternatives: how many further tokens are told at each position.
    """

    marks: Marks | None = None
    include_thinking: bool = True
    tokens: bool = False
    num_alternatives: int = 0


@dataclass(slots=True)
class Choice:
    """Takes the events of one answer, and says what is new by each."""

    asked: Asked
    index: int = 0
    session_id: str = ""
    trace_id: str = ""
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    num_thinking_tokens: int = 0
    thinking: str = ""
    content: str = ""
    tokens: list[dict[str, Any]] = field(default_factory=list)
    finished: Finished | None = None
    _parted: Parted | None = None
    _thoughts: ThoughtTokens | None = None  # where tokens are told one by one

    def take(self, event: Event) -> Piece:
        """Takes the next event; what it adds to the text is returned, its tokens are the last of `tokens`."""
        match event:
            case Started():
                self.session_id, self.trace_id = event.session_id, event.trace_id
                self.num_prompt_tokens = event.num_prompt_tokens
                if self.asked.marks is not None:
                    is_open = event.prompt_end.rstrip().endswith(self.asked.marks.begin)
                    self._parted = Parted(self.asked.marks, is_open=is_open)
                    if self.asked.tokens:
                        self._thoughts = ThoughtTokens(self.asked.marks, is_open=is_open)
                return Piece()
            case Chunk():
                was_thinking = self._parted is not None and self._parted.thinking
                piece = self._parted.feed(event.text) if self._parted else Piece("", event.text)
                is_thinking = self._parted is not None and self._parted.thinking
                self._count(event, thought=was_thinking or is_thinking or bool(piece.thinking))
                return self._added(piece)
            case Finished():
                self.finished = event
                return self.flush()
            case Switch():
                return Piece()

    def flush(self) -> Piece:
        """Gives what was held back; no more text comes."""
        return self._added(self._parted.end() if self._parted else Piece())

    def _count(self, chunk: Chunk, *, thought: bool) -> None:
        thoughts = [thought] * len(chunk.tokens)
        if self._thoughts is not None:
            thoughts = [self._thoughts.takes(detail.text) for detail in chunk.details]
        self.num_tokens += len(chunk.tokens)
        self.num_thinking_tokens += sum(thoughts)
        if self.asked.tokens:
            tokens = zip(told(chunk, self.asked.num_alternatives), thoughts, strict=True)
            self.tokens += [token for token, is_thought in tokens if self.asked.include_thinking or not is_thought]

    def _added(self, piece: Piece) -> Piece:
        if not self.asked.include_thinking:
            piece = Piece("", piece.content)
        self.thinking += piece.thinking
        self.content += piece.content
        return piece

    @property
    def finish_reason(self) -> str | None:
        """Gives OpenAI's word for how it ended."""
        return _REASONS.get(self.finished.reason, "length") if self.finished else None

    def totals(self) -> dict[str, Any]:
        """Tells what only rstitch knows of a whole answer."""
        done = self.finished
        assert done is not None
        usage = done.usage
        return {
            "session_id": self.session_id,
            "policy": text_of(Spec(done.policy)) if done.policy is not None else None,
            "finish_reason": str(done.reason),
            "slm_tokens": usage.num_slm_tokens,
            "llm_tokens": usage.num_llm_tokens,
            "llm_share": round(usage.llm_share, 4),
            "switches": usage.num_switches,
            "discarded_proposals": usage.num_discarded_proposals,
            "time_to_first_token_ms": usage.time_to_first_token_us / 1000,
            "total_time_ms": usage.total_time_us / 1000,
            "guard_reason": done.guard_reason or None,
            "budget_spent": list(done.budget_spent),
            "early_exit": done.early_exit is not None,
            "profile": done.profile or None,
            "trace_id": self.trace_id or None,
        }


def told(chunk: Chunk, num_alternatives: int) -> list[dict[str, Any]]:
    """Tells of each token of a chunk, as `logprobs.content` has them, and who wrote it under `rstitch`."""
    made = []
    for index, token in enumerate(chunk.tokens):
        detail = chunk.details[index]
        ours: dict[str, Any] = {"model": str(chunk.model), "id": token, "position": chunk.position + index}
        ours["entropy"] = chunk.entropies[index]
        if chunk.uncertainties:
            ours["uncertainty"] = chunk.uncertainties[index]
        others = [_token(each.text, each.logprob) for each in detail.alternatives[:num_alternatives]]
        made.append(_token(detail.text, detail.logprob) | {"top_logprobs": others, "rstitch": ours})
    return made


def usage_of(choices: list[Choice], num_prompts: int = 1) -> dict[str, Any]:
    """Sums up what some choices took; the choices of one prompt share its tokens."""
    per_prompt = max(1, len(choices) // num_prompts)
    prompt = sum(choice.num_prompt_tokens for choice in choices[::per_prompt])
    completion = sum(choice.num_tokens for choice in choices)
    thinking = sum(choice.num_thinking_tokens for choice in choices)
    usages = [choice.finished.usage for choice in choices if choice.finished]
    ours = {
        "slm_tokens": sum(each.num_slm_tokens for each in usages),
        "llm_tokens": sum(each.num_llm_tokens for each in usages),
        "switches": sum(each.num_switches for each in usages),
        "discarded_proposals": sum(each.num_discarded_proposals for each in usages),
    }
    reused = _reused(choices, per_prompt)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        **({"prompt_tokens_details": {"cached_tokens": reused}} if reused is not None else {}),
        "completion_tokens_details": {"reasoning_tokens": thinking},
        "rstitch": ours,
    }


def _reused(choices: list[Choice], per_prompt: int) -> int | None:
    """How many tokens of the prompts were not computed, not even for one of a prompt's choices; None: nobody knows."""
    known = [choice.finished.usage.num_reused_prompt_tokens if choice.finished else None for choice in choices]
    told = [each for each in known if each is not None]
    if len(told) < len(known):
        return None
    return sum(min(told[begin : begin + per_prompt]) for begin in range(0, len(told), per_prompt))


def _token(data: bytes, logprob: float | None) -> dict[str, Any]:
    # OpenAI's own word for a token that was not chosen by its probability.
    told = -9999.0 if logprob is None else logprob
    return {"token": data.decode("utf-8", "replace"), "logprob": told, "bytes": list(data)}
