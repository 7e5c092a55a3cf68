"""What a template makes of a conversation is what transformers makes of it, for every variable that it gives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from router_svc.text.rendering import render
from router_svc.text.turns import Message, Turn
from rstitch.errors import InvalidArgument
from tests.support.templates import FAMILIES, Family

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says how warm it is in °C, <here>.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
CALL = {"type": "function", "id": "123456789", "function": {"name": "weather", "arguments": {"town": "Köln"}}}
DOCUMENTS = ({"title": "A", "text": "one"}, {"title": "B", "text": "two"})
THOUGHT = "<think>\nhm\n\nso\n</think>\n\nTen."
ASKED = {
    "one": [("user", "Hello")],
    "system": [("system", " Be brief. "), ("user", "Hello\n")],
    "answered": [("user", "Hello"), ("assistant", " Hi! "), ("user", "And?")],
    "thought": [("user", "Hello"), ("assistant", THOUGHT), ("user", "And?"), ("assistant", THOUGHT), ("user", "So")],
    "king": [("king", "Hello")],
    "twice": [("user", "Hello"), ("user", "Hello")],
    "continued": [("user", "Hello"), ("assistant", "Well, ")],
    "continued thought": [("user", "Hello"), ("assistant", "<think>\nhm\n</think>\n\nWell")],
    "continued nothing": [("user", "Hello"), ("assistant", "")],
}
WITH: dict[str, Turn] = {
    "nothing": Turn(),
    "tools": Turn(tools=(TOOL,)),
    "documents": Turn(documents=DOCUMENTS),
    "no thinking": Turn(kwargs={"enable_thinking": False, "date_string": "May", "default_system": "S"}),
    "a token": Turn(kwargs={"bos_token": "<BOS>", "eos_token": None}),
}


def theirs(family: Family, messages: list[dict[str, Any]], asked: Turn) -> str | None:
    """What transformers renders; None where it refuses."""
    continues = messages[-1]["role"] == "assistant"
    tokenizer = family.theirs()
    with contextlib.suppress(Exception):
        text: str = tokenizer.apply_chat_template(
            messages,
            tools=list(asked.tools) or None,
            documents=list(asked.documents) or None,
            tokenize=False,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            **asked.kwargs,
        )
        return text
    return None


def ours(family: Family, messages: list[Message], asked: Turn) -> str | None:
    template = family.ours().template
    with contextlib.suppress(InvalidArgument):
        return template.render(messages, asked)
    return None


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_family_renders_as_in_transformers(family: Family) -> None:
    num_rendered = 0
    for said in ASKED.values():
        for asked in WITH.values():
            expected = theirs(family, [{"role": role, "content": text} for role, text in said], asked)
            assert ours(family, [Message(role, text) for role, text in said], asked) == expected
            num_rendered += expected is not None
    assert num_rendered > 20


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3", "llama3.2", "mistral"])
def test_tool_calls_and_their_results(name: str) -> None:
    family = FAMILIES[name]
    fields = {"tool_calls": [CALL], "name": None}
    messages = [
        Message("user", "How warm is it?"),
        Message("assistant", "", fields={**fields, "reasoning_content": "I must ask."}),
        Message("tool", "10", fields={"tool_call_id": CALL["id"]}),
    ]
    plain = [{"role": message.role, "content": message.content, **message.fields} for message in messages]
    expected = theirs(family, plain, WITH["tools"])
    assert expected is not None
    assert "weather" in expected
    assert ours(family, messages, WITH["tools"]) == expected


def test_a_template_of_another_name_is_chosen_as_transformers_does() -> None:
    family = FAMILIES["last only"]
    said = [Message("user", "x")]
    assert ours(family, said, WITH["tools"]) == "tools: 1</s>"
    assert ours(family, said, Turn(documents=DOCUMENTS, kwargs={"chat_template": "rag"})) == "one"
    assert ours(family, said, WITH["documents"]) == "[A: one][B: two]<s><sep><mask>FalseFalsex"
    only_named = Family("", family.named, templates=family.templates)
    assert ours(only_named, said, WITH["tools"]) == "tools: 1</s>"
    for asked in (Turn(), Turn(kwargs={"chat_template": "none"}), Turn(kwargs={"chat_template": "{{ 1 }}"})):
        with pytest.raises(InvalidArgument) as caught:
            only_named.ours().template.render(said, asked)
        assert "rag, tool_use" in f"{caught.value}"


@pytest.mark.parametrize(
    ("name", "joins"), [("llama3.2", False), ("llama3", True), ("qwen2.5", True), ("last only", True)]
)
def test_text_in_parts(name: str, joins: bool) -> None:
    """A template that reads lists gets one; any other the joined text, and never a list as Python prints it."""
    family, parts = FAMILIES[name], ("one", "two")
    content = "one\ntwo" if joins else [{"type": "text", "text": part} for part in parts]
    expected = theirs(family, [{"role": "user", "content": content}], Turn())
    assert expected is not None
    assert ours(family, [Message("user", parts=parts)], Turn()) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in range(5) %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}",
        "{% set n = namespace(_x=1) %}{{ n._x }}",
        "{{ dict(a=1) }}{{ dict.fromkeys('ab') }}{{ dict.__class__ }}",
        "{{ {'b': 'ü<', 'a': [1.5, none]} | tojson(sort_keys=true, separators=(',', ':')) }}",
        "{{ 'ü' | tojson(ensure_ascii=true) }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no') }}",
        "{{ messages | length }}{{ tools is none }}{{ documents is defined }}{{ unknown is defined }}{{ unknown }}",
        "{% generation %}a{% set x = 1 %}{% endgeneration %}{{ x }}",
        "{{ strftime_now('%Y') }}",
        "   {% if true %}\n a\n   {% endif %}\n",
        "{{ ''.__class__.__mro__ }}",
        "{{ namespace(a=1).a }}{{ cycler('a', 'b').next() }}",
    ],
)
def test_the_language_is_that_of_transformers(source: str) -> None:
    variables = {"messages": [{"role": "user", "content": "x"}], "tools": None, "documents": None}
    expected = outcome(lambda: render_jinja_template([variables["messages"]], chat_template=source)[0][0])
    assert outcome(lambda: render(source, {**variables, "add_generation_prompt": False})) == expected


def outcome(rendering: Callable[[], str]) -> str | type[Exception]:
    try:
        return rendering()
    except Exception as error:  # noqa: BLE001 - whatever it is, it has to be the same
        return type(error)


def test_a_refusal_names_the_field_and_what_the_template_says() -> None:
    with pytest.raises(InvalidArgument, match="Roles must alternate") as caught:
        FAMILIES["llama2"].ours().template.render([Message("user", "a"), Message("user", "b")], Turn())
    assert caught.value.field == "chat"
    assert caught.value.remedy
