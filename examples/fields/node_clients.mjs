// Tells, as JSON, where our own fields come through in Node's clients. Run: cd examples && npm ci && node fields/node_clients.mjs
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.RSTITCH_HTTP ?? "http://127.0.0.1:8000"}/v1`, apiKey: "none" });
const content = "Mia has 47 shells. She finds 35 more. How many shells does she have?";
const asked = { model: "rstitch:threshold:tau=0.02", messages: [{ role: "user", content }], logprobs: true };

// Of four things, whether what is ours is in it.
const found = (message, choice, usage, token) => ({
  reasoning: Boolean(message?.reasoning),
  reasoning_content: Boolean(message?.reasoning_content),
  choice: choice?.rstitch?.slm_tokens !== undefined,
  usage: usage?.rstitch?.slm_tokens !== undefined,
  token: token?.rstitch?.entropy !== undefined,
});

const whole = await client.chat.completions.create(asked);
const [choice] = whole.choices;
const seen = [];
const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
for await (const { choices: [part], usage } of stream) {
  seen.push(found(part?.delta, part, usage, part?.logprobs?.content?.[0]));
}
const told = {
  "openai-node": found(choice.message, choice, whole.usage, choice.logprobs.content[0]),
  "openai-node, streamed": Object.fromEntries(Object.keys(seen[0]).map((at) => [at, seen.some((each) => each[at])])),
};
console.log(JSON.stringify(told, null, 1));
