"""What a user would pick instead: `transformers` `generate`, plain and with the SLM as assistant."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from evals.bench.systems import MAX_NEW_TOKENS, Reply, System

# The most questions that are answered together where they come as they like.
MAX_BATCH = 64


class Generate(System):
    """`generate`, greedy. Questions that wait together become one static batch, padded on the left: all of its answers
    are there when the longest is.
    """

    def __init__(
        self, name: str, llm: Any, tokenizer: Any, assistant: Any = None, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> None:
        super().__init__(name, max_new_tokens)
        self.is_single = assistant is not None  # assisted generation knows no batches
        self._llm = llm
        self._tokenizer = tokenizer
        self._assistant = assistant
        self._waiting: list[tuple[str, asyncio.Future[Reply]]] = []
        self._model_is_free = asyncio.Lock()
        # A thread of its own: questions keep coming while the model computes.
        self._thread = ThreadPoolExecutor(1)

    async def answer(self, question: str) -> Reply:
        """Waits for the batch before, then goes with all who wait."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((question, reply))
        async with self._model_is_free:
            await asyncio.sleep(0)  # those who ask at the same time come along
            if not reply.done():
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                questions = [question for question, _ in batch]
                replies = await loop.run_in_executor(self._thread, self._generate, questions)
                for (_, future), one in zip(batch, replies, strict=True):
                    future.set_result(one)
        return await reply

    def _generate(self, questions: list[str]) -> list[Reply]:
        inputs = self._tokenizer.apply_chat_template(
            [[{"role": "user", "content": question}] for question in questions],
            add_generation_prompt=True,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            return_dict=True,
        ).to(self._llm.device)
        clock = _FirstToken()
        output = self._llm.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            streamer=clock,
            assistant_model=self._assistant,
        )
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._reply(tokens, clock.first_token_s) for tokens in answers]

    def _reply(self, tokens: list[int], first_token_s: float) -> Reply:
        """Up to the first stop token; what follows fills the batch."""
        stops = self._llm.generation_config.eos_token_id
        stops = {stops} if isinstance(stops, int) else set(stops)
        end = next((index + 1 for index, token in enumerate(tokens) if token in stops), len(tokens))
        text = str(self._tokenizer.decode(tokens[:end], skip_special_tokens=True))
        return Reply(text, first_token_s, num_llm_tokens=end)


class _FirstToken(BaseStreamer):
    """Given the prompt first, then the tokens as they come."""

    def __init__(self) -> None:
        self.num_puts = 0
        self.first_token_s = 0.0

    def put(self, value: torch.Tensor) -> None:
        """Notes the time of the second call."""
        self.num_puts += 1
        if self.num_puts == 2:
            self.first_token_s = time.perf_counter()

    def end(self) -> None:
        """Nothing is kept back."""


def load_model(folder: str, device: str, dtype: str) -> Any:
    """An unmodified transformers model, in eval mode on its device."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.to(device).eval()
