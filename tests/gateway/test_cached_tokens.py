"""`cached_tokens` is what no model computed again, by what the workers themselves count."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from rstitch.local.stack import LocalStack
from tests.support.conversations import computed_tokens
from tests.support.gateways import chat, events_of
from tests.support.several import FLEET

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"


def body(path: str, model: str, text: str, **more: Any) -> dict[str, Any]:
    given = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    return {"model": model, "max_tokens": 24, **given, **more}


def cached(usage: dict[str, Any]) -> int:
    count: int = usage["prompt_tokens_details"]["cached_tokens"]
    return count


def computed(stack: LocalStack, role: str) -> int:
    """Tokens that the workers of a model have put through it so far."""
    return asyncio.run(computed_tokens(stack))[role]


@pytest.mark.parametrize("path", [CHAT, PLAIN])
@pytest.mark.parametrize("role", ["llm", "slm"])
def test_a_second_turn_computes_the_rest(http: httpx2.Client, tiny_stack: LocalStack, path: str, role: str) -> None:
    own = {"rstitch": {"session_id": f"cached{path.count('/')}-{role}", "guard": False}, "cache_salt": f"{path}{role}"}
    first = http.post(path, json=body(path, f"rstitch/{role}", "What is 3 + 4?", **own)).json()["usage"]
    assert cached(first) == 0
    for streamed in (False, True):
        before = computed(tiny_stack, role)
        more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
        response = http.post(path, json=body(path, f"rstitch/{role}", "And what is 5 + 4?", **own, **more))
        usage = events_of(response)[-2]["usage"] if streamed else response.json()["usage"]
        # The last token of an answer is put through the model only if something follows.
        of_prompt = computed(tiny_stack, role) - before - (usage["completion_tokens"] - 1)
        assert cached(usage) == usage["prompt_tokens"] - of_prompt
        assert first["total_tokens"] - 1 <= cached(usage) < usage["prompt_tokens"]


def test_of_both_models_the_one_that_computed_more_counts(http: httpx2.Client, tiny_stack: LocalStack) -> None:
    own = {"rstitch": {"session_id": "cached-both", "guard": False}, "cache_salt": "cached-both"}
    alone, both = "rstitch/slm", "rstitch:random:slm_probability=0.5,seed=1"
    first = http.post(CHAT, json=chat(model=alone, max_tokens=24, **own)).json()["usage"]
    second = http.post(CHAT, json=chat(model=both, max_tokens=24, **own)).json()["usage"]
    assert (cached(first), cached(second)) == (0, 0), "the LLM had read none of it"
    assert second["rstitch"]["llm_tokens"] > 0
    third = http.post(CHAT, json=chat(model=both, max_tokens=24, **own)).json()["usage"]
    assert cached(third) >= second["prompt_tokens"]


def test_choices_of_one_prompt_are_told_as_the_one_that_computed_it(http: httpx2.Client) -> None:
    usage = http.post(CHAT, json=chat(n=3, temperature=0.9, max_tokens=4, cache_salt="cached-choices")).json()["usage"]
    assert cached(usage) == 0


@pytest.mark.skipif(FLEET, reason="what another session had computed may be on another worker")
def test_what_other_sessions_had_computed_counts(http: httpx2.Client) -> None:
    text = "one two three four five six seven eight nine ten " * 20
    asked = body(PLAIN, "rstitch/llm", text, cache_salt="cached-shared")
    first, again = (http.post(PLAIN, json=asked).json()["usage"] for _ in range(2))
    assert cached(first) == 0
    assert 0 < cached(again) < again["prompt_tokens"]
