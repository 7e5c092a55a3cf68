// Asking: a question, how it is to be answered, and the answer as it grows; or three answers side by side.

import { Answer } from "./answer.js";
import { Failure, generate } from "./api.js";
import { Problem, TraceLink } from "./card.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { AnswerView, TauSlider } from "./view.js";

const WORDS = {
  "": "the router's own", threshold: "threshold (R-Stitch)", llm_only: "LLM alone", slm_only: "SLM alone",
  "speculative:draft_tokens=4": "speculative, 4 drafted", "random:slm_probability=0.5": "random, half and half",
  other: "another ...",
};
const STOPPED = { code: "STOPPED", message: "You have stopped it. What is written is kept." };
const SOON_MS = 40;
const NUMBERS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.1 }], ["top_p", "Top-p", { min: 0, max: 1, step: 0.05 }],
  ["top_k", "Top-k", { min: 0, step: 1 }], ["seed", "Seed", { min: 0, step: 1 }],
];

// One answer on its way: `start` asks, `stop` leaves, which ends it.
export function useAnswer(marks) {
  const [state, setState] = useState({ answer: null, version: 0, error: null, running: false });
  const leaving = useRef(null);
  const start = async (body, thinking = false) => {
    leaving.current?.abort();
    const mine = (leaving.current = new AbortController());
    const answer = body.attach?.into || new Answer(marks);
    if (thinking) answer.begin();
    const told = { answer, version: 0, error: null, running: true };
    const show = (more) => { if (leaving.current === mine) setState({ ...Object.assign(told, more) }); };
    const { into, ...attach } = body.attach || {};
    // What comes within some milliseconds is shown together: a fast answer would be painted for each of its tokens.
    let coming = 0;
    const showSoon = () => { coming ||= setTimeout(() => { coming = 0; show({ version: told.version + 1 }); }, SOON_MS); };
    show({});
    try {
      for await (const events of generate(body.attach ? { attach } : body, mine.signal)) {
        events.forEach((event) => answer.take(event));
        showSoon();
      }
      show({ running: false, version: told.version + 1 });
    } catch (error) {
      const left = error.name === "AbortError";
      show({ running: false, version: told.version + 1, error: left ? new Failure(STOPPED) : error });
    }
  };
  useEffect(() => () => leaving.current?.abort(), []);
  return { ...state, start, stop: () => leaving.current?.abort() };
}

export function Live({ one, name, policy, compact, jaeger, navigate, onFollow, onGoOn }) {
  const { answer, version, error, running } = one;
  if (!answer) return null;
  const next = { session_id: answer.sessionId, resume_from: answer.start + answer.length, into: answer };
  const resume = error && answer.sessionId && !answer.finished
    && html`<button type="button" onClick=${() => one.start({ attach: next })}>Go on with it</button>`;
  return html`<div class="live" aria-busy=${running}>
    ${name && html`<h2>${name}</h2>`}
    <${Problem} error=${error}>${resume}<//>
    <${AnswerView} answer=${answer} version=${version} policy=${policy} compact=${compact} onGoOn=${onGoOn} />
    ${answer.sessionId && html`<p class="links">
      <a href=${`/t/${encodeURIComponent(answer.sessionId)}`} onClick=${navigate}>its own page</a>
      <${TraceLink} jaeger=${jaeger} traceId=${answer.traceId} />
      ${onFollow && answer.finished && html`<button type="button" class="link"
        onClick=${() => onFollow(answer.sessionId)}>ask on in this conversation</button>`}
      <code class="faint">${answer.sessionId}</code>
    </p>`}
  </div>`;
}

export function Ask({ settings, status, profiles, navigate, begun, onAnew, onGoOn }) {
  const marks = { begin: settings.think_begin, end: settings.think_end };
  const [question, setQuestion] = useState("");
  const [kind, setKind] = useState("");
  const [word, setWord] = useState("");
  const [tau, setTau] = useState(0.02);
  const [numbers, setNumbers] = useState({});
  const [most, setMost] = useState("");
  const [others, setOthers] = useState("5");
  const [stops, setStops] = useState("");
  const [raw, setRaw] = useState(false);
  const [compare, setCompare] = useState(false);
  const [session, setSession] = useState("");
  const [asked, setAsked] = useState(null);
  const field = useRef();
  const writer = useRef();
  const [routed, slm, llm] = [useAnswer(marks), useAnswer(marks), useAnswer(marks)];
  const running = routed.running || slm.running || llm.running;
  const policy = kind === "threshold" ? `threshold:tau=${tau}` : kind === "other" ? word : kind;
  const nothing = !begun && !question.trim();
  useEffect(() => {
    if (!begun) return;
    setSession("");
    writer.current.focus();
  }, [begun]);
  useEffect(() => { if (status) setTau(status.default_tau); }, [status?.default_tau]);

  const ask = (event) => {
    event.preventDefault();
    if (nothing || running) return;
    const body = begun ? { tokens: begun.tokens }
      : raw ? { text: question } : { chat: [{ role: "user", content: question }] };
    const thinking = Boolean(begun?.thinking);
    const given = Object.entries(numbers).filter(([, value]) => value !== "");
    const sampling = Object.fromEntries(given.map(([name, value]) => [name, Number(value)]));
    if (Object.keys(sampling).length) body.sampling = sampling;
    if (most) body.max_new_tokens = Number(most);
    if (stops) body.stop = stops.split("\n").filter(Boolean);
    const own = { ...body, ...(policy && { policy }) };
    setAsked({ compare, policy, apart: raw || Boolean(begun) });
    // Side by side it is about time, of which the details cost some.
    if (compare) {
      routed.start({ ...own, guard: false }, thinking);
      slm.start({ ...body, policy: "slm_only", guard: false }, thinking);
      llm.start({ ...body, policy: "llm_only", guard: false }, thinking);
    } else {
      const details = { top_logprobs: Number(others) };
      routed.start({ ...own, details, ...(session && { session_id: session }) }, thinking);
    }
  };
  const follow = (id) => {
    setSession(id);
    setCompare(false);
    setQuestion("");
    field.current.focus();
  };
  const shared = { jaeger: settings.jaeger_url, navigate };
  return html`<main class="ask">
    <form class="panel" onSubmit=${ask}>
      ${begun && html`<p><span class="chip on">goes on from token ${begun.token} of <code>${begun.session}</code></span> ${" "}
        <button type="button" class="link" onClick=${onAnew}>ask a question instead</button></p>`}
      <label class="sr" for="question">Question</label>
      <textarea id="question" hidden=${Boolean(begun)} ref=${field} rows="3" placeholder="Ask the pair of models something" value=${question}
        onInput=${(event) => setQuestion(event.target.value)}
        onKeyDown=${(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(event); }} />
      ${!question && !begun && html`<p class="examples"><span
        class="faint">Try</span> ${settings.examples.map((each) => html`<button type="button" class="chip"
        onClick=${() => { setQuestion(each); field.current.focus(); }}>${each}</button>`)}</p>`}
      ${session && html`<p><span class="chip on">goes on in <code>${session}</code></span> <button type="button"
        class="link" onClick=${() => setSession("")}>begin a new one</button></p>`}
      <div class="controls">
        <span><label for="policy">Who writes</label>
          <select id="policy" ref=${writer} value=${kind} onChange=${(event) => setKind(event.target.value)}>
            ${Object.entries(WORDS).map(([value, name]) => html`<option value=${value}>${name}</option>`)}
            ${profiles.length > 0 && html`<optgroup label="profiles">${profiles.map((each) => html`<option
              value=${`profile:${each.name}`}>${each.name}</option>`)}</optgroup>`}
          </select></span>
        ${kind === "threshold" && html`<${TauSlider} id="tau" label="tau" tau=${tau} onTau=${setTau} />`}
        ${kind === "other" && html`<span><label for="word">Policy</label><input id="word" value=${word}
          placeholder="learned:tiny+budget:llm_tokens=20" onInput=${(event) => setWord(event.target.value)} /></span>`}
        <span class="check"><input id="compare" type="checkbox" checked=${compare} disabled=${Boolean(session)}
          onChange=${(event) => setCompare(event.target.checked)} /><label for="compare">beside each model alone</label>
          </span>
        <span class="end">
          ${running && html`<button type="button"
            onClick=${() => [routed, slm, llm].forEach((each) => each.stop())}>Stop</button>`}
          <button class="primary" disabled=${running || nothing}>${begun ? "Go on" : "Ask"}</button>
        </span>
      </div>
      <details class="more"><summary>Sampling and limits</summary><div class="controls">
        ${NUMBERS.map(([name, label, bounds]) => html`<span><label for=${name}>${label}</label><input id=${name}
          type="number" ...${bounds} placeholder="0" value=${numbers[name] ?? ""}
          onInput=${(event) => setNumbers({ ...numbers, [name]: event.target.value })} /></span>`)}
        <span><label for="most">Tokens at most</label><input id="most" type="number" min="1" step="1"
          placeholder="the router's" value=${most} onInput=${(event) => setMost(event.target.value)} /></span>
        <span><label for="others">Alternatives to each token</label><input id="others"
          type="number" min="0" max="20" step="1" value=${others}
          onInput=${(event) => setOthers(event.target.value)} /></span>
        <span><label for="stops">Stop strings, one a line</label><textarea id="stops" rows="1" value=${stops}
          onInput=${(event) => setStops(event.target.value)} /></span>
        <span class="check"><input id="raw" type="checkbox" checked=${raw}
          onChange=${(event) => setRaw(event.target.checked)} />
          <label for="raw">continue the text as it is, without a chat template</label></span>
      </div></details>
    </form>
    ${asked && (asked.compare
    ? html`<div class="three">
        <${Live} one=${routed} name="Routed" policy=${asked.policy} compact ...${shared} />
        <${Live} one=${slm} name="SLM alone" compact ...${shared} />
        <${Live} one=${llm} name="LLM alone" compact ...${shared} />
      </div>
      <p class="faint">All three were written at once: where nothing else runs, each alone is faster.</p>`
    : html`<${Live} one=${routed} policy=${asked.policy} onFollow=${asked.apart ? null : follow}
        onGoOn=${onGoOn} ...${shared} />`)}
  </main>`;
}

