"""Another server that is asked the same questions: whatever speaks OpenAI's chat completions, such as vLLM's."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import grpc

from evals.asking.record import Part, Record
from evals.asking.systems import System, Terms
from evals.tasks.data import Problem
from rstitch.errors import RstitchError

_MOST_AT_ONCE = 256  # questions; each waits in a thread
_TIMEOUT_S = 600.0


class OpenAiServer(System):
    """A server with one model, whose tokens count as the LLM's; asked for whole answers, the cheapest way for it.

    `url` is the API's base, such as http://localhost:8000/v1. Connections are kept and used again, until `close`.
    """

    def __init__(self, name: str, url: str, terms: Terms) -> None:
        super().__init__(name)
        self._url = urlsplit(url.rstrip("/"))
        self._terms = terms
        self._model = ""
        self._free: SimpleQueue[HTTPConnection] = SimpleQueue()
        self._threads = ThreadPoolExecutor(_MOST_AT_ONCE)

    async def answer(self, problem: Problem, sample: int = 0) -> Record:
        """One answer, of which nothing is known before its end. Raises RstitchError where the server gives none."""
        record = Record(self.name, problem.index, problem.id, sample, self._terms.sampling.seed + sample)
        reply = await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, problem.prompt, record.seed)
        choice, num = reply["choices"][0], int(reply["usage"]["completion_tokens"])
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        finish = "length" if choice["finish_reason"] == "length" else "stop"
        parts = (Part("llm", num, text or ""),)
        return dataclasses.replace(record, finish=finish, usage={"num_llm_tokens": num}, parts=parts)

    async def try_out(self, problem: Problem) -> None:
        """Asks for the model's name. Raises RstitchError, naming the server, where it does not tell."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._ask_name)

    def close(self) -> None:
        """Ends the connections, once all answers are there."""
        self._threads.shutdown()
        with suppress(Empty):
            while True:
                self._free.get_nowait().close()

    def _ask(self, prompt: str, seed: int) -> Any:
        how = self._terms.sampling
        wanted: dict[str, Any] = {
            "model": self._model or self._ask_name(),
            "temperature": how.temperature,
            "max_tokens": self._terms.max_new_tokens,
        }
        if how.temperature:
            wanted |= {"seed": seed, "top_p": how.top_p or 1.0}
        if self._terms.stop:
            wanted["stop"] = list(self._terms.stop)
        question = self._terms.question(prompt)
        if "text" in question:
            return self._call("POST", "/completions", wanted | {"prompt": question["text"]})
        messages = [{"role": message.role, "content": message.content} for message in question["chat"]]
        return self._call("POST", "/chat/completions", wanted | {"messages": messages})

    def _ask_name(self) -> str:
        self._model = str(self._call("GET", "/models")["data"][0]["id"])
        return self._model

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body)
        status, said = self._answered(method, self._url.path + path, data)
        if status != HTTPStatus.OK:
            raise self._failed(f"HTTP {status}: {said[:300].decode(errors='replace')}")
        return json.loads(said)

    def _answered(self, method: str, path: str, data: str | None) -> tuple[int, bytes]:
        while True:
            connection, is_used = self._connection()
            try:
                connection.request(method, path, data, {"Content-Type": "application/json"})
                response = connection.getresponse()
                said = response.read()
            except (OSError, HTTPException) as error:
                connection.close()
                if is_used and isinstance(error, ConnectionError):  # the server had closed it meanwhile
                    continue
                raise self._failed(str(error)) from error
            self._free.put(connection)
            return response.status, said

    def _connection(self) -> tuple[HTTPConnection, bool]:
        """A connection, and whether it was used before."""
        with suppress(Empty):
            return self._free.get_nowait(), True
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        return kind(self._url.netloc, timeout=_TIMEOUT_S), False

    def _failed(self, why: str) -> RstitchError:
        return RstitchError(grpc.StatusCode.UNAVAILABLE, "OTHER_SERVER", f"{self.name} ({self._url.geturl()}): {why}")
