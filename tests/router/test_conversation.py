"""Text and chat in, text out; a session goes on where it was."""

from __future__ import annotations

from typing import Any

import pytest

from router_svc.text.conversation import first_prompt
from router_svc.text.tokenizer import Tokenizer
from router_svc.text.turns import Message, Turn
from router_svc.trajectory.types import Model
from rstitch.client.chats import struct
from rstitch.v1 import router_pb2
from tests.support.asking import Answer, ask_for, chat, check_kept, stored, take, threshold
from tests.support.toy import CHAT_TEMPLATE, STOP, ToyModel, algorithm_1, make_tokenizer_files
from tests.support.toy_stack import Stack

TOKENIZER = Tokenizer(make_tokenizer_files())


def says(text: str, ends: bool = True) -> Any:
    """A model that writes `text`, then stops; it starts again at each opening of an assistant's turn."""
    ids = list(TOKENIZER.encode(text, begins=False))

    def choose(prefix: Any) -> int:
        opening = first_prompt(TOKENIZER, Turn((Message("user", "x"),)))[-1]
        begun = len(prefix) - 1 - list(reversed(list(prefix))).index(opening) if opening in prefix else 0
        at = len(prefix) - begun - 1
        return ids[at] if at < len(ids) else STOP if ends else ids[at % len(ids)]

    return ToyModel(5, choose=choose)


async def ask_chat(stub: Any, text: str, **fields: Any) -> Answer:
    return await take(stub, ask_for(chat=chat(("user", text)), **fields))


async def test_a_conversation_has_the_tokens_that_rendering_it_whole_would_give(stack: Stack) -> None:
    stack.slm.model = stack.llm.model = says("Grüße 👩‍👩‍👧!")
    stub = await stack.stub(await stack.router())
    first = await ask_chat(stub, "Hallo")
    assert first.error is None
    assert first.text == "Grüße 👩‍👩‍👧!"
    second = await ask_chat(stub, "Und?", session_id=first.session_id)
    assert second.error is None
    assert second.text == "Grüße 👩‍👩‍👧!"
    third = await ask_chat(stub, "So.", session_id=first.session_id)
    trajectory = await check_kept(stub, third)
    tokens = [token for segment in trajectory.segments for token in segment.tokens]
    said = [("user", "Hallo"), ("assistant", first.text), ("user", "Und?"), ("assistant", second.text), ("user", "So.")]
    whole = list(first_prompt(TOKENIZER, Turn(tuple(Message(role, text) for role, text in said))))
    assert tokens[: third.num_prompt_tokens] == whole
    assert trajectory.epoch == 1
    assert sum(segment.source == 1 for segment in trajectory.segments) == 3
    texts = [segment.text for segment in trajectory.segments if segment.source != 1]
    assert "".join(texts) == first.text * 3


@pytest.mark.parametrize("cut", [{"max_new_tokens": 3}, {"stop": ["ü"]}])
async def test_a_turn_that_did_not_end_is_closed_as_the_template_does(stack: Stack, cut: dict[str, Any]) -> None:
    stack.slm.model = stack.llm.model = says("Grüße")
    stub = await stack.stub(await stack.router())
    first = await ask_chat(stub, "Hallo", **cut)
    await ask_chat(stub, "Und?", session_id=first.session_id)
    trajectory = await stored(stub, first.session_id)
    joined = "".join(TOKENIZER.spelling(token) or "" for segment in trajectory.segments for token in segment.tokens)
    assert joined.startswith("<|user|>Hallo<|end|>Ċ<|assistant|>Gr")
    assert joined.count("<|end|>Ċ<|user|>Und?<|end|>Ċ<|assistant|>Gr") == 1


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (["\nth"], "one two"),
        (["four", "x"], "one two\nthree "),
        (["wo\n", "two\nt"], "one t"),
        (["fouro"], "one two\nthree "),
    ],
)
async def test_stop_strings_end_the_answer_before_them(stack: Stack, stop: list[str], text: str) -> None:
    stack.slm.model = stack.llm.model = says("one two\nthree four", ends=False)
    stub = await stack.stub(await stack.router())
    answer = await ask_chat(stub, "?", stop=stop, max_new_tokens=60, policy=threshold(0.5))
    assert answer.error is None
    assert (answer.text, answer.finished.reason) == (text, 2)
    # The tokens kept are those up to the one that completes the stop string.
    assert any(wanted in TOKENIZER.decode(answer.tokens) for wanted in stop)
    assert not any(wanted in TOKENIZER.decode(answer.tokens[:-1]) for wanted in stop)
    await check_kept(stub, answer)
    again = await take(stub, router_pb2.GenerateRequest(session_id=answer.session_id, resume_from=0))
    assert (again.tokens, again.text) == (answer.tokens, answer.text)


@pytest.mark.parametrize(("stop", "text"), [("<|pad|>", "one "), ("e <|pad|>t", "on"), ("|pad|", "one two")])
async def test_a_special_token_in_a_stop_string_ends_the_answer(stack: Stack, stop: str, text: str) -> None:
    stack.slm.model = stack.llm.model = says("one <|pad|>two")
    stub = await stack.stub(await stack.router())
    answer = await ask_chat(stub, "?", stop=[stop], policy=threshold(0.5))
    assert answer.error is None
    assert (answer.text, answer.finished.reason) == (text, 1 if text == "one two" else 2)
    await check_kept(stub, answer)
    for position in range(answer.num_prompt_tokens, len(answer.tokens)):
        again = await take(stub, router_pb2.GenerateRequest(session_id=answer.session_id, resume_from=position))
        assert answer.text.endswith(again.text)
        assert again.tokens == answer.tokens[position - answer.num_prompt_tokens :]


@pytest.mark.parametrize("cut", [1, 2, 3])
async def test_an_answer_completes_a_character_of_the_prompt(stack: Stack, cut: int) -> None:
    [before] = TOKENIZER.encode("a", begins=True)
    tokens = [before, *TOKENIZER.encode("👩b", begins=False), STOP]
    stack.slm.model = stack.llm.model = ToyModel(5, choose=lambda prefix: tokens[len(prefix)])
    stub = await stack.stub(await stack.router())
    answer = await take(stub, ask_for(tokens[: 1 + cut]))
    assert answer.error is None
    assert (answer.tokens, answer.text) == (tokens[1 + cut :], "👩b")
    segments = (await check_kept(stub, answer)).segments
    assert "".join(segment.text for segment in segments[1:]) == "👩b"


async def test_what_an_answer_took_is_known_at_a_stop_string_too(stack: Stack) -> None:
    stack.slm.model = stack.llm.model = says("one two\nthree four", ends=False)
    stack.slm.delay_s = 0.002
    stub = await stack.stub(await stack.router())
    policy = {"slm_only": {}}
    answer = await ask_chat(stub, "?", stop=["four"], max_new_tokens=60, policy=policy)
    assert (answer.finished.reason, answer.finished.usage.num_slm_tokens) == (2, len(answer.tokens))
    assert answer.finished.usage.slm_forward_us > 0
    assert answer.finished.usage.num_catch_up_tokens == answer.num_prompt_tokens
    if answer.session_id in stack.slm.sessions:  # the fake evicts now and then
        assert len(stack.slm.sessions[answer.session_id]) == answer.finished.length


async def test_the_beginning_of_a_stop_string_at_the_end_is_text(stack: Stack) -> None:
    stack.slm.model = stack.llm.model = says("one two")
    stub = await stack.stub(await stack.router())
    answer = await ask_chat(stub, "?", stop=["two!"])
    assert (answer.text, answer.finished.reason) == ("one two", 1)


async def test_raw_text_and_what_follows_it(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    first = await take(stub, ask_for(text="the end", policy=threshold(0.5), max_new_tokens=9))
    assert first.num_prompt_tokens == len(TOKENIZER.encode("the end", begins=True))
    more = ask_for(text=" and on", session_id=first.session_id, policy=threshold(0.3), max_new_tokens=30)
    second = await take(stub, more)
    trajectory = await check_kept(stub, second)
    tokens = [token for segment in trajectory.segments for token in segment.tokens]
    expected = algorithm_1(stack.slm.model, stack.llm.model, tokens[: second.num_prompt_tokens], 0.3, 0.3, 30)
    assert (second.tokens, second.authors) == expected
    assert trajectory.policy.threshold.tau == 0.3


async def test_a_session_keeps_its_workers_caches(stack: Stack) -> None:
    """A follow-up sends only what is new."""
    stack.slm.model = says("abc")
    stub = await stack.stub(await stack.router())
    first = await ask_chat(stub, "Hallo", policy={"slm_only": {}})
    stack.slm.requests.clear()
    stack.slm.sessions[first.session_id] = [
        t for s in (await stored(stub, first.session_id)).segments for t in s.tokens
    ]
    await ask_chat(stub, "Und?", session_id=first.session_id, policy={"slm_only": {}})
    assert stack.slm.requests[0].position == first.finished.length
    assert len(stack.slm.requests) == 1


async def test_the_list_is_newest_first_and_pages_hold_each_once(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    names = [f"s{number}" for number in range(7)]
    for name in names:
        await take(stub, ask_for(session_id=name, max_new_tokens=2))
    listed: list[str] = []
    token = ""
    while True:
        page = await stub.ListTrajectories(router_pb2.ListTrajectoriesRequest(page_size=3, page_token=token))
        assert len(page.trajectories) <= 3
        listed += [trajectory.session_id for trajectory in page.trajectories]
        assert not any(trajectory.segments for trajectory in page.trajectories)
        token = page.next_page_token
        if not token:
            break
    assert listed == names[::-1]


DROPS = CHAT_TEMPLATE.replace("{{ message['content'] }}", "{{ message['content'].split('</t>')[-1] }}")


@pytest.mark.parametrize("of_slm", [DROPS, CHAT_TEMPLATE])
async def test_what_a_template_drops_of_earlier_answers_its_model_does_not_read(stack: Stack, of_slm: str) -> None:
    """Each worker holds what its own template makes of the whole conversation, also behind another router."""
    assert DROPS != CHAT_TEMPLATE
    files = {
        Model.SLM: make_tokenizer_files(chat_template=of_slm),
        Model.LLM: make_tokenizer_files(chat_template=DROPS),
    }
    workers = {Model.SLM: stack.slm, Model.LLM: stack.llm}
    for model, worker in workers.items():
        await worker.stop()
        worker.files, worker.model, worker.evict_share = files[model], says("hm so</t>ok"), 0
        await worker.start()
    stub = await stack.stub(await stack.router(catch_up_tokens=1))
    other = await stack.stub(await stack.router(catch_up_tokens=1))
    said = [("user", "Hallo")]
    fields: dict[str, Any] = {"policy": {"random": {"slm_probability": 0.5, "seed": 1}}, "session_id": "s"}
    for turn, text in enumerate(("Und?", "So.", "Gut.")):
        answer = await take(stub if turn % 2 else other, ask_for(chat=chat(said[-1]), **fields))
        assert answer.error is None
        assert answer.text == "hm so</t>ok"
        trajectory = await check_kept(stub, answer)
        for model, worker in workers.items():
            whole = first_prompt(Tokenizer(files[model]), Turn(tuple(Message(role, content) for role, content in said)))
            held = worker.sessions["s"]
            assert len(held) > len(whole)
            assert held == [*whole, *answer.tokens][: len(held)]
        prompts = [segment for segment in trajectory.segments if segment.source == router_pb2.SOURCE_PROMPT]
        assert [segment.HasField("num_read_before") for segment in prompts] == [False] + [True] * turn
        assert any(segment.HasField("slm_prompt") for segment in prompts) == (of_slm != DROPS and turn > 0)
        said += [("assistant", answer.text), ("user", text)]


async def test_what_goes_with_a_chat_reaches_each_template_and_stays_for_later_turns(stack: Stack) -> None:
    template = (
        "{% if tools is not none %}{{ tools | tojson }}{% endif %}"
        "{% for one in documents or [] %}{{ one.text }}{% endfor %}{{ mood }}{{ eos_token }}"
        + CHAT_TEMPLATE.replace("['system',", "['tool', 'system',")
    )
    tokenizer = Tokenizer(make_tokenizer_files(chat_template=template))
    for worker in (stack.slm, stack.llm):
        await worker.stop()
        worker.files, worker.model = make_tokenizer_files(chat_template=template), says("Well ok")
        await worker.start()
    stub = await stack.stub(await stack.router())
    asked: dict[str, Any] = {
        "tools": [struct({"type": "function", "function": {"name": "f", "parameters": {"n": 1}}})],
        "documents": [struct({"title": "t", "text": "Book."})],
        "chat_template_kwargs": struct({"mood": "calm", "n": 3}),
    }
    begun = [{"role": "user", "text_parts": ["Hal", "lo"]}, {"role": "assistant", "content": "Well "}]
    first = await take(stub, ask_for(chat={"messages": begun, **asked}))
    assert first.text == "ok"
    result = {"role": "tool", "content": "10", "fields": struct({"tool_call_id": "a"})}
    second = await take(stub, ask_for(chat={"messages": [result]}, session_id=first.session_id))
    assert second.error is None
    trajectory = await check_kept(stub, second)
    head = '[{"type": "function", "function": {"name": "f", "parameters": {"n": 1}}}]Book.calm<|end|>'
    read = [token for segment in trajectory.segments for token in segment.tokens][: second.num_prompt_tokens]
    assert tokenizer.spelled(read[: first.num_prompt_tokens]) == (head + "<|user|>Hal\nlo<|end|>\n<|assistant|>Well ")
    assert tokenizer.spelled(read) == (
        head + "<|user|>Hal\nlo<|end|>\n<|assistant|>Well ok<|end|>\n<|tool|>10<|end|>\n<|assistant|>"
    )
