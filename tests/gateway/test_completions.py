"""What stock clients read: chats and plain completions, whole and streamed, with the same words as by gRPC."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from evals.tasks.tiny.domains import WORDS
from rstitch.client import (
    Answer,
    Client,
    Confidence,
    Learned,
    LlmOnly,
    Message,
    Random,
    Sampling,
    Signal,
    SlmOnly,
    Speculative,
    Threshold,
)
from rstitch.client.specs import Spec, text_of
from rstitch.limits import MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY
from rstitch.local.stack import LocalStack
from tests.support.gateways import QUESTION, chat, events_of

QUESTIONS = (QUESTION, "Ida has 5 cards. And 6 more?")
POLICIES = (Threshold(0.02), Threshold(0.2), LlmOnly(), SlmOnly(), Speculative(4))
EVERY_POLICY = (
    *POLICIES,
    Threshold(0.1, 0.02, Signal.MARGIN),
    Threshold(0.05, signal=Signal.ENTROPY_WINDOW, window=4),
    Confidence(0.9),
    Learned("tiny", 0.001),
    Random(0.5, seed=3),
)


@pytest.fixture(scope="module")
def grpc(tiny_stack: LocalStack) -> Any:
    with Client(tiny_stack.router_address, timeout_s=100) as client:
        yield client


def asked(grpc: Client, question: str, policy: Any, temperature: float, seed: int) -> Answer:
    sampling = Sampling(temperature, seed=seed)
    chat = [Message("user", question)]
    return grpc.answer(chat=chat, policy=policy, sampling=sampling, max_new_tokens=40, guard=False)


def check_words(http: httpx2.Client, grpc: Client, question: str, policy: Any, temperature: float, seed: int) -> Answer:
    """A question by gRPC, by HTTP, and streamed by HTTP: each says the same."""
    answer = asked(grpc, question, policy, temperature, seed)
    own = {"policy": text_of(Spec(policy)), "guard": False}
    body = chat(messages=[{"role": "user", "content": question}], temperature=temperature, seed=seed, rstitch=own)
    body |= {"max_tokens": 40, "separate_reasoning": False}
    whole = http.post("/v1/chat/completions", json=body).json()
    (choice,) = whole["choices"]
    assert choice["message"]["content"] == answer.text
    assert choice["finish_reason"] == ("length" if answer.finished.reason == "length" else "stop")
    usage = answer.finished.usage
    assert whole["usage"]["completion_tokens"] == usage.num_tokens
    assert whole["usage"]["prompt_tokens"] == usage.num_prompt_tokens
    assert choice["rstitch"]["llm_tokens"] == usage.num_llm_tokens
    streamed = events_of(http.post("/v1/chat/completions", json=body | {"stream": True}))
    deltas = [event["choices"][0]["delta"] for event in streamed[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == answer.text
    return answer


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: text_of(Spec(policy)))
@pytest.mark.parametrize(("temperature", "seed"), [(0.0, 0), (1.0, 7)])
def test_the_words_are_those_of_grpc(
    http: httpx2.Client, grpc: Client, policy: Any, temperature: float, seed: int
) -> None:
    for question in QUESTIONS:
        check_words(http, grpc, question, policy, temperature, seed)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_the_words_of_many_questions_are_those_of_grpc(http: httpx2.Client, grpc: Client) -> None:
    """Fifty questions under every policy, greedy and by two seeds, four of them at a time."""
    questions = [problem.question for problem in WORDS.generator.problems("dev", 50)]
    asks = list(itertools.product(questions, EVERY_POLICY, [(0.0, 0), (1.0, 7), (0.7, 8)]))

    def check(ask: Any) -> Answer:
        question, policy, (temperature, seed) = ask
        return check_words(http, grpc, question, policy, temperature, seed)

    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(check, asks)]
    assert len(answers) == 50 * len(EVERY_POLICY) * 3
    for policy in EVERY_POLICY:
        own = [answer for answer, (_, of, _) in zip(answers, asks, strict=True) if of == policy]
        # Forty tokens of it, at least one text for each question: the pair is too sure for every seed to have its own.
        assert len({answer.text for answer in own}) >= 50, policy
        by_llm = sum(answer.finished.usage.num_llm_tokens for answer in own)
        assert (by_llm == 0) == isinstance(policy, SlmOnly), policy


def test_a_stream_has_its_parts_in_order(http: httpx2.Client) -> None:
    response = http.post("/v1/chat/completions", json=chat(stream=True, stream_options={"include_usage": True}))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    *events, usage, done = events_of(response)
    assert done == "[DONE]"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["finish_reason"] for event in events if event["choices"][0]["finish_reason"]] == [
        "stop"
    ]
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert len({event["id"] for event in [*events, usage]}) == 1
    assert response.headers["x-session-id"] == usage["id"]
    assert usage["choices"] == []
    totals = events[-1]["choices"][0]["rstitch"]
    assert totals["slm_tokens"] + totals["llm_tokens"] == usage["usage"]["completion_tokens"]
    assert not any("usage" in event for event in events)


def test_the_thinking_is_parted_in_both_spellings(http: httpx2.Client) -> None:
    raw = http.post("/v1/chat/completions", json=chat(separate_reasoning=False)).json()["choices"][0]["message"]
    assert raw["content"].startswith("<think>")
    body = http.post("/v1/chat/completions", json=chat()).json()
    message = body["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"]
    parted = f"<think>{message['reasoning']}</think>{message['content']}"
    assert parted == raw["content"].replace("think>\n", "think>")  # line ends behind a mark are none of the text
    assert 0 < body["usage"]["completion_tokens_details"]["reasoning_tokens"] < body["usage"]["completion_tokens"]
    events = events_of(http.post("/v1/chat/completions", json=chat(stream=True)))
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    for name in ("reasoning", "reasoning_content", "content"):
        assert "".join(delta.get(name, "") for delta in deltas) == message[name]
    for without in ({"include_reasoning": False}, {"reasoning": {"exclude": True}}):
        message = http.post("/v1/chat/completions", json=chat(**without)).json()["choices"][0]["message"]
        assert "reasoning" not in message
        assert "boxed" in message["content"]


def test_several_choices_have_seeds_of_their_own(http: httpx2.Client) -> None:
    body = chat(n=3, temperature=1.0, seed=5, max_tokens=20, separate_reasoning=False)
    choices = http.post("/v1/chat/completions", json=body).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    for index, choice in enumerate(choices):
        alone = http.post("/v1/chat/completions", json=body | {"n": 1, "seed": 5 + index}).json()
        assert alone["choices"][0]["message"]["content"] == choice["message"]["content"]
    events = events_of(http.post("/v1/chat/completions", json=body | {"stream": True}))[:-1]
    for index, choice in enumerate(choices):
        own = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert "".join(one["delta"].get("content", "") for one in own) == choice["message"]["content"]


def test_plain_completions(http: httpx2.Client, grpc: Client) -> None:
    prompts = ["1 + 2 =", "3 + 4 ="]
    body = {"model": "rstitch/slm", "prompt": prompts, "max_tokens": 6, "echo": True}
    made = http.post("/v1/completions", json=body).json()
    texts = [prompt + grpc.answer(prompt, policy=SlmOnly(), max_new_tokens=6).text for prompt in prompts]
    assert [choice["text"] for choice in made["choices"]] == texts
    events = events_of(http.post("/v1/completions", json=body | {"stream": True}))[:-1]
    for index, text in enumerate(texts):
        own = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert "".join(one["text"] for one in own) == text
        assert [one["finish_reason"] for one in own if one["finish_reason"]] == ["length"]
    ids = [7, 8, 9]
    by_ids = http.post("/v1/completions", json=body | {"prompt": ids, "echo": False}).json()
    assert by_ids["choices"][0]["text"] == grpc.answer(tokens=ids, policy=SlmOnly(), max_new_tokens=6).text


@pytest.mark.parametrize(
    ("model", "policy"),
    [
        ("rstitch", "threshold"),
        ("gpt-6-astra", "threshold"),
        ("rstitch/llm", "llm_only"),
        ("rstitch/slm", "slm_only"),
        ("rstitch:random:slm_probability=0.5,seed=3", "random"),
    ],
)
def test_a_models_name_chooses_who_writes(http: httpx2.Client, model: str, policy: str) -> None:
    body = chat(model=model, max_tokens=4, rstitch={"guard": False})
    told = http.post("/v1/chat/completions", json=body).json()
    assert told["model"] == model
    assert told["choices"][0]["rstitch"]["policy"].partition(":")[0] == policy


def test_who_says_most_closely_who_writes_is_heard(http: httpx2.Client) -> None:
    def policy(headers: dict[str, str], **own: Any) -> str:
        body = chat(model="rstitch/slm", max_tokens=4, rstitch={"guard": False, **own})
        told = http.post("/v1/chat/completions", json=body, headers=headers).json()
        return str(told["choices"][0]["rstitch"]["policy"])

    header = {"x-rstitch-policy": "llm_only"}
    assert policy({}) == "slm_only"
    assert policy(header) == "llm_only"
    assert policy(header, tau=0.5).startswith("threshold:tau=0.5")
    assert policy({}, policy="confidence:threshold=0.3").startswith("confidence")


def test_models_and_profiles_are_listed(http: httpx2.Client, grpc: Client) -> None:
    from rstitch.client import KeptProfile

    grpc.put_profile(KeptProfile("cheap-http", SlmOnly()))
    listed = http.get("/v1/models").json()
    ids = [model["id"] for model in listed["data"]]
    assert ids[:4] == ["rstitch", "rstitch/llm", "rstitch/slm", "gpt-6-astra"]
    assert "rstitch:profile:cheap-http" in ids
    for name in (*ids, "rstitch:threshold:tau=0.3"):
        assert http.get(f"/v1/models/{name}").json()["id"] == name
    made = http.post("/v1/chat/completions", json=chat(model="rstitch:profile:cheap-http", max_tokens=4)).json()
    assert made["choices"][0]["rstitch"]["profile"] == "cheap-http"
    grpc.delete_profile("cheap-http")


def test_a_conversation_goes_on_in_its_session(http: httpx2.Client, grpc: Client) -> None:
    first = http.post("/v1/chat/completions", json=chat(max_tokens=8, rstitch={"session_id": "talk-http"})).json()
    assert first["id"] == "talk-http"
    again = http.post("/v1/chat/completions", json=chat(max_tokens=8), headers={"x-session-id": "talk-http"}).json()
    assert again["usage"]["prompt_tokens"] > first["usage"]["total_tokens"]
    assert len([s for s in grpc.trajectory("talk-http").segments if s.source == "prompt"]) == 2


def test_a_request_that_comes_twice_is_answered_once(http: httpx2.Client, grpc: Client) -> None:
    headers = {"idempotency-key": "only-once"}
    first, again = (http.post("/v1/chat/completions", json=chat(), headers=headers).json() for _ in range(2))
    assert first["id"] == again["id"]
    assert first["choices"] == again["choices"]
    other = http.post("/v1/chat/completions", json=chat(max_tokens=3), headers=headers).json()
    assert other["id"] != first["id"]
    streamed = events_of(http.post("/v1/chat/completions", json=chat(stream=True), headers=headers))
    assert streamed[0]["id"] != first["id"]  # another body is another request


def test_unknown_fields_are_told_and_hints_taken(http: httpx2.Client) -> None:
    hints = {"user": "me", "store": True, "metadata": {"a": "b"}, "reasoning_effort": "low", "service_tier": "auto"}
    response = http.post("/v1/chat/completions", json=chat(max_tokens=2, colour="red", a=1, **hints))
    assert response.status_code == 200
    assert response.headers["x-rstitch-ignored"] == "a, colour"


def test_sampling_is_the_routers(http: httpx2.Client, grpc: Client) -> None:
    bias = {7: 5.0, 30: -100.0}
    sampling = Sampling(0.8, top_p=0.95, top_k=20, seed=3, min_p=0.01, logit_bias=bias, presence_penalty=0.5)
    answer = grpc.answer(QUESTION, sampling=sampling, max_new_tokens=30, guard=False)
    body = {"model": "rstitch", "prompt": QUESTION, "temperature": 0.8, "top_p": 0.95, "top_k": 20, "seed": 3}
    body |= {"min_p": 0.01, "logit_bias": {"7": 5, "30": -100}, "presence_penalty": 0.5, "max_tokens": 30}
    made = http.post("/v1/completions", json=body | {"rstitch": {"guard": False}}).json()
    assert made["choices"][0]["text"] == answer.text


def test_the_bounds_of_a_repetition_penalty_are_the_routers(http: httpx2.Client) -> None:
    for penalty in (MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY):
        body = {"model": "rstitch", "prompt": QUESTION, "repetition_penalty": penalty, "max_tokens": 2}
        assert http.post("/v1/completions", json=body).status_code == 200
