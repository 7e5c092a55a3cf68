# Tells, as JSON, where our own fields come through in Python's clients. Run: python examples/fields/python_clients.py
import json
import os

import litellm
import openai
from langchain_openai import ChatOpenAI

URL = os.environ.get("RSTITCH_HTTP", "http://127.0.0.1:8000") + "/v1"
MODEL = "rstitch:threshold:tau=0.02"
MESSAGES = [{"role": "user", "content": "Mia has 47 shells. She finds 35 more. How many shells does she have?"}]
ASKED = {"messages": MESSAGES, "logprobs": True}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


def found(message, choice, usage, token):
    """Says of an answer's parts whether what is ours is in them; LiteLLM keeps what it does not know elsewhere."""
    message = (message.get("provider_specific_fields") or {}) | message
    choice = (choice.get("provider_specific_fields") or {}) | choice
    return {
        "reasoning": bool(message.get("reasoning")),
        "reasoning_content": bool(message.get("reasoning_content")),
        "choice": "slm_tokens" in (choice.get("rstitch") or {}),
        "usage": "slm_tokens" in (usage.get("rstitch") or {}),
        "token": "entropy" in (token.get("rstitch") or {}),
    }


def of_answer(answer):
    (choice,) = answer["choices"]
    return found(choice["message"], choice, answer["usage"], choice["logprobs"]["content"][0])


def of_stream(chunks):
    seen = [found({}, {}, {}, {})]
    for chunk in chunks:
        usage = chunk.get("usage") or {}
        seen.append(found({}, {}, usage, {}))
        for choice in chunk["choices"]:
            for token in (choice.get("logprobs") or {}).get("content") or [{}]:
                seen.append(found(choice["delta"], choice, usage, token))
    return {place: any(each[place] for each in seen) for place in seen[0]}


def by_litellm(provider, **more):
    return litellm.completion(f"{provider}/{MODEL}", api_base=URL, api_key="none", **ASKED, **more)


def of_langchain(message):
    kept, told = message.additional_kwargs, message.response_metadata
    tokens = (told.get("logprobs") or {}).get("content") or [{}]
    return found(kept, told | kept, told.get("token_usage") or message.usage_metadata or {}, tokens[0])


chat = openai.OpenAI(base_url=URL, api_key="none").chat.completions
langchain = ChatOpenAI(model=MODEL, base_url=URL, api_key="none", logprobs=True, stream_usage=True)
of_parts = None
for part in langchain.stream(MESSAGES):
    of_parts = part if of_parts is None else of_parts + part

told = {
    "openai-python": of_answer(chat.create(model=MODEL, **ASKED).model_dump()),
    "openai-python, streamed": of_stream(c.model_dump() for c in chat.create(model=MODEL, **ASKED, **STREAMED)),
}
for provider in ("openai", "hosted_vllm"):
    told[f"litellm `{provider}/`"] = of_answer(by_litellm(provider).model_dump())
    told[f"litellm `{provider}/`, streamed"] = of_stream(c.model_dump() for c in by_litellm(provider, **STREAMED))
told["langchain-openai"] = of_langchain(langchain.invoke(MESSAGES))
told["langchain-openai, streamed"] = of_langchain(of_parts)
print(json.dumps(told, indent=1))
