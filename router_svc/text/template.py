"""A model's chat templates: a conversation in, the text that the model is to read out, as transformers renders it.

What a template is given is what `apply_chat_template` of transformers gives it (utils/chat_template_utils.py there):
messages, tools, documents, add_generation_prompt, the special tokens by name, and the request's own variables. It knows
no tokens and no answers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router_svc.text import render_process, rendering
from router_svc.text.render_process import TemplateRefused
from router_svc.text.turns import ASSISTANT, Message, Turn
from rstitch.errors import invalid

# The name under which a request chooses one of a model's templates, as in transformers.
TEMPLATE_NAME = "chat_template"
# Reasoning of a message goes by these names; transformers gives it to the template under the first two.
_REASONING = ("reasoning_content", "thinking", "reasoning")
# Ends the message that is to be continued, so that its end is found in what was rendered. With the space behind it one
# sees whether the template trims messages.
_TAG = "RSTITCH-CONTINUES-4F1D "
# Stands for a text when a template is asked how it treats one; no template holds it.
_PROBE = "RSTITCH-PROBE-4F1D"


@dataclass(frozen=True, slots=True)
class Edges:
    """How a template sets an answer: what differs between the prompt for it and the same place once it is written."""

    asked: str = ""  # white space before the answer in its prompt
    shown: str = ""  # white space before the answer in a later prompt
    trims: bool = False  # whether white space at a message's end is left out


class ChatTemplate:
    """The chat templates of one model. Raises jinja2.TemplateSyntaxError if the main one is none."""

    def __init__(self, source: str, named: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        rendering.check_syntax(source)
        self._sources = {"default": source, **named} if source else dict(named)
        self._special = dict(special_tokens)
        self.edges = functools.cache(self._edges)
        self._takes_parts = functools.cache(self._probe_parts)

    def choose(self, asked: Turn) -> str:
        """The source of the template that transformers would take. Raises RstitchError (field `chat`)."""
        name = asked.kwargs.get(TEMPLATE_NAME)
        if name is not None:
            if not isinstance(name, str) or name not in self._sources:
                field = f"chat.chat_template_kwargs.{TEMPLATE_NAME}"
                names = ", ".join(sorted(self._sources)) or "none"
                raise invalid(field, f"the model has no template of the name {str(name)[:80]!r}.", f"It has: {names}.")
            return self._sources[name]
        if asked.tools and "tool_use" in self._sources:
            return self._sources["tool_use"]
        if "default" in self._sources:
            return self._sources["default"]
        if not self._sources:
            raise invalid("chat", "the models have no chat template.", "Send text or tokens.")
        names = ", ".join(sorted(self._sources))
        remedy = f"Name one of {names} in chat.chat_template_kwargs.{TEMPLATE_NAME}."
        raise invalid("chat", "the model has several chat templates and none is the default.", remedy)

    def render(self, messages: Sequence[Message], asked: Turn) -> str:
        """The whole conversation, up to where the assistant speaks; a last message by the assistant is continued.

        Tools, documents and variables are those of `asked`. Raises RstitchError (field `chat`) for a conversation that
        the template refuses.
        """
        source = self.choose(asked)
        given = [self._as_template_sees(source, message) for message in messages]
        variables: dict[str, Any] = {
            "tools": list(asked.tools) or None,
            "documents": list(asked.documents) or None,
            **self._special,
            **{name: value for name, value in asked.kwargs.items() if name != TEMPLATE_NAME},
        }
        if not (messages and messages[-1].role == ASSISTANT):
            return _rendered(source, {**variables, "messages": given, "add_generation_prompt": True})
        return _continued(source, {**variables, "messages": given, "add_generation_prompt": False})

    def _as_template_sees(self, source: str, message: Message) -> dict[str, Any]:
        content: str | list[dict[str, str]] = message.content
        if message.parts:
            takes_parts = self._takes_parts(source, message.role)
            content = _parts(message.parts) if takes_parts else "\n".join(message.parts)
        made = {"role": message.role, "content": content, **message.fields}
        made = {name: value for name, value in made.items() if value is not None}
        reasoning = next((made[name] for name in _REASONING if name in made), None)
        return made if reasoning is None else {"thinking": reasoning, **made, "reasoning_content": reasoning}

    def _probe_parts(self, source: str, role: str) -> bool:
        """Whether the template reads a list of parts in a message of that role, rather than printing it or failing."""
        before = [] if role in ("system", "developer", "user") else [("user", "-")]
        after = [("user", "-")] if role in ("system", "developer") else []
        messages = [{"role": name, "content": text} for name, text in (*before, (role, ""), *after)]
        messages[len(before)]["content"] = _parts([_PROBE])  # type: ignore[assignment]
        text = self._probe(source, messages, add_generation_prompt=False)
        at = text.find(_PROBE)
        # A list that is printed has its text in quotes.
        return at >= 0 and text[at - 1 : at] not in ("'", '"')

    def _edges(self, source: str) -> Edges:
        user, answer = {"role": "user", "content": "-"}, {"role": ASSISTANT, "content": f"{_PROBE} "}
        asked = self._probe(source, [user], add_generation_prompt=True)
        shown = self._probe(source, [user, answer], add_generation_prompt=False)
        before, found, after = shown.partition(_PROBE)
        if not asked or not found:
            return Edges()
        trims = not after.startswith(" ")
        if asked.rstrip() != before.rstrip():
            return Edges(trims=trims)
        end = len(before.rstrip())
        return Edges(asked[end:], before[end:], trims)

    def _probe(self, source: str, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        """What the template makes of messages that nobody sent; "" if it refuses them."""
        given = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        with contextlib.suppress(TemplateRefused):
            return render_process.render(source, {**self._special, "tools": None, "documents": None, **given})
        return ""


def _parts(texts: Sequence[str]) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def _continued(source: str, variables: dict[str, Any]) -> str:
    """Renders up to the end of the last message's text, as transformers' continue_final_message does."""
    *others, last = variables["messages"]
    content = last.get("content")
    if isinstance(content, str):
        final, last = content, last | {"content": content + _TAG}
    else:
        final = content[-1]["text"]
        last = last | {"content": [*content[:-1], content[-1] | {"text": final + _TAG}]}
    text = _rendered(source, {**variables, "messages": [*others, last]})
    at = text.rfind(_TAG.strip())
    if at < 0 or final.strip() not in text:
        what = "the chat template does not show the last message, which is the assistant's, as it is to be continued."
        raise invalid("chat", what, "End the messages with another role's.")
    # Where the template trims the message, nothing of its white space stays.
    return text[:at] if text.startswith(_TAG, at) else text[:at].rstrip()


def _rendered(source: str, variables: Mapping[str, Any]) -> str:
    try:
        return render_process.render(source, variables)
    except TemplateRefused as error:
        raise invalid(
            "chat", f"the chat template refuses this conversation: {error}.", "Check roles and their order."
        ) from error
