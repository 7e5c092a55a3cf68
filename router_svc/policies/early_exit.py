"""Early exit as it is asked for (DEER, arXiv 2504.15895): values only, `decoding/early_exit.py` acts on them.

At a boundary of its thinking a model is made to answer at once; if it is sure enough of that trial, the thinking ends
there. What marks a boundary and how to ask depends on the models, so it is taken from the first of these that says it:
the question, the router's settings, the models' folders, DEFAULT_STYLE.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

MAX_BOUNDARIES = 16
MAX_CHARS = 256  # of a boundary, the prompt or the end
# A trial is thrown away unless it is kept, so that its length is what early exit costs at most at each boundary.
MAX_TRIAL_TOKENS, DEFAULT_TRIAL_TOKENS = 256, 32


@dataclass(frozen=True, slots=True)
class ExitStyle:
    """How early exit asks a model for its answer; an empty field leaves that to another style."""

    boundaries: tuple[str, ...] = ()  # a trial answer can follow each token whose text contains one of these
    prompt: str = ""  # put after the boundary: it ends the thinking and asks for the answer
    end: str = ""  # a trial answer ends with a token whose text contains this
    thinking_end: str = ""  # the answer's text contains this once its thinking is over

    def over(self, other: ExitStyle) -> ExitStyle:
        """The style, with what it leaves empty taken from `other`."""
        return ExitStyle(
            **{field.name: getattr(self, field.name) or getattr(other, field.name) for field in fields(self)}
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
    """Early exit of one answer. What is empty or 0 in a question has a default; in an answer's settings nothing is."""

    threshold: float  # a trial whose confidence is above it ends the thinking
    style: ExitStyle
    max_trial_tokens: int
