"""A template that begins the thinking itself, as R1's do: the answer has the mark of its end alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstitch.client import Client
from rstitch.local.stack import LocalStack, WorkerOptions
from tests.support.gateways import chat, events_of, started
from tests.support.served import ROOT


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    folder = tmp_path_factory.mktemp("begun")
    for role in ("slm", "llm"):
        shutil.copytree(ROOT / "models" / f"tiny-{role}", folder / role)
        template = folder / role / "chat_template.jinja"
        template.write_text(template.read_text().replace("'<|assistant|>'", "'<|assistant|><think>'"))
    with LocalStack(WorkerOptions(str(folder / "slm")), WorkerOptions(str(folder / "llm"))) as running:
        yield running


def test_the_thinking_is_parted_from_the_first_word_on(stack: LocalStack, tmp_path: Path) -> None:
    with Client(stack.router_address, timeout_s=60) as client:
        answer = client.answer(chat=chat()["messages"])
    assert "<think>" not in answer.text
    thinking, _, said = answer.text.partition("</think>")
    with started(stack.router_address, tmp_path) as http:
        made = http.post("/v1/chat/completions", json=chat()).json()
        again = http.get(f"/v1/chat/completions/{made['id']}").json()
        events = events_of(http.post("/v1/chat/completions", json=chat(stream=True)))[:-1]
    for message in (made["choices"][0]["message"], again["choices"][0]["message"]):
        assert (message["reasoning"], message["content"]) == (thinking, said.lstrip("\n"))
    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == thinking
