"""A conversation's next turn is the template's rendering of the whole, but for the kept answers' own tokens.

The oracle is transformers: what `apply_chat_template` makes of all messages so far, answers as assistant messages.
"""

from __future__ import annotations

import itertools
import random
import secrets
from array import array
from dataclasses import replace
from typing import Any

import pytest

from router_svc.api.chat import parse_turn
from router_svc.text.conversation import answered, first_prompt, next_prompt
from router_svc.text.tokenizer import Tokenizer
from router_svc.text.turns import Message, Turn
from router_svc.trajectory.types import tokens_of
from rstitch.client.chats import struct
from rstitch.errors import InvalidArgument
from rstitch.v1 import router_pb2
from tests.support.templates import FAMILIES, Family

TOOLS = ({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},)
PLAIN = ["qwen2.5", "qwen3", "qwen3-thinking", "llama3", "llama3.2", "mistral", "gemma", "phi"]


class Talk:
    """A conversation of one model, asked as the router asks it, with what transformers says it should have read."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.ours: Tokenizer = family.ours()
        self.theirs = family.theirs()
        self.turns: list[Turn] = []
        self.view = tokens_of()
        self.messages: list[dict[str, Any]] = []
        self.num_before = 0

    def ask(self, *messages: Message | str, **more: Any) -> None:
        given = tuple(Message("user", one) if isinstance(one, str) else one for one in messages)
        turn = Turn(given, **more)
        self.messages += [{"role": m.role, "content": m.content, **m.fields} for m in given]
        if self.turns:
            prompt = next_prompt(self.ours, [*self.turns, turn], self.view)
            assert prompt.tokens
            self.num_before = prompt.num_before
            self.view = self.view[: prompt.num_before] + prompt.tokens
        else:
            self.view = first_prompt(self.ours, turn)
        self.turns.append(turn)

    def answer(self, text: str, *, ends: bool = True, tokens: array[int] | None = None) -> None:
        """The model writes `text` and, where it `ends`, the stop token that the template puts there."""
        written = self.ours.encode(text, begins=False) if tokens is None else tokens
        if ends:
            written = written + tokens_of([self.theirs.eos_token_id])
        answer = answered(self.ours, written, ended=ends)
        if self.messages[-1]["role"] == "assistant":
            self.messages[-1]["content"] += answer.text
        else:
            self.messages.append({"role": "assistant", "content": answer.text})
        self.turns[-1] = self.turns[-1].answered(answer)
        self.view = self.view + written

    def expected(self, **more: Any) -> list[int]:
        continues = self.messages[-1]["role"] == "assistant"
        ids: list[int] = self.theirs.apply_chat_template(
            self.messages,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            return_dict=False,
            **more,
        )
        return ids


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("ends", [True, False])
def test_a_conversation_is_what_rendering_it_whole_gives(name: str, ends: bool) -> None:
    talk = Talk(FAMILIES[name])
    kwargs = {"date_string": "May"}
    for question, answer in [("Hello the 👩‍👩‍👧", "Grüße!"), ("And?\n\nMore", "in\n\nall"), ("So", "")]:
        talk.ask(question, kwargs=kwargs)
        assert list(talk.view) == talk.expected(**kwargs)
        talk.answer(answer, ends=ends)
    before = len(talk.view)
    talk.ask("Bye", kwargs=kwargs)
    assert list(talk.view) == talk.expected(**kwargs)
    if name != "qwen3-thinking":  # its prompts open a thought that what is shown later has not
        assert talk.num_before == before


@pytest.mark.parametrize("name", PLAIN)
def test_an_answers_own_tokens_stay_as_written(name: str) -> None:
    """The model spells words in its own way, letter by letter; nothing of an answer is tokenised again."""
    talk = Talk(FAMILIES[name])
    own = array("I", [token for letter in "the rain" for token in talk.ours.encode(letter, begins=False)])
    assert own != talk.ours.encode("the rain", begins=False)
    talk.ask("Hello")
    talk.answer("", tokens=own)
    talk.ask("And?")
    expected, canonical = talk.expected(), list(talk.ours.encode("the rain", begins=False))
    at = next(at for at in range(len(expected)) if expected[at : at + len(canonical)] == canonical)
    assert list(talk.view) == [*expected[:at], *own, *expected[at + len(canonical) :]]


@pytest.mark.parametrize("ends", [True, False])
def test_llama_2_ends_a_turn_once(ends: bool) -> None:
    talk = Talk(FAMILIES["llama2"])
    talk.ask(Message("system", "Be brief"), "Hello")
    assert list(talk.view) == talk.expected()
    asked = list(talk.view)
    talk.answer("", tokens=tokens_of(talk.ours.encode("ok the", begins=True)), ends=ends)
    written = list(talk.view)[len(asked) :]
    talk.ask("And?")
    rest = list(talk.view)[len(asked) + len(written) :]
    spelled = [talk.ours.spelling(token) for token in rest]
    closing = ["<s>"] if ends else ["▁", "</s>", "<s>"]
    assert spelled[: len(closing)] == closing
    assert "".join(map(str, spelled[len(closing) :])) == "▁[INST]▁And?▁[/INST]"
    assert talk.num_before == len(asked) + len(written)
    if ends:  # and all of it is what the whole conversation is, but for the space that the template puts before the end
        whole = talk.expected()
        space = whole.index(talk.theirs.eos_token_id) - 1
        assert list(talk.view) == whole[:space] + whole[space + 1 :]


def test_what_the_template_ends_a_turn_with_is_put_once_whoever_stopped_there() -> None:
    """The models do not stop at that token by themselves; the request's stop_token_ids did."""
    talk = Talk(FAMILIES["qwen2.5"])
    talk.ask("Hello")
    closed = talk.ours.encode("Hi<|im_end|>", begins=False)
    talk.answer("", tokens=closed, ends=False)
    talk.messages[-1]["content"] = "Hi"
    talk.ask("And?")
    assert list(talk.view) == talk.expected()


THOUGHTS = {
    "r1": ("hm\nso\n</think>\n\nTen", "\n\nTen"),
    "qwq": ("hm\nso\n</think>\n\nTen", "Ten"),
    "qwen3": ("<think>\nhm\nso\n</think>\n\nTen", "Ten"),
    "qwen3-thinking": ("hm\nso\n</think>\n\nTen", "Ten"),
}


@pytest.mark.parametrize(("name", "texts"), THOUGHTS.items(), ids=THOUGHTS)
def test_reasoning_that_the_template_drops_is_dropped(name: str, texts: tuple[str, str]) -> None:
    talk = Talk(FAMILIES[name])
    talk.ask("Hello")
    assert list(talk.view) == talk.expected()
    for question in ("And?", "So?", "Bye"):
        talk.answer(texts[0])
        talk.ask(question)
        assert list(talk.view) == talk.expected()
        assert talk.ours.spelled(talk.view).count("hm") == 0
        assert talk.ours.spelled(talk.view).count(texts[1]) == len(talk.turns) - 1
        assert talk.num_before > 0
    # What was read before the last answer stays.
    last = talk.ours.spelled(talk.view[: talk.num_before])
    assert last.count(texts[1]) == len(talk.turns) - 2


def test_an_answer_before_the_first_dropped_reasoning_keeps_its_own_tokens() -> None:
    talk = Talk(FAMILIES["qwen3"])
    own = tokens_of(token for letter in "the" for token in talk.ours.encode(letter, begins=False))
    talk.ask("Hello")
    talk.answer("", tokens=own)
    kept = len(talk.view)
    talk.ask("And?")
    talk.answer(THOUGHTS["qwen3"][0])
    talk.ask("So?")
    assert talk.num_before > kept
    assert list(talk.view[kept - len(own) - 1 : kept - 1]) == list(own)
    canonical = list(talk.ours.encode("the", begins=False))
    assert list(talk.view[:kept][: -len(own) - 1]) + canonical + list(talk.view[kept - 1 :]) == talk.expected()


@pytest.mark.parametrize("name", ["qwen3", "qwen3-thinking"])
def test_reasoning_stays_as_written_while_tools_answer(name: str) -> None:
    talk = Talk(FAMILIES[name])
    thought = THOUGHTS[name][0].replace("Ten", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')
    own = tokens_of(token for letter in thought for token in talk.ours.encode(letter, begins=False))
    talk.ask("Hello", tools=TOOLS)
    asked = len(talk.view)
    talk.answer("", tokens=own)
    written = len(talk.view)
    talk.ask(Message("tool", "10", fields={"tool_call_id": "1"}))
    assert talk.num_before == written
    assert list(talk.view[asked : written - 1]) == list(own)
    assert talk.ours.spelled(talk.view) == talk.theirs.decode(talk.expected(tools=list(TOOLS)))


def test_thinking_turned_off_and_on() -> None:
    talk = Talk(FAMILIES["qwen3"])
    for thinks in (False, True, False):
        talk.ask("Hello", kwargs={"enable_thinking": thinks})
        assert list(talk.view) == talk.expected(enable_thinking=thinks)
        talk.answer("Hi")
    talk.ask("And?")
    assert list(talk.view) == talk.expected(enable_thinking=False), "what an earlier turn gave stays"


def test_tools_that_move_from_turn_to_turn() -> None:
    talk = Talk(FAMILIES["mistral"])
    talk.ask("Hello", tools=TOOLS)
    assert list(talk.view) == talk.expected(tools=list(TOOLS))
    for question in ("And?", "So?"):
        talk.answer("Hi")
        talk.ask(question)
        assert list(talk.view) == talk.expected(tools=list(TOOLS))


@pytest.mark.parametrize("name", ["qwen2.5", "llama3", "gemma", "mistral", "phi"])
@pytest.mark.parametrize("begun", ["Sure", "Sure, ", "Sure,\n"])
def test_a_message_of_the_assistants_is_continued(name: str, begun: str) -> None:
    talk = Talk(FAMILIES[name])
    talk.ask("Hello", Message("assistant", begun))
    assert list(talk.view) == talk.expected()
    talk.messages[-1]["content"] = talk.messages[-1]["content"] if name != "llama3" else begun
    before = len(talk.view)
    talk.answer("thing")
    talk.ask("And?", Message("assistant", begun))
    assert talk.num_before == before + 2 + (len(talk.ours.encode("thing", begins=False)) - 1)
    text = talk.ours.spelled(talk.view)
    trims = name in ("llama3", "gemma")
    assert text.count((begun.rstrip() if trims else begun) + "thing") == 1
    assert text.endswith(begun.rstrip() if trims else begun)


def test_a_template_that_shows_the_last_turn_only_is_rendered_whole() -> None:
    talk = Talk(FAMILIES["last only"])
    for question in ("Hello", "And?", "And?"):
        talk.ask(question)
        assert list(talk.view) == talk.expected()
        talk.answer("Hi")


def test_an_answer_that_changes_what_is_around_it_is_rendered() -> None:
    """The template says something else after one certain answer."""
    family = FAMILIES["llama3"]
    template = family.template.replace(
        "{%- if add_gen", "{%- if messages[1] and 'x' in messages[1].content %}!{% endif %}{%- if add_gen"
    )
    for answer in ("ok", "xo"):
        talk = Talk(replace(family, template=template))
        talk.ask("Hello")
        talk.answer(answer)
        talk.ask("And?")
        assert list(talk.view) == talk.expected()


def test_raw_text_before_a_chat_stays_as_it_is() -> None:
    talk = Talk(FAMILIES["qwen3"])
    raw = talk.ours.encode("Once upon", begins=True)
    answer = talk.ours.encode(" a time", begins=False)
    turns = [Turn(answer=answered(talk.ours, answer, ended=False)), Turn((Message("user", "And?"),))]
    prompt = next_prompt(talk.ours, turns, raw + answer, len(raw + answer))
    assert prompt.num_before == len(raw + answer)
    assert talk.ours.spelled(prompt.tokens) == "<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    view = raw + answer + prompt.tokens
    thought = talk.ours.encode("<think>\nhm\n</think>\n\nTen", begins=False) + tokens_of([talk.theirs.eos_token_id])
    turns[-1] = turns[-1].answered(answered(talk.ours, thought, ended=True))
    later = next_prompt(talk.ours, [*turns, Turn((Message("user", "So?"),))], view + thought, len(raw + answer))
    text = talk.ours.spelled((view + thought)[: later.num_before] + later.tokens)
    assert text == (
        "Once upon a time<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\nTen<|im_end|>\n"
        "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_raw_text_before_a_template_that_drops_it_is_refused() -> None:
    tokenizer = FAMILIES["last only"].ours()
    read = tokenizer.encode("Once", begins=True)
    turns = [Turn(answer=answered(tokenizer, read, ended=False)), Turn((Message("user", "And?"),))]
    with pytest.raises(InvalidArgument, match="drops answers to raw text") as caught:
        next_prompt(tokenizer, turns, read, len(read))
    assert caught.value.field == "chat"


def test_what_stands_for_answers_may_be_said_by_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn anew until it is in none of them: a name of a known form could be said at any length."""
    draws = itertools.cycle(["4f1d", "4f1e", "4f1f"])
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(draws))
    talk = Talk(FAMILIES["qwen2.5"])
    for name in ("RSTITCH-ANSWER-4F1D-0X", "RSTITCH-ANSWER-4F1E--0X"):
        talk.ask(name)
        assert list(talk.view) == talk.expected()
        talk.answer(name)
    talk.ask("And?")
    assert list(talk.view) == talk.expected()
    assert next(draws) == "4f1d", "names were not drawn until the third, which nobody says"


def test_random_conversations() -> None:
    dice = random.Random(3)
    for name in ("qwen2.5", "qwen3", "qwen3-thinking", "qwq", "r1", "llama3.2", "mistral"):
        for _ in range(6):
            talk = Talk(FAMILIES[name])
            for _ in range(dice.randint(1, 5)):
                talk.ask("".join(dice.choices("ab \né", k=dice.randint(1, 9))) + "?", kwargs={"date_string": "May"})
                assert list(talk.view) == talk.expected(date_string="May")
                thought = THOUGHTS.get(name, ("", ""))[0] * dice.randint(0, 1)
                text = thought + "".join(dice.choices("xy", k=dice.randint(0, 5)))
                talk.answer(text, ends=dice.random() < 0.7)


def test_a_turn_is_kept_as_json() -> None:
    turn = Turn(
        (Message("user", "é"), Message("system", parts=("a", "b"), fields={"name": None, "x": [1, 2.5]})),
        tools=TOOLS,
        documents=({"text": "t"},),
        kwargs={"enable_thinking": False},
    )
    assert Turn.from_json(turn.to_json()) == turn
    assert Turn().to_json() == "{}"
    assert Turn.from_json("{}") == Turn()


def test_what_comes_over_the_wire_has_one_order_and_whole_numbers() -> None:
    """Whatever order a map of the wire has: names of schemas as transformers orders them, others by the alphabet."""
    function = {
        "type": "function",
        "function": {
            "name": "f",
            "description": "d",
            "parameters": {
                "type": "object",
                "properties": {
                    "zebra": {"type": "integer", "enum": [3, 1], "description": "z"},
                    "apple": {"type": "array", "items": {"type": "number"}, "nullable": True, "description": "a"},
                    "bean": {"type": "string", "default": 1.5},
                },
                "required": ["zebra"],
            },
        },
    }
    chat = router_pb2.Chat(
        messages=[{"role": "user", "content": "x", "fields": struct({"b": 1, "a": -2.0, "c": 1e300, "d": {}})}],
        tools=[struct(function)],
    )
    turn = parse_turn(router_pb2.Chat.FromString(chat.SerializeToString()))
    assert str(turn.tools[0]) == str(function)
    assert str(turn.messages[0].fields) == str({"a": -2, "b": 1, "c": int(1e300), "d": {}})


def test_a_call_of_a_tool_needs_no_text() -> None:
    talk = Talk(FAMILIES["qwen2.5"])
    talk.ask("Hello", Message("assistant", fields={"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}),
             Message("tool", "10"))  # fmt: skip
    assert list(talk.view) == talk.expected()
