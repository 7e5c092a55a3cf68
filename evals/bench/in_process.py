"""Systems in the measuring process: our engine without services, and what a user would pick instead of us.

That is `transformers` `generate`, plain and with the SLM as assistant.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from evals.asking.record import Part, Record
from evals.asking.systems import System
from evals.tasks.data import Problem
from model_worker.engine.engine import Engine
from model_worker.engine.types import Event, RunFailed, RunFinished, RunRequest, TokenKept

# The most questions that are answered together where they come as they like.
MAX_BATCH = 64


@dataclass(frozen=True, slots=True)
class Reply:
    """The tokens of an answer, when the first was there (time.perf_counter()), and where the time went."""

    tokens: list[int]
    first_token_s: float
    places_us: dict[str, int] = field(default_factory=dict)


class InProcess(System):
    """Models in this process; all tokens are the LLM's."""

    def __init__(self, name: str, tokenizer: Any, max_new_tokens: int) -> None:
        super().__init__(name)
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens

    @abstractmethod
    async def reply(self, question: str) -> Reply:
        """One answer, greedy, of at most `max_new_tokens`."""

    async def answer(self, problem: Problem, sample: int = 0) -> Record:
        begin = time.perf_counter()
        reply = await self.reply(problem.prompt)
        n, text = len(reply.tokens), str(self.tokenizer.decode(reply.tokens, skip_special_tokens=True))
        usage: dict[str, Any] = {"num_llm_tokens": n, "breakdown": reply.places_us}
        record = Record(self.name, problem.index, problem.id, sample, 0, usage=usage, parts=(Part("llm", n, text),))
        return replace(record, client_ttft_ms=1000 * (reply.first_token_s - begin), tokens=tuple(reply.tokens))


class EngineAlone(InProcess):
    """The LLM's engine: no thread, no wire, no router."""

    def __init__(self, name: str, engine: Engine, tokenizer: Any, max_new_tokens: int) -> None:
        super().__init__(name, tokenizer, max_new_tokens)
        self._engine = engine
        self._runs: dict[int, _Run] = {}
        self._session_ids = (f"bench-{number}" for number in itertools.count())
        self._stepping: asyncio.Task[None] | None = None

    async def reply(self, question: str) -> Reply:
        """One answer; steps go on while there is anything to compute, and those who wait join in between."""
        session_id = next(self._session_ids)
        tokens: list[int] = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        run_id = self._engine.submit(RunRequest(session_id, 0, tokens, max_tokens=self.max_new_tokens))
        run = self._runs[run_id] = _Run(asyncio.get_running_loop().create_future())
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._steps())
        timing = (await run.finished).timing
        del self._runs[run_id]
        self._engine.close_session(session_id)
        waiting = timing.queue_us + timing.wait_us
        places = {"llm_forward": timing.forward_us, "scheduling": timing.host_us, "waiting": waiting}
        return Reply(run.tokens, run.first_token_s, places)

    async def _steps(self) -> None:
        try:
            while not self._engine.is_idle:
                for event in self._engine.step():
                    self._runs[event.run_id].take(event)
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 - it is told to those who wait, and ends their blocks
            for run in self._runs.values():
                if not run.finished.done():
                    run.finished.set_exception(error)


@dataclass(slots=True)
class _Run:
    """A run of the engine as it goes on."""

    finished: asyncio.Future[RunFinished]
    tokens: list[int] = field(default_factory=list)
    first_token_s: float = 0.0

    def take(self, event: Event) -> None:
        if isinstance(event, TokenKept):
            self.first_token_s = self.first_token_s or time.perf_counter()
            self.tokens.append(event.token)
        elif isinstance(event, RunFailed):
            self.finished.set_exception(event.error)
        elif isinstance(event, RunFinished):
            self.finished.set_result(event)


class Generate(InProcess):
    """`generate`, greedy. Questions that wait together become one static batch, padded on the left: all of its answers
    are there when the longest is.
    """

    def __init__(self, name: str, llm: Any, tokenizer: Any, max_new_tokens: int, assistant: Any = None) -> None:
        super().__init__(name, tokenizer, max_new_tokens)
        self.is_single = assistant is not None  # assisted generation knows no batches
        self._llm = llm
        self._assistant = assistant
        self._waiting: list[tuple[str, asyncio.Future[Reply]]] = []
        self._model_is_free = asyncio.Lock()
        # A thread of its own: questions keep coming while the model computes.
        self._thread = ThreadPoolExecutor(1)

    async def reply(self, question: str) -> Reply:
        """One answer; waits for the batch before, then goes with all who wait."""
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
        inputs = self.tokenizer.apply_chat_template(
            [[{"role": "user", "content": question}] for question in questions],
            add_generation_prompt=True, padding=True, padding_side="left", return_tensors="pt", return_dict=True,
        ).to(self._llm.device)  # fmt: skip
        clock = _FirstToken()
        output = self._llm.generate(
            **inputs, do_sample=False, max_new_tokens=self.max_new_tokens, streamer=clock,
            assistant_model=self._assistant,
        )  # fmt: skip
        stops = self._llm.generation_config.eos_token_id
        stops = {stops} if isinstance(stops, int) else set(stops)
        answers: list[list[int]] = output[:, inputs["input_ids"].shape[1] :].tolist()
        # Up to the first stop token; what follows fills the batch.
        ends = [next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens)) for tokens in answers]
        return [Reply(tokens[:end], clock.first_token_s) for tokens, end in zip(answers, ends, strict=True)]


class _FirstToken(BaseStreamer):
    """Given the prompt first, then the tokens as they come."""

    def __init__(self) -> None:
        self.num_puts = 0
        self.first_token_s = 0.0

    def put(self, value: torch.Tensor) -> None:
        self.num_puts += 1
        if self.num_puts == 2:
            self.first_token_s = time.perf_counter()

    def end(self) -> None:
        """Does nothing: nothing is kept back."""


def load_model(folder: str, device: str, dtype: str) -> Any:
    """An unmodified transformers model, in eval mode on its device."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.to(device).eval()
