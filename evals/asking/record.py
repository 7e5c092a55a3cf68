"""One answer, with all that can be told of it afterwards. It knows neither files nor how it was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rstitch.client.types import Answer, Chunk, Event, Switch

Key = tuple[str, int, int]

# Where an answer's time can go. `background` runs beside the answer, `client` is what the router did not see of it.
PLACES = (
    "slm_forward", "llm_forward", "scheduling", "waiting", "transport", "store", "routing", "client", "background",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """A problem as it was asked: its place in the data, what the data calls it, the right answer if it has one."""

    index: int
    id: str
    prompt: str
    reference: str


@dataclass(frozen=True, slots=True)
class Part:
    """A segment: by whom, how many tokens, their text; why it began and the value that decided, if by a switch."""

    model: str
    num_tokens: int
    text: str
    reason: str = ""
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Record:
    """One answer.

    Attributes:
        system: as it was asked for, in the words of `rstitch.client.specs`.
        problem, id: its place in the data, and what the data calls it.
        sample, seed: which of the k samples, and the seed of its tokens.
        session_id, trace_id: of its trajectory and its trace.
        correct, answer, detail: the verdict.
        error: why there is no answer; "" if there is one. An error is not correct.
        load, block: the load it was asked under, and which of the blocks of that load it belongs to.
        start_s: when it was asked for, or with arrivals was to be, in seconds from the begin of its block.
        client_ms, client_ttft_ms: from there to the last and to the first token, as the client saw it.
        usage: the router's account (`Usage`), times in microseconds; a system without a router counts what it can.
        parts, tokens, entropies: the trace; empty if it was not to be kept.
    """

    system: str
    problem: int
    id: str
    sample: int
    seed: int
    session_id: str = ""
    trace_id: str = ""
    correct: bool = False
    answer: str = ""
    detail: str = ""
    error: str = ""
    finish: str = ""
    budget_spent: tuple[str, ...] = ()
    exited_early: bool = False
    load: str = ""
    block: int = 0
    start_s: float = 0.0
    client_ms: float = 0.0
    client_ttft_ms: float = 0.0
    usage: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    tokens: tuple[int, ...] = ()
    entropies: tuple[float, ...] = ()

    @property
    def key(self) -> Key:
        return self.system, self.problem, self.sample

    @property
    def latency_ms(self) -> float:
        """Time from the request to the end, as the router saw it."""
        return float(self.usage.get("total_time_us", 0)) / 1000

    @property
    def ttft_ms(self) -> float:
        """Time to the first token in the trajectory, as the router saw it."""
        return float(self.usage.get("time_to_first_token_us", 0)) / 1000

    def count(self, name: str) -> int:
        """A count of the usage, by its name; 0 where there is no answer."""
        return int(self.usage.get(f"num_{name}", 0))

    @property
    def num_tokens(self) -> int:
        return self.count("slm_tokens") + self.count("llm_tokens")

    @property
    def client_tpot_ms(self) -> float:
        """Milliseconds per token after the first, as the client saw it; 0 if there is none."""
        return (self.client_ms - self.client_ttft_ms) / (self.num_tokens - 1) if self.num_tokens > 1 else 0.0

    @property
    def outside_ms(self) -> float:
        """What of the router's time is neither model's forward; forwards in the background are not in that time."""
        forwards = self.usage["breakdown"]
        return self.latency_ms - float(forwards["slm_forward_us"] + forwards["llm_forward_us"]) / 1000

    @property
    def places_us(self) -> dict[str, int]:
        """Where the client's time went, by name of `PLACES`; empty where the system does not say."""
        told = {name.removesuffix("_us"): int(us) for name, us in self.usage.get("breakdown", {}).items()}
        if told:
            told["client"] = int(1000 * self.client_ms) - sum(us for name, us in told.items() if name != "background")
        return told

    @property
    def text(self) -> str:
        """The answer, if its trace was kept."""
        return "".join(part.text for part in self.parts)

    @property
    def models(self) -> list[str]:
        return [part.model for part in self.parts for _ in range(part.num_tokens)]


def parts_of(events: Iterable[Event]) -> tuple[Part, ...]:
    """The segments of an answer, in order; one is empty where a model was to write and its proposal was thrown away."""
    parts: list[Part] = []
    for event in events:
        if isinstance(event, Switch):
            if not parts:
                parts.append(Part(event.from_model.value, 0, ""))
            parts.append(Part(event.to_model.value, 0, "", event.reason.value, _rounded(event.entropy)))
        elif isinstance(event, Chunk):
            if not parts or parts[-1].model != event.model.value:
                parts.append(Part(event.model.value, 0, ""))
            last = parts[-1]
            grown, text = last.num_tokens + len(event.tokens), last.text + event.text
            parts[-1] = replace(last, num_tokens=grown, text=text)
    return tuple(parts)


def entropies_of(answer: Answer) -> tuple[float, ...]:
    """The entropy of each token, to three digits."""
    return tuple(_rounded(entropy) for chunk in answer.chunks for entropy in chunk.entropies)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
