// OpenAI's client for Node: whole, streamed, token by token. Run: cd examples && npm ci && node openai_node.mjs
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.RSTITCH_HTTP ?? "http://127.0.0.1:8000"}/v1`, apiKey: "none" });
const messages = [{ role: "user", content: "Mia has 47 shells. She finds 35 more. How many shells does she have?" }];

// Whole. What only rstitch takes stands in the body beside the rest.
const rstitch = { tau: 0.02, budget: { llm_tokens: 50 } };
const whole = await client.chat.completions.create({ model: "rstitch", messages, rstitch });
console.log(whole.choices[0].message.content);
console.log(whole.choices[0].rstitch.policy, whole.usage.rstitch);

// Streamed: the thinking comes beside the content.
const model = "rstitch:threshold:tau=0.02";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  const { delta } = chunk.choices[0];
  process.stdout.write(delta.reasoning ?? delta.content ?? "");
}
console.log();

// Token by token: which model wrote it, and how uncertain that one was.
const told = await client.chat.completions.create({ model, messages, logprobs: true });
for (const { token, rstitch } of told.choices[0].logprobs.content) {
  console.log(rstitch.model, rstitch.entropy.toFixed(4), JSON.stringify(token));
}
