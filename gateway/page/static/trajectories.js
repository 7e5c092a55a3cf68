// The trajectories that the router keeps: a list with search, and one of them on its own page.

import { Answer } from "./answer.js";
import { get, post, remove, trajectoryPath } from "./api.js";
import { Live, useAnswer } from "./ask.js";
import { Problem, TraceLink } from "./card.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { AnswerView } from "./view.js";

const PAGE = 50;
const ENOUGH = 50; // found ones, after which a search waits to be told to go on
const when = (text) => new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
const shareOf = ({ finished }) => {
  if (!finished) return "";
  const { num_slm_tokens: slm, num_llm_tokens: llm } = finished.usage;
  return slm + llm ? `${Math.round((100 * llm) / (slm + llm))} %` : "";
};

export function Trajectories({ navigate }) {
  const [found, setFound] = useState([]);
  const [next, setNext] = useState("");
  const [search, setSearch] = useState("");
  const [labelled, setLabelled] = useState(false);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(true);
  const asking = useRef(null);
  const load = async (token, before) => {
    asking.current?.abort();
    const mine = (asking.current = new AbortController());
    setBusy(true);
    try {
      const query = new URLSearchParams({ page_size: PAGE, page_token: token, labelled });
      const page = await get(`/v1/rstitch/trajectories?${query}`, mine.signal);
      setFound([...before, ...page.trajectories]);
      setNext(page.next_page_token);
      setError(null);
      setBusy(false);
    } catch (failed) {
      if (failed.name === "AbortError") return;
      setError(failed);
      setBusy(false);
    }
  };
  useEffect(() => { load("", []); return () => asking.current?.abort(); }, [labelled]);
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const matching = found.filter((each) => {
    const text = `${each.session_id} ${each.policy} ${each.state} ${each.label}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  // The router lists and does not search: what is looked for may be on a later page.
  useEffect(() => {
    if (words.length && next && !busy && !error && matching.length < ENOUGH) load(next, found);
  }, [search, next, busy]);
  const told = busy ? "Loading ..."
    : matching.length ? `${matching.length} shown, ${found.length} looked at${next ? "" : ", that is all"}`
    : found.length ? "None of them matches." : "None yet. Ask something first.";
  return html`<main>
    <div class="panel list">
      <h1>Trajectories</h1>
      <div class="controls">
        <span class="wide"><label for="search">Search</label><input id="search" type="search"
          placeholder="id, policy or state" value=${search}
          onInput=${(event) => setSearch(event.target.value)} /></span>
        <span class="check"><input id="labelled" type="checkbox" checked=${labelled}
          onChange=${(event) => setLabelled(event.target.checked)} /><label for="labelled">with a label only</label>
          </span>
      </div>
      <${Problem} error=${error} />
      <div class="scroll" tabindex="0" role="region" aria-label="List of trajectories"><table>
        <thead><tr><th>session</th><th>state</th><th class="num">tokens</th><th class="num">LLM</th><th>policy</th>
          <th>updated</th><th>label</th></tr></thead>
        <tbody>${matching.map((each) => html`<tr key=${each.session_id}>
          <td><a href=${`/t/${encodeURIComponent(each.session_id)}`} onClick=${navigate}>
            <code>${each.session_id}</code></a></td>
          <td><span class=${`state ${each.state}`}>${each.state}</span></td><td class="num">${each.length}</td><td
            class="num">${shareOf(each)}</td>
          <td><code>${each.policy}</code></td><td>${when(each.updated)}</td>
            <td>${each.label === "unspecified" ? "" : each.label}</td>
        </tr>`)}</tbody>
      </table></div>
      <p class="faint"
        role="status">${told}</p>
      ${next && html`<button type="button" disabled=${busy} onClick=${() => load(next, found)}>Show more</button>`}
    </div>
  </main>`;
}

function saved(trajectory) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(trajectory, null, 1)], { type: "application/json" }));
  link.download = `${trajectory.session_id}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export function One({ id, settings, navigate, go, onGoOn }) {
  const marks = { begin: settings.think_begin, end: settings.think_end };
  const [state, setState] = useState({ trajectory: null, answer: null, error: null });
  const live = useAnswer(marks);
  const load = async () => {
    try {
      const trajectory = await get(`${trajectoryPath(id)}?details=true`);
      setState({ trajectory, answer: Answer.of(trajectory, marks), error: null });
      if (trajectory.state === "running") live.start({ attach: { session_id: id } });
    } catch (error) {
      setState({ trajectory: null, answer: null, error });
    }
  };
  useEffect(() => { load(); }, [id]);
  // Once nobody writes it any more it is what is kept.
  const over = live.answer && !live.running && (live.answer.finished || live.error?.code === "CANCELLED");
  useEffect(() => { if (over) load(); }, [over]);
  const doing = (action) => async () => {
    try {
      await action();
    } catch (error) {
      setState({ ...state, error });
    }
  };
  const { trajectory, answer, error } = state;
  if (!trajectory) return html`<main><${Problem} error=${error} />${!error && html`<p
    class="faint">Loading ...</p>`}</main>`;
  const label = (right) => doing(async () => { await post(`${trajectoryPath(id)}/label`, { right }); await load(); });
  const drop = doing(async () => {
    if (!confirm(`Forget ${id} for good?`)) return;
    await remove(trajectoryPath(id));
    go("/t");
  });
  const cancel = doing(async () => { await post(`${trajectoryPath(id)}/cancel`, {}); });
  const prompt = trajectory.segments.slice(0, trajectory.segments.map((each) => each.source).lastIndexOf("prompt") + 1);
  const running = trajectory.state === "running";
  return html`<main class="one">
    <div class="panel head">
      <h1><code>${id}</code></h1>
      <p><span class=${`state ${trajectory.state}`}>
        ${trajectory.state}</span> ${trajectory.length} tokens, ${" "}
        <code>${trajectory.policy || "unknown policy"}</code>, ${when(trajectory.updated)}</p>
      <p class="links">
        <button type="button" onClick=${() => saved(trajectory)}>Export JSON</button>
        <${TraceLink} jaeger=${settings.jaeger_url} traceId=${trajectory.trace_id} />
        ${running && html`<button type="button" onClick=${cancel}>Cancel the answer</button>`}
        ${trajectory.state === "finished" && html`<span role="group" aria-label="Was it right?"><span
          class="faint">It was</span>${[["right", true], ["wrong", false]].map(([name, right]) => html`<button
          type="button" aria-pressed=${trajectory.label === name}
          onClick=${label(trajectory.label === name ? null : right)}>${name}</button>`)}</span>`}
        <button type="button" class="danger" onClick=${drop}>Forget</button>
      </p>
      <${Problem} error=${error} />
      <details class="prompt"><summary>What came before</summary>
        ${prompt.map((segment) => html`<pre class=${segment.source}>${segment.text}</pre>`)}</details>
    </div>
    ${trajectory.state === "running"
    ? html`<${Live} one=${live} policy=${trajectory.policy} jaeger=${settings.jaeger_url} navigate=${navigate}
        onGoOn=${onGoOn} />`
    : html`<${AnswerView} answer=${answer} version=${0} policy=${trajectory.policy} onGoOn=${onGoOn} />`}
  </main>`;
}
