"""The entropy strip and the other pieces of an answer's face."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rstitch.cli.examples import EXAMPLES, boxed
from rstitch.cli.progress import StackProgress
from rstitch.cli.render import discarded, entropy_line, entropy_strip, seconds, switch_list, written
from rstitch.client.specs import policy_text
from rstitch.client.types import (
    Answer,
    Chunk,
    Finished,
    FinishReason,
    LlmOnly,
    Model,
    Policy,
    Switch,
    SwitchReason,
    Threshold,
    Usage,
)
from rstitch.local.stack import LocalStack


def test_progress_of_a_start_that_fails_shows_the_last_state() -> None:
    console = Console(force_terminal=True, width=80, file=io.StringIO())
    stack = LocalStack()
    with StackProgress(console, stack) as progress:
        progress("redis", "ready", 0.1)
        progress("router", "starting", 20.0)
    assert isinstance(console.file, io.StringIO)
    assert "router" in console.file.getvalue()


def test_the_strip_has_one_block_per_token_coloured_by_model() -> None:
    strip = entropy_strip([("slm", 0.0), ("llm", 0.01), ("slm", 0.04)])
    assert strip.plain == "▁▅█"
    assert [str(span.style) for span in strip.spans] == ["cyan", "bold magenta", "cyan"]


def test_a_strip_of_certainty_is_flat() -> None:
    assert entropy_strip([("slm", 0.0)] * 3).plain == "▁▁▁"
    assert entropy_strip([]).plain == ""


def test_a_folded_strip_shows_the_highest_of_each_block() -> None:
    tokens = [("slm", 0.0)] * 9 + [("llm", 0.04)] + [("slm", 0.01)] * 2
    line = entropy_line(tokens, width=1)
    assert line.plain == "entropy, one block per 4 tokens (the highest), █ = 0.040\n▁▁█"
    assert str(line.spans[-1].style) == "bold magenta"
    assert entropy_line(tokens, width=4).plain.startswith("entropy, one block per token, █ = 0.040\n▁")


def test_a_discarded_proposal_is_drawn_where_it_was_made() -> None:
    why = SwitchReason.ENTROPY_ABOVE
    switches = (
        Switch(Model.SLM, Model.LLM, 3, 0.16, why),
        Switch(Model.LLM, Model.SLM, 4, 0.0, SwitchReason.ENTROPY_BELOW),
    )
    slm, llm = Chunk(Model.SLM, 1, (7, 8), (0.0, 0.0), ""), Chunk(Model.LLM, 3, (9,), (0.0,), "")
    answer = Answer("s", "", (slm, llm), switches, Finished(FinishReason.STOP, Usage(), 4, None))
    assert written(answer) == [("slm", 0.0), ("slm", 0.0), ("discarded", 0.16), ("llm", 0.0)]
    line = entropy_line(written(answer))
    assert line.plain.splitlines()[0] == "entropy, one block per token, █ = 0.160  ■ discarded proposal"
    assert line.plain.splitlines()[1] == "▁▁█▁"
    assert discarded(Model.LLM, SwitchReason.UNCERTAINTY_ABOVE, 3.0) == []  # of another signal, on another scale


def test_a_long_list_of_switches_is_cut() -> None:
    switch = Switch(Model.SLM, Model.LLM, 7, 0.25, SwitchReason.ENTROPY_ABOVE)
    lines = [line.plain for line in switch_list([switch] * 5, at_most=3)]
    assert lines[0] == "@7    SLM → LLM  entropy 0.2500 above tau"
    assert len(lines) == 4
    assert "2 more" in lines[-1]


@pytest.mark.parametrize(("us", "text"), [(0, "0 ms"), (12_345, "12 ms"), (999_999, "1000 ms"), (1_500_000, "1.50 s")])
def test_times(us: int, text: str) -> None:
    assert seconds(us) == text


@pytest.mark.parametrize(
    ("policy", "text"),
    [(LlmOnly(), "llm_only"), (Threshold(0.02, 0.5), "threshold:tau=0.02,tau_return=0.5"), (None, "")],
)
def test_policies_in_a_word(policy: Policy | None, text: str) -> None:
    assert policy_text(policy) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [(r"so \boxed{ 12 }", 12), (r"\boxed{1} no, \boxed{-2}", -2), ("12", None), (r"\boxed{x}", None)],
)
def test_the_last_boxed_number_counts(text: str, number: int | None) -> None:
    assert boxed(text) == number


def test_every_example_has_a_question_and_another_answer_is_wrong() -> None:
    assert len({example.question for example in EXAMPLES}) == len(EXAMPLES) >= 3
    for example in EXAMPLES:
        assert example.question.endswith("?")
        assert example.is_solved_by(rf"<think>\boxed{{0}}</think>\boxed{{{example.answer}}}")
        assert not example.is_solved_by(rf"\boxed{{{example.answer + 1}}}")
