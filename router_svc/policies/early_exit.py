"""Early exit as it is asked for (DEER, arXiv 2504.15895): values only, `decoding/early_exit.py` acts on them.

At a boundary of its thinking a model is made to answer at once; if it is sure enough of that trial, the thinking ends
there. What marks a boundary and how to ask depends on the models, so it is taken from the first of these that says it:
the question, the router's settings, the models' folders, DEFAULT_STYLE.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_BOUNDARIES = 16
MAX_CHARS = 256  # of a boundary, the prompt or the end
# A trial is thrown away unless it is kept, so that its length is what early exit costs at most at each boundary.
MAX_TRIAL_TOKENS, DEFAULT_TRIAL_TOKENS = 256, 32


@dataclass(frozen=True, slots=True)
class ExitStyle:
    """How early exit asks a model for its answer; an empty field leaves that to another style.

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
        """The style, with what it leaves empty taken from `other`."""
        return ExitStyle(
            self.boundaries or other.boundaries,
            self.prompt or other.prompt,
            self.end or other.end,
            self.thinking_end or other.thinking_end,
        )


# For a model that thinks in the common way, whose folder says nothing else.
DEFAULT_STYLE = ExitStyle(
    boundaries=("\n\n", "Wait", "Alternatively"),
    prompt="\n</think>\n\n**Final Answer**\n\\boxed{",
    end="}",
    thinking_end="</think>",
)


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """Early exit of one answer. What is empty or 0 in a question has the default; in an answer's settings nothing is.

    Attributes:
        threshold: a trial whose confidence is above it ends the thinking.
        style: boundaries, prompt and end; also what ends the thinking without us.
        max_trial_tokens: most tokens that are decoded in a trial.
    """

    threshold: float
    style: ExitStyle
    max_trial_tokens: int
