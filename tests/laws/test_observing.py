"""What is observed along an answer of the bundled pair is what `transformers` says along it, one forward over all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from rstitch.client.aio import AsyncClient
from rstitch.client.types import Model, Observation, Threshold
from rstitch.local.stack import LocalStack
from tests.support.served import Pair

QUESTIONS = [
    "Tom has 3 pens. He buys 14 more. How many pens does Tom have?",
    "Anna has 25 coins. She gives away 8. How many coins does Anna have?",
]
TOLERANCE = 1e-5  # of an entropy in float32, where a whole text and chunks of it sum in another order
# float32 is rounded to half precision: the last of its eleven bits, and what sums in another order differ by.
STATE_TOLERANCE = {"rtol": 2e-3, "atol": 2e-3}


@torch.inference_mode()
def along(pair: Pair, tokens: list[int], start: int) -> tuple[list[float], list[int], Any]:
    """Entropies, proposals and hidden states [positions, hidden_size] of the SLM for `tokens[start:]`."""
    model = pair.model("slm")
    out = model(torch.tensor([tokens]), use_cache=False, output_hidden_states=True)
    logits = out.logits[0, start - 1 : -1, : pair.vocab_size].float()
    entropies = torch.special.entr(torch.softmax(logits, dim=-1)).sum(-1) / math.log(pair.vocab_size)
    return entropies.tolist(), logits.argmax(-1).tolist(), out.hidden_states[-1][0, start - 1 : -1].numpy()


def check(found: list[Observation], pair: Pair, tokens: list[int], start: int, tau: float) -> None:
    entropies, proposals, states = along(pair, tokens, start)
    told = {each.consultation.position: each for each in found}
    assert list(told) == sorted(told)
    for index, entropy in enumerate(entropies):
        each = told.pop(start + index, None)
        if abs(entropy - tau) > TOLERANCE:
            assert (each is not None) == (entropy > tau)
        if each is not None:
            asked = each.consultation
            assert abs(asked.entropy - entropy) <= TOLERANCE
            assert (each.token, asked.proposal) == (tokens[start + index], proposals[index])
            assert asked.context_length == start + index
            np.testing.assert_allclose(np.frombuffer(asked.hidden_state, "<f2"), states[index], **STATE_TOLERANCE)
    assert not told


async def test_what_is_observed_is_what_transformers_says(bundled_stack: LocalStack, bundled_pair: Pair) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled_pair.slm_folder)
    writers = set()
    async with AsyncClient(bundled_stack.router_address, timeout_s=100) as client:
        for question in QUESTIONS:
            chat = [{"role": "user", "content": question}]
            prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            answer = await client.answer(chat=chat, policy=Threshold(0.02), max_new_tokens=80)
            for tau in (0.02, -1.0):
                found = [each async for each in client.observe_answer(session_id=answer.session_id, tau=tau)]
                check(found, bundled_pair, [*prompt, *answer.tokens], len(prompt), tau)
            models = [chunk.model for chunk in answer.chunks for _ in chunk.tokens]
            assert all(each.writer is models[each.consultation.position - len(prompt)] for each in found)
            writers |= {each.writer for each in found}
            # The same answer, given as text.
            text = answer.text
            own = [*prompt, *tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            given = [each async for each in client.observe_answer(chat=chat, text=text, tau=-1)]
            check(given, bundled_pair, own, len(prompt), -1)
            assert {each.writer for each in given} == {Model.UNSPECIFIED}
    assert writers == {Model.SLM, Model.LLM}
