"""The stand-ins for known models' tokenizers are read alike by transformers and by the router."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from router_svc.text.conversation import first_prompt
from router_svc.text.turns import Message, Turn
from tests.support import known_tokenizers as known
from tests.support.known_tokenizers import Known
from tests.support.vocabularies import vocabulary

TEXT = "The answer is <think> 12 你好 👩‍👩‍👧 é"


@pytest.mark.parametrize("of", known.ALL, ids=lambda of: of.hub_id)
def test_ids_and_prompts_are_those_of_transformers(of: Known, tmp_path: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(of.save(tmp_path))
    ours = vocabulary(of).tokenizer
    for text in of.added.values():
        assert theirs.convert_tokens_to_ids(text) == of.token(text)
    assert list(ours.encode(TEXT, begins=True)) == theirs.encode(TEXT)
    assert (ours.encode(TEXT, begins=True)[0] == of.token(of.bos)) == of.begins
    said = [("user", "Hi"), ("assistant", "<think>\nhm\n</think>\n\nYo"), ("user", "B")]
    if of.chat_template:
        chat = [{"role": role, "content": content} for role, content in said]
        prompt = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert list(first_prompt(ours, Turn(tuple(Message(*message) for message in said)))) == list(prompt)


def test_published_ids_keep_their_distances() -> None:
    r1, qwq, llama = known.R1_DISTILL_QWEN_7B, known.QWQ_32B, known.R1_DISTILL_LLAMA_70B
    assert r1.added[151649] == "</think>" == qwq.added[151668] == llama.added[128014]
    for of in known.ALL:
        first = min(of.added)
        assert {of.id_of(token) - of.id_of(first) for token in of.added} == {token - first for token in of.added}
