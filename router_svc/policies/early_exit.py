"""Early exit as it is asked for (DEER, arXiv 2504.15895): values only."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BOUNDARIES = 16


MAX_CHARS = 256  # of a boundary, the prompt or the end


MAX_TRIAL_TOKENS, DEFAULT_TRIAL_TOKENS = 256, 32


@dataclass(frozen=True, slots=True)
class ExitStyle:
    """How early exit asks a model for its answer. What is empty is not said.

    Attributes:
        boundaries: a trial answer can follow each token whose text contains one of these.
        prompt: put after the boundary: it ends the thinking and asks for the answer.
        end: a trial answer ends with a token whose text contains this.
        thinking_end: the answer's text contains this once its thinking is over.
    """

    boundaries: tuple[str, ...] = ()
    prompt: str = ""
    end: str = ""
    thinking_end: str = ""

    def over(self, other: ExitStyle) -> ExitStyle:
        """With what it does not say from another."""
        return ExitStyle(
            self.boundaries or other.boundaries,
            self.prompt or other.prompt,
            self.end or other.end,
            self.thinking_end or other.thinking_end,
        )


# Of a model that thinks in the common way, whose folder says nothing else.
DEFAULT_STYLE = ExitStyle(
    boundaries=("\n\n", "Wait", "Alternatively"),
    prompt="\n</think>\n\n**Final Answer**\n\\boxed{",
    end="}",
    thinking_end="</think>",
)


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """As asked for. In a question what is empty or 0 has the default; in an answer's settings nothing is.

    Attributes:
        threshold: a trial whose confidence is above it ends the thinking.
        style: boundaries, prompt and end; also what ends the thinking without us.
        max_trial_tokens: decoded in a trial at most.
    """

    threshold: float
    style: ExitStyle
    max_trial_tokens: int
