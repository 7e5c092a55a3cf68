"""What is code to a template stays text in a message, and a model folder's template gets at nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from router_svc.text.render_process import RenderProcess, TemplateRefused
from router_svc.text.template import ChatTemplate
from router_svc.text.turns import Message, Turn
from rstitch.errors import InvalidArgument

PAYLOADS = (
    "{{ 7 * 7 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].environ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__class__ }}{{ joiner.__init__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ (''|attr('format'))|attr('__globals__') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "{{ ('{0.__class__}' | attr('format'))(1) }}",
    "{{ strftime_now.__globals__ }}",
    "{{ raise_exception.__code__ }}",
    "{% set x = messages.append(1) %}{{ messages }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{{ range.__self__ }}",
    "{{ x.__class__ }}",
)
SECRETS = ("root:", "subclass", "<class", "builtin", "function ", "PATH", "0x")


@pytest.fixture(scope="module")
def process() -> Iterator[RenderProcess]:
    made = RenderProcess()
    yield made
    made.close()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_in_a_message_it_is_text(payload: str) -> None:
    template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ m.name }}{% endfor %}", {}, {})
    said = Message("user", payload, fields={"name": payload})
    asked = Turn((said,), kwargs={"x": payload}, tools=({"a": payload},), documents=({"a": payload},))
    assert template.render([said], asked) == f"<user>{payload}{payload}"


@pytest.mark.parametrize("payload", PAYLOADS[1:])
def test_in_a_template_it_gets_at_nothing(payload: str, process: RenderProcess) -> None:
    try:
        told = process.render(payload, {"messages": [], "x": "y"})
    except TemplateRefused as refused:
        told = str(refused)
        assert len(told) <= 1000
    assert not any(word in told for word in SECRETS), told


def test_what_a_template_fails_with_is_told_as_a_refusal_of_the_chat() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content + 1 }}{% endfor %}", {}, {})
    with pytest.raises(InvalidArgument, match="refuses this conversation") as caught:
        template.render([Message("user", "x")], Turn())
    assert caught.value.field == "chat"
