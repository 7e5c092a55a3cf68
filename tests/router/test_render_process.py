"""A template that takes too much time or memory is refused by name, and nobody else notices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from router_svc.text.render_process import RenderProcess, TemplateRefused
from router_svc.text.template import ChatTemplate
from router_svc.text.turns import Message, Turn
from rstitch.errors import InvalidArgument


@pytest.fixture
def process() -> Iterator[RenderProcess]:
    made = RenderProcess()
    yield made
    made.close()


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}",
        "{{ 7 ** (7 ** 9) }}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ 'a'.center(10 ** 10) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ {'a': 1} | tojson(indent=10 ** 9) }}",
        "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ range(10 ** 6) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_template_that_takes_too_much_is_refused(process: RenderProcess, source: str) -> None:
    with pytest.raises(TemplateRefused, match=r"it takes more than|it writes|too big|recursion"):
        process.render(source, {})
    assert process.render("{{ a }}", {"a": "é👩"}) == "é👩"


def test_the_refusal_names_the_chat() -> None:
    template = ChatTemplate("{{ 'a' * 10 ** 9 }}", {}, {})
    with pytest.raises(InvalidArgument, match="refuses this conversation: it takes more than 512 MiB") as caught:
        template.render([Message("user", "x")], Turn())
    assert caught.value.field == "chat"


def test_what_is_raised_is_told(process: RenderProcess) -> None:
    with pytest.raises(TemplateRefused, match=r"^no role x$"):
        process.render("{{ raise_exception('no role ' + role) }}", {"role": "x"})
    with pytest.raises(TemplateRefused, match="surrogates"):
        process.render("{{ '\\ud800' }}", {})


def test_threads_share_it(process: RenderProcess) -> None:
    long = "x" * 100_000
    with ThreadPoolExecutor(8) as pool:
        rendered = list(pool.map(lambda n: process.render("{{ n }}{{ long }}", {"n": n, "long": long}), range(50)))
    assert rendered == [f"{n}{long}" for n in range(50)]


def test_one_that_was_ended_from_outside_is_begun_anew(process: RenderProcess) -> None:
    first, second = (int(process.render("{{ pid }}", {"pid": pid})) for pid in (1, 2))
    assert (first, second) == (1, 2)
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGKILL)
    assert process.render("{{ 3 }}", {}) == "3"


def test_it_ends_with_its_owner(process: RenderProcess) -> None:
    process.render("", {})
    running = process._process
    assert running is not None
    assert running.stdin is not None
    running.stdin.close()
    assert running.wait(10) == 0
