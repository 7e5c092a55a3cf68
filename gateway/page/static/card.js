// What is known of one token, and what an answer took. Both only show.

import { LLM, NAMES, bytesOf } from "./answer.js";
import { html } from "./html.js";

const REASONS = {
  entropy_above: "the SLM's entropy was above tau; its proposal was discarded",
  entropy_below: "the LLM's entropy was at or below the bound to hand back",
  uncertainty_above: "the SLM was too unsure; its proposal was discarded",
  uncertainty_below: "the LLM was sure enough to hand back",
  head: "the learned head sent it to the LLM; the SLM's proposal was discarded",
  coin: "the coin",
  verification: "a draft was verified",
  draft: "the next draft began",
  budget: "the budget was spent",
};

export const figure = (value) => (value === 0 ? "0" : Math.abs(value) >= 0.001 ? value.toPrecision(3) : value.toExponential(1));
const shown = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "␣") || "(no text)";
const decoded = (bytes) => new TextDecoder().decode(bytes);
const percent = (value) => (value > 0 && value < 0.001 ? "< 0.1 %" : `${(100 * value).toFixed(value < 0.1 && value > 0 ? 1 : 0)} %`);
const ms = (us) => (us >= 1_000_000 ? `${(us / 1e6).toFixed(us < 10_000_000 ? 2 : 1)} s` : `${Math.round(us / 1000)} ms`);

export function TokenCard({ answer, token, tau, onChoose, onGoOn }) {
  if (token === null || token >= answer.length) {
    return html`<aside class="card" aria-label="Token"><p
      class="faint">Point at a token, in the text or in the strip. A click keeps it; arrow keys go on from there.</p></aside>`;
  }
  const span = answer.spans[answer.spanOf(token)];
  const detail = answer.details[token];
  const own = detail ? decoded(bytesOf(detail)) : span?.text ?? "";
  const model = answer.models[token];
  const entropy = answer.entropies[token];
  const signal = answer.signals[token];
  const judged = signal ?? entropy;
  const change = answer.switchAt(token);
  const gone = answer.discarded().find((each) => each.at === token);
  return html`<aside class="card" aria-label="Token" aria-live="polite">
    <p class="token"><code class=${model === LLM ? "llm" : "slm"}>${shown(own)}</code>
      ${!detail && !span?.exact && html`<span class="faint"
        title="Only the text of several tokens together is known.">about here</span>`}</p>
    <dl>
      <dt>written by</dt><dd><span class=${`key ${model === LLM ? "llm" : "slm"}`}>${NAMES[model]}</span></dd>
      <dt>token</dt><dd>${token + 1} of ${answer.length}</dd>
      <dt>position</dt><dd>${answer.start + token}</dd>
      <dt>id</dt><dd>${answer.ids[token]}</dd>
      <dt>entropy</dt><dd>${figure(entropy)}</dd>
      ${signal !== null && html`<dt>signal</dt><dd>${figure(signal)}</dd>`}
      ${tau !== null && html`<dt>against tau</dt><dd>${figure(judged)} ${judged > tau ? ">" : "≤"} ${tau}</dd>`}
      ${detail && detail.logprob !== null && html`<dt>probability</dt><dd>${percent(Math.exp(detail.logprob))} <span
        class="faint">logprob ${figure(detail.logprob)}</span></dd>`}
      ${gone && html`<dt>discarded</dt><dd>an SLM token, unsure by ${figure(gone.value)}</dd>`}
    </dl>
    ${change && html`<p class="why">
      <b>${NAMES[change.from]} → ${NAMES[change.to]}</b> ${REASONS[change.reason] || change.reason}.</p>`}
    ${detail?.alternatives?.length > 0 && html`<table class="alternatives"><caption>Most probable here</caption><tbody>
      ${detail.alternatives.map((each) => html`<tr class=${each.token === answer.ids[token] ? "taken" : ""}>
        <td><code>${shown(decoded(bytesOf(each)))}</code></td>
        <td><meter min="0" max="1" value=${Math.exp(each.logprob)} aria-label="probability" /></td>
        <td>${percent(Math.exp(each.logprob))}</td></tr>`)}
    </tbody></table>`}
    <p class="steps">
      <button type="button" disabled=${token === 0} onClick=${() => onChoose(token - 1)}>← token</button>
      <button type="button" disabled=${token + 1 >= answer.length} onClick=${() => onChoose(token + 1)}>token →</button>
      <button type="button" disabled=${!answer.switches.some((each) => each.at > token && each.at < answer.length)}
        onClick=${() => onChoose(answer.switches.find((each) => each.at > token).at)}>next switch</button>
      ${onGoOn && answer.sessionId && html`<button type="button" title="A new session begins with all tokens up to this one."
        onClick=${() => onGoOn(answer, token)}>go on from here</button>`}
    </p>
  </aside>`;
}

export function Usage({ finished, compact }) {
  const usage = finished.usage;
  const num = usage.num_slm_tokens + usage.num_llm_tokens;
  const rows = [
    ["tokens", num],
    ["by the LLM", `${usage.num_llm_tokens} (${percent(num ? usage.num_llm_tokens / num : 0)})`],
    ["switches", usage.num_switches],
    ["discarded", usage.num_discarded_proposals],
    ["first token", ms(usage.time_to_first_token_us)],
    ["total", ms(usage.total_time_us)],
    ["tokens/s", usage.total_time_us ? ((num * 1e6) / usage.total_time_us).toFixed(1) : "–"],
    ["SLM forwards", ms(usage.slm_forward_us)],
    ["LLM forwards", ms(usage.llm_forward_us)],
  ];
  const notes = [
    finished.reason === "length" && "It ended at its limit of tokens.",
    finished.reason === "budget" && "It ended where its budget was spent.",
    finished.guard_reason && `The guard let the LLM write alone: ${finished.guard_reason}`,
    finished.early_exit && `The thinking ended early at position ${finished.early_exit.position}.`,
    finished.budget_spent?.length > 0 && `Spent: ${finished.budget_spent.join(", ")}.`,
  ].filter(Boolean);
  return html`<div class=${compact ? "usage compact" : "usage"}>
    <dl>${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${notes.map((note) => html`<p class="note">${note}</p>`)}
    ${finished.policy && !compact && html`<p class="faint">policy <code>${finished.policy}</code></p>`}
  </div>`;
}

export function Problem({ error, children }) {
  return error && html`<div class="problem" role="alert">
    <b>${error.code || "Failed"}</b> <span>${error.message}</span> ${children}</div>`;
}

// Where an answer's trace is shown; nothing where it has none, or nobody shows traces.
export function TraceLink({ jaeger, traceId }) {
  return jaeger && traceId && html`<a href=${`${jaeger}/trace/${traceId}`} target="_blank"
    rel="noopener noreferrer">trace in Jaeger</a>`;
}
