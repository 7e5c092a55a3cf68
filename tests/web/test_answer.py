"""An answer as the page knows it, by the page's own module in a real browser: which token has made which text."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.page.routes import _FILES
from tests.support.visitor import Visit

Span = tuple[int, int, str, bool, bool]  # tokens from, to; text; thinking, exact
READ = """async ([path, events, trajectory]) => {
  const { Answer } = await import(path);
  const marks = { begin: "<think>", end: "</think>" };
  const made = trajectory ? Answer.of(trajectory, marks) : new Answer(marks);
  events.forEach((event) => made.take(event));
  return [made.spans.map((each) => [each.from, each.to, each.text, each.thinking, each.exact]), made.thought];
}"""


def started(prompt_end: str = "") -> dict[str, Any]:
    return {"event": "started", "session_id": "s", "position": 5, "num_prompt_tokens": 5, "prompt_end": prompt_end}


def chunk(text: str, *own: str | list[int], num: int = 0) -> dict[str, Any]:
    """Tokens by their own texts, or bytes; or so many of which nothing is known."""
    details = [{"text": "?", "bytes": each} if isinstance(each, list) else {"text": each} for each in own]
    num = num or len(own)
    return {
        "event": "chunk",
        "model": "slm",
        "position": 5,
        "tokens": [7] * num,
        "entropies": [0.5] * num,
        "text": text,
        "details": details,
    }


END: dict[str, Any] = {"event": "finished"}
SMILE = list("😀".encode())


@pytest.mark.parametrize(
    ("events", "spans", "thought"),
    [
        pytest.param([chunk("a b", "a", " b")], [(0, 1, "a", False, True), (1, 2, " b", False, True)], None, id="own"),
        pytest.param(
            [chunk("a", "a", SMILE[:2]), chunk("😀b", SMILE[2:], "b")],
            [(0, 1, "a", False, True), (1, 3, "😀", False, True), (3, 4, "b", False, True)],
            None,
            id="a character in two tokens and chunks",
        ),
        pytest.param(
            [chunk("a", "a", "st"), chunk("stay", "ay")],
            [(0, 1, "a", False, True), (1, 2, "st", False, True), (2, 3, "ay", False, True)],
            None,
            id="held back for a stop string",
        ),
        pytest.param(
            [chunk("a st", "a", " stop")],
            [(0, 1, "a", False, True), (1, 2, " st", False, True)],
            None,
            id="cut by a stop string",
        ),
        pytest.param(
            [
                chunk("<th", "<th"),
                chunk("ink>\na</th", "ink>", "\n", "a", "</th"),
                chunk("ink>\n\nb", "ink>", "\n\n", "b"),
            ],
            [(3, 4, "a", True, True), (7, 8, "b", False, True)],
            True,
            id="marks in pieces",
        ),
        pytest.param(
            [chunk("<thin", "<thin")], [(0, 1, "<thin", False, False)], None, id="what could have become a mark"
        ),
        pytest.param(
            [started("<think>\n"), chunk("a</think>b", "a", "</think>", "b")],
            [(0, 1, "a", True, True), (2, 3, "b", False, True)],
            True,
            id="begun by the template",
        ),
        pytest.param(
            [chunk("x <think>", "x", " <think>")],
            [(0, 1, "x", False, True), (1, 2, " <think>", False, True)],
            None,
            id="no mark",
        ),
        pytest.param([chunk("one", num=1)], [(0, 1, "one", False, True)], None, id="one token without details"),
        pytest.param(
            [chunk("one two", num=2)], [(0, 1, "one", False, False), (1, 2, " two", False, False)], None, id="about"
        ),
        pytest.param(
            [chunk("other", "ot", "XX")],
            [(0, 1, "ot", False, True), (1, 2, "her", False, False)],
            None,
            id="another text than theirs",
        ),
    ],
)
def test_each_token_has_its_text(
    events: list[Any], spans: list[Span], thought: bool | None, scripted: str, visit: Visit
) -> None:
    page = visit(scripted)
    begun = events if events[0]["event"] == "started" else [started(), *events]
    found, is_over = page.evaluate(READ, [f"{_FILES.base}/answer.js", [*begun, END], None])
    assert [tuple(each) for each in found] == spans
    assert is_over == thought
    # Of the same that is stored it says the same.
    prompt = {
        "source": "prompt",
        "position": 0,
        "text": begun[0]["prompt_end"],
        "tokens": [1] * 5,
        "reason": "unspecified",
    }
    stored = [{**each, "source": "slm", "reason": "unspecified"} for each in begun[1:]]
    trajectory = {"session_id": "s", "segments": [prompt, *stored], "length": 9, "finished": None}
    assert page.evaluate(READ, [f"{_FILES.base}/answer.js", [], trajectory]) == [found, is_over]
