"""The latency model of a pair, and the file that keeps it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from evals.latency.calls import Run, Service, service_ms, sum_of_calls_ms
from evals.latency.formulas import Fit, ModelLatency, Serving


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Both models, what serving them adds (None: not measured), and where the figures come from."""

    slm: ModelLatency
    llm: ModelLatency
    serving: Serving | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def trajectory_ms(self, num_prompt_tokens: int, runs: Sequence[Run], service: Service | None = None) -> float:
        """L: milliseconds from the first call of an answer to its last token.

        Args:
            num_prompt_tokens: fed to each model with its first call.
            runs: in order; models need not alternate. `runs_of` makes them of a trajectory.
            service: what runs it; None: Algorithm 1, one call after the other and nothing else (the L of R-Stitch+).
        """
        latencies = {"slm": self.slm, "llm": self.llm}
        if service is None:
            return sum_of_calls_ms(latencies, num_prompt_tokens, runs)
        return service_ms(latencies, num_prompt_tokens, runs, service, self.serving or Serving())

    def save(self, path: Path) -> None:
        plain = {
            "slm": self.slm.as_dict(),
            "llm": self.llm.as_dict(),
            "serving": asdict(self.serving) if self.serving else None,
            "facts": self.facts,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plain, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Reads a file that `save` wrote. Raises: ValueError, naming the file, if it is none or cannot be read."""
        try:
            plain = json.loads(Path(path).read_text())
            serving = plain["serving"]
            if serving is not None:
                serving = Serving(**serving | {"fit": Fit(**serving["fit"]) if serving["fit"] else None})
            slm, llm = ModelLatency.of(plain["slm"]), ModelLatency.of(plain["llm"])
            return cls(slm, llm, serving, plain.get("facts", {}))
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}; make one with `rstitch latency`") from None
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no latency model ({error!r}); make one with `rstitch latency`") from None
