# LiteLLM, for programs that ask many providers. Run: pip install litellm; python examples/litellm_python.py
import os

from litellm import completion

asked = {
    "model": "openai/rstitch:threshold:tau=0.02",  # LiteLLM's provider, then ours
    "api_base": os.environ.get("RSTITCH_HTTP", "http://127.0.0.1:8000") + "/v1",
    "api_key": "none",
    "messages": [{"role": "user", "content": "Mia has 47 shells. She finds 35 more. How many shells does she have?"}],
}

answer = completion(**asked, logprobs=True, extra_body={"rstitch": {"budget": {"llm_tokens": 50}}})
print(answer.choices[0].message.content)
for token in answer.choices[0].logprobs.content:
    print(f"{token.rstitch['model']}  {token.rstitch['entropy']:.4f}  {token.token!r}")

for chunk in completion(**asked, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
