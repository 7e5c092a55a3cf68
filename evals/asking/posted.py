"""A system behind OpenAI's HTTP API: asked as a stock client asks, by a stream of server-sent events."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import httpx2

from evals.asking.record import Record
from evals.asking.systems import System, Terms
from evals.tasks.data import Problem
from rstitch.client.specs import Spec, text_of


class Posted(System):
    """A gateway under a spec; it is asked the questions that `Served` asks the router behind it."""

    def __init__(self, name: str, client: httpx2.AsyncClient, spec: Spec, terms: Terms) -> None:
        super().__init__(name)
        self.client = client
        self.spec = spec
        self.terms = terms
        self._session_ids: list[str] = []

    async def answer(self, problem: Problem, sample: int = 0) -> Record:
        """One answer. Raises httpx2.HTTPError or RuntimeError if there is none."""
        record = Record(self.name, problem.index, problem.id, sample, self.terms.sampling.seed + sample)
        begin, first_s, session_id, usage = time.perf_counter(), 0.0, "", dict[str, Any]()
        async with self.client.stream("POST", "/v1/chat/completions", json=self._body(problem)) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[len("data: ") :])
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                session_id = event["id"]
                usage = event.get("usage") or usage
                if not first_s and event["choices"] and not event["choices"][0]["delta"].get("role"):
                    first_s = time.perf_counter()
        self._session_ids.append(session_id)
        ours = usage["rstitch"]
        return dataclasses.replace(
            record,
            session_id=session_id,
            client_ttft_ms=round(1000 * (first_s - begin), 3) if first_s else 0.0,
            usage={"num_slm_tokens": ours["slm_tokens"], "num_llm_tokens": ours["llm_tokens"]},
        )

    async def forget(self) -> None:
        for session_id in self._session_ids:
            await self.client.delete(f"/v1/chat/completions/{session_id}")
        self._session_ids.clear()

    def _body(self, problem: Problem) -> dict[str, Any]:
        sampling = self.terms.sampling
        question = self.terms.question(problem.prompt)["chat"]
        return {
            "model": "rstitch",
            "messages": [{"role": message.role, "content": message.content} for message in question],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": self.terms.max_new_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "rstitch": {"policy": text_of(self.spec), "guard": False},
        }
