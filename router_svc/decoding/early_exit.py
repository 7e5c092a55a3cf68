"""Early exit: where the thinking reaches a boundary, a trial answer decides whether it ends there.

DEER (arXiv 2504.15895): after a boundary ("Wait", a paragraph break) the model is fed a prompt that ends the thinking
and asks for the answer, and decodes a trial answer on the same cache. If the mean probability of its tokens is above a
threshold, prompt and trial become part of the answer; else they are dropped, and the thinking goes on as if there had
been no trial. Both are functions of the tokens before, so any router decides alike. It starts no run.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from router_svc.policies.early_exit import DEFAULT_STYLE, DEFAULT_TRIAL_TOKENS, EarlyExit, ExitStyle
from router_svc.policies.policy import Handoff
from router_svc.text.session_tokens import SessionTokens
from router_svc.text.tokenizer import TooCommon
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model, Signal
from router_svc.workers.runs import Reply
from rstitch.errors import invalid
from rstitch.limits import MAX_TAU


@dataclass(frozen=True, slots=True)
class ExitRules:
    """Early exit in tokens, ids of an answer as one author writes them."""

    settings: EarlyExit  # what was asked for, complete
    boundaries: frozenset[int]  # a trial follows each of these
    prompt: array[int]  # what it is fed
    ends: frozenset[int]  # a trial ends with one of these


def settle(asked: EarlyExit, default: ExitStyle, vocabularies: Vocabularies) -> Mapping[Model, ExitRules]:
    """Fills in what was not asked for, and finds the tokens, by author. Takes its time with a large vocabulary.

    Raises RstitchError naming the field, if no token contains what is looked for, or too many do, or if the prompt has
    tokens that one of the models cannot read. From an answer's settings it makes that answer's rules, whatever the
    default is now.
    """
    rules = _settle(asked, default, vocabularies, Model.LLM)
    if not vocabularies.is_through_text:
        vocabularies.check_prompt("early_exit.prompt", rules.prompt)
        return dict.fromkeys(Model, rules)
    # All is settled, but the SLM's tokens may lack some of the boundaries. A router that takes over knows only what was
    # settled, so it must make no difference who asked for them.
    style = rules.settings.style
    open_ = replace(rules.settings, style=replace(style, boundaries=()))
    of_slm = _settle(open_, style, vocabularies, Model.SLM)
    for model, prompt in ((Model.LLM, rules.prompt), (Model.SLM, of_slm.prompt)):
        _check_rows(vocabularies, model, prompt)
    return {Model.LLM: rules, Model.SLM: replace(of_slm, settings=rules.settings)}


def _check_rows(vocabularies: Vocabularies, model: Model, prompt: array[int]) -> None:
    side = vocabularies.sides[model]
    for token in prompt:
        if token >= side.size:
            what = f"it has the {model.name}'s token {token} ({side.tokenizer.spelling(token)}), which the model lacks."
            raise invalid("early_exit.prompt", what, "Leave it out.")


def _settle(asked: EarlyExit, default: ExitStyle, vocabularies: Vocabularies, model: Model) -> ExitRules:
    tokenizer = vocabularies.tokenizer(model)
    style = asked.style.over(default).over(tokenizer.exit_style).over(DEFAULT_STYLE)
    boundaries: dict[str, frozenset[int]] = {}
    for index, text in enumerate(style.boundaries):
        # A default may be meant for other models.
        name = f"early_exit.boundaries[{index}]" if asked.style.boundaries else ""
        if found := _tokens_with(text, vocabularies, model, name):
            boundaries[text] = found
    if not boundaries:
        what = f"no token of the {model.name} contains one of {style.boundaries}."
        raise invalid("early_exit.boundaries", what, "Send boundaries that tokens of these models contain.")
    style = replace(style, boundaries=tuple(boundaries))
    return ExitRules(
        EarlyExit(asked.threshold, style, asked.max_trial_tokens or DEFAULT_TRIAL_TOKENS),
        frozenset().union(*boundaries.values()),
        tokenizer.encode(style.prompt, begins=False),
        _tokens_with(style.end, vocabularies, model, "early_exit.end"),
    )


def _tokens_with(text: str, vocabularies: Vocabularies, model: Model, name: str) -> frozenset[int]:
    """The tokens that contain it, of those that may be written: a tokenizer may have more than its model, or both."""
    side, masked = vocabularies.sides[model], vocabularies.matching.masked[model]
    try:
        found = side.tokenizer.containing(text)
    except TooCommon as error:
        raise invalid(name or "early_exit", f"{text!r} is in {error.num} tokens.", "Name something rarer.") from None
    found = frozenset(token for token in found.difference(masked) if token < side.size)
    if not found and name:
        remedy = "Use a piece of text that lies within one token."
        raise invalid(name, f"no token of the models contains {text!r}.", remedy)
    return found


@dataclass(slots=True)
class Trial:
    """A trial answer, as its worker told it."""

    said: Reply = field(default_factory=lambda: Reply([], [], None))

    def add(self, reply: Reply) -> bool:
        self.said.add(reply)
        return False  # never too much: the worker ends a trial

    @property
    def confidence(self) -> float:
        probabilities = [math.exp(logprob) for logprob in self.said.logprobs if logprob is not None]
        return sum(probabilities) / len(probabilities) if probabilities else 0.0

    def kept(self, prompt: array[int]) -> Reply:
        """As part of the answer: the prompt was not chosen, so it is not uncertain, and has no probability."""
        said, zeros = self.said, [0.0] * len(prompt)
        made = Reply([*prompt], zeros[:], None, zeros[:] if said.uncertainties else [], [None] * len(prompt))
        made.alternatives = [()] * len(prompt) if said.alternatives else []
        made.add(said.part(0))
        return made


class Exits:
    """Where the thinking of one answer, which begins at `start`, can end early; `taken` if it has already.

    The rules are by author, and the same for both where both write the same ids.
    """

    def __init__(self, rules: Mapping[Model, ExitRules], session: SessionTokens, start: int, taken: bool) -> None:
        self.rules = rules
        self._settings = rules[Model.LLM].settings  # the same for both
        self._session = session
        self._tokens = session.tokens
        self._start = start
        self._num_read = start  # what ends the thinking was looked for when there were so many tokens
        self._first = 0 if session.through_text else start  # where the text begins, as the session counts it
        self._looked = self._first  # up to where it was looked for in text that will not change
        self._over = taken
        self._tried = 0  # how many tokens there were at the last trial

    @property
    def thinking(self) -> bool:
        if not self._over and self._num_read < len(self._tokens):
            marker = self._settings.style.thinking_end
            # No character and no token is shorter than a byte.
            text, self._looked = self._session.spelled(max(self._first, self._looked - len(marker.encode())))
            self._over = marker in text
            self._num_read = len(self._tokens)
        return not self._over

    def due(self, author: Model | None) -> bool:
        """Whether a trial is to follow the last token, which `author` wrote."""
        if author is None or len(self._tokens) in (self._start, self._tried):
            return False
        if self._tokens[-1] not in self.rules[author].boundaries:
            return False
        return self.thinking

    def tried(self) -> None:
        """A trial followed the last token, or there was no room for one."""
        self._tried = len(self._tokens)

    def ends_thinking(self, trial: Trial) -> bool:
        """Whether the trial that followed the last token is sure enough to be kept."""
        self.tried()
        self._over = trial.confidence > self._settings.threshold
        return self._over

    def num_tokens(self, writer: Model, room: int) -> int:
        """How many tokens a trial may decode if the answer may grow by `room`; 0 or less: there is none."""
        return min(self._settings.max_trial_tokens, room - len(self.rules[writer].prompt))

    def listening(self, writer: Model, handoff: Handoff | None) -> Handoff | None:
        """A condition that never holds: the worker tells the policy's signal of each token, where it is another."""
        if handoff is None or handoff.signal is Signal.ENTROPY:
            return None
        # Over a window the prompt counts: its tokens have entropy 0.
        recent = (*handoff.recent, *[0.0] * len(self.rules[writer].prompt))
        recent = recent[1 - handoff.window :] if handoff.window > 1 else ()
        return Handoff(above=MAX_TAU, signal=handoff.signal, window=handoff.window, recent=recent)
