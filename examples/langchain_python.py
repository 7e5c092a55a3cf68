# LangChain's chat model for OpenAI. Run: pip install langchain-openai; python examples/langchain_python.py
import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model="rstitch:threshold:tau=0.02",
    base_url=os.environ.get("RSTITCH_HTTP", "http://127.0.0.1:8000") + "/v1",
    api_key="none",
    logprobs=True,
    extra_body={"rstitch": {"budget": {"llm_tokens": 50}}},
)
question = "Mia has 47 shells. She finds 35 more. How many shells does she have?"

answer = model.invoke(question)
print(answer.content)
for token in answer.response_metadata["logprobs"]["content"]:
    print(f"{token['rstitch']['model']}  {token['rstitch']['entropy']:.4f}  {token['token']!r}")

for chunk in model.stream(question):
    print(chunk.content, end="", flush=True)
print()
