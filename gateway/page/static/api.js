// The gateway's JSON: requests with the key of this tab, streams of events, and errors with their remedy.

const KEY = "rstitch-key";

// Storage may be forbidden to a page; then it holds nothing, and the page works all the same.
export function kept(storage, name) {
  try { return window[storage].getItem(name) || ""; } catch { return ""; }
}

export function keep(storage, name, value) {
  try {
    if (value) window[storage].setItem(name, value);
    else window[storage].removeItem(name);
  } catch { /* see above */ }
}

export const apiKey = () => kept("sessionStorage", KEY);
export const setApiKey = (key) => keep("sessionStorage", KEY, key);

// What the gateway, or the way to it, has refused or failed with; `message` ends with what to do about it.
export class Failure extends Error {
  constructor({ message, code = "", param = null, rstitch = {} }, status = 0) {
    super(message);
    this.code = code;
    this.param = param;
    this.facts = rstitch || {};
    this.status = status;
  }
}

async function sent(method, path, body, signal) {
  const headers = apiKey() ? { authorization: `Bearer ${apiKey()}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({ message: "The gateway does not answer. Is it still running?", code: "UNREACHABLE" });
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Failure(told.error || { message: `The gateway said ${response.status}.` }, response.status);
}

export const get = async (path, signal) => (await sent("GET", path, undefined, signal)).json();
export const post = async (path, body) => {
  const response = await sent("POST", path, body);
  return response.status === 204 ? null : response.json();
};
export const remove = (path) => sent("DELETE", path);
export const trajectoryPath = (id) => `/v1/rstitch/trajectories/${encodeURIComponent(id)}`;

// Yields lists of events, as many as came at once. Throws Failure where the answer fails, and where it ends early.
export async function* generate(body, signal) {
  const response = await sent("POST", "/v1/rstitch/generate", body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  let last = null;
  for (;;) {
    let came;
    try {
      came = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure({ message: "The connection was lost amid the answer.", code: "LOST" });
    }
    if (came.done) break;
    const blocks = (held + came.value).split("\n\n");
    held = blocks.pop();
    const events = blocks.filter((block) => block.startsWith("data: ")).map((block) => JSON.parse(block.slice(6)));
    const failed = events.findIndex((event) => event.error);
    if (failed >= 0) {
      if (failed) yield events.slice(0, failed);
      throw new Failure(events[failed].error);
    }
    if (events.length) {
      last = events[events.length - 1];
      yield events;
    }
  }
  if (!last || last.event !== "finished") {
    throw new Failure({ message: "The connection was lost amid the answer.", code: "LOST" });
  }
}
