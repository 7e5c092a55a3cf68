# OpenAI's client for Python: whole, streamed, by token. Run: pip install openai; python examples/openai_python.py
import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("RSTITCH_HTTP", "http://127.0.0.1:8000") + "/v1", api_key="none")
question = [{"role": "user", "content": "Mia has 47 shells. She finds 35 more. How many shells does she have?"}]

# Whole. Who is to write is a model's name, or in extra_body, where the rest of what only rstitch takes goes, too.
answer = client.chat.completions.create(
    model="rstitch", messages=question, extra_body={"rstitch": {"tau": 0.02, "budget": {"llm_tokens": 50}}}
)
print(answer.choices[0].message.content)
print(answer.choices[0].rstitch["policy"], answer.usage.rstitch)

# Streamed: the thinking comes beside the content.
for chunk in client.chat.completions.create(model="rstitch:threshold:tau=0.02", messages=question, stream=True):
    delta = chunk.choices[0].delta
    print(getattr(delta, "reasoning", "") or delta.content or "", end="", flush=True)
print()

# Token by token: which model wrote it, and how uncertain that one was.
answer = client.chat.completions.create(model="rstitch:threshold:tau=0.02", messages=question, logprobs=True)
for token in answer.choices[0].logprobs.content:
    print(f"{token.rstitch['model']}  {token.rstitch['entropy']:.4f}  {token.token!r}")
