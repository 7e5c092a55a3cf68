"""The SLM ends an answer with either of two tokens, the LLM with one that is spelled otherwise."""

from __future__ import annotations

import pytest

from router_svc.text.conversation import first_prompt
from router_svc.text.tokenizer import Tokenizer
from router_svc.text.turns import Message, Turn
from rstitch.v1 import router_pb2
from tests.support.asking import ask_for, chat, check_kept, take, threshold
from tests.support.toy import CHAT_TEMPLATE, STOP, ToyModel, make_tokenizer_files
from tests.support.toy_stack import Stack

EOT, EOM = 0, 1  # of the SLM
SLM_FILES = make_tokenizer_files(
    chat_template=CHAT_TEMPLATE.replace("<|end|>", "<|eot|>"),
    special=("<|eot|>", "<|eom|>", "<|user|>", "<|assistant|>", "<|system|>"),
)
ANSWER = [40, 41, 42]


@pytest.fixture
async def stack_of_unlike_ends(stack: Stack) -> Stack:
    await stack.slm.stop()
    stack.slm.files, stack.slm.stop_token, stack.slm.more_stop_tokens = SLM_FILES, EOT, [EOM]
    await stack.slm.start()
    stack.llm.model = ToyModel(2, choose=lambda prefix: [*ANSWER, STOP][len(prefix) % 4])
    return stack


@pytest.mark.parametrize("end", [EOT, EOM])
async def test_either_end_is_the_llms_and_the_next_turn_goes_on(stack_of_unlike_ends: Stack, end: int) -> None:
    stack = stack_of_unlike_ends
    stack.slm.evict_share = 0
    tokenizer = Tokenizer(SLM_FILES)
    prompt = list(first_prompt(tokenizer, Turn((Message("user", "x"),))))

    def choose(prefix: list[int]) -> int:
        return [*ANSWER, end][min(len(prefix) - prefix.index(tokenizer.token("<|assistant|>") or 0) - 1, 3)]

    stack.slm.model = ToyModel(1, choose=choose)  # type: ignore[arg-type]
    stub = await stack.stub(await stack.router())
    found = await stub.GetStatus(router_pb2.GetStatusRequest())
    assert f"SLM {EOM} <|eom|> ends as LLM {STOP} <|end|>" in found.vocabularies
    first = await take(stub, ask_for(chat=chat(("user", "x")), policy=threshold(1.0), max_new_tokens=20))
    assert first.error is None
    assert (first.tokens, first.finished.reason) == ([*ANSWER, STOP], router_pb2.FINISH_REASON_STOP)
    assert first.text == Tokenizer(make_tokenizer_files()).decode(ANSWER)
    assert stack.slm.sessions[first.session_id] == [*prompt, *ANSWER, end]

    again = ask_for(chat=chat(("user", "y")), policy=threshold(1.0), max_new_tokens=20, session_id=first.session_id)
    second = await take(stub, again)
    assert second.error is None
    await check_kept(stub, second)
    # As the SLM reads it, the answer ended with the first of its ends, whichever it wrote.
    told = [Message("user", "x"), Message("assistant", tokenizer.decode(ANSWER)), Message("user", "y")]
    held = stack.slm.sessions[first.session_id]
    assert held[: len(held) - len(second.tokens)] == list(first_prompt(tokenizer, Turn(tuple(told))))
