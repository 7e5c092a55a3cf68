// An answer with all that belongs to it: text, strip, card, estimate, figures. It shows an Answer that others fill.

import { LLM, estimate, tauOf } from "./answer.js";
import { TokenCard, Usage } from "./card.js";
import { html, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { Strip } from "./strip.js";
import { TextView } from "./text.js";

const FINEST = 1e-4;
const fromSlider = (value) => Number((FINEST ** (1 - value / 100)).toPrecision(2));
const toSlider = (tau) => (tau <= FINEST ? 0 : 100 * (1 - Math.log(tau) / Math.log(FINEST)));

// A slider over tau by orders of magnitude, with its value beside it.
export function TauSlider({ id, label, tau, onTau }) {
  return html`<span class="tau">
    <label for=${id}>${label}</label>
    <input id=${id} type="range" min="0" max="100" step="0.5" value=${toSlider(tau)} aria-valuetext=${String(tau)}
      onInput=${(event) => onTau(fromSlider(Number(event.target.value)))} />
    <output for=${id}>${tau}</output>
  </span>`;
}

function WhatIf({ answer, version, tau, onTau }) {
  const guess = useMemo(() => tau !== null && estimate(answer, tau), [answer, version, tau]);
  const written = answer.models.reduce((sum, each) => sum + (each === LLM ? 1 : 0), 0);
  const share = (num) => `${Math.round((100 * num) / Math.max(answer.length, 1))} %`;
  return html`<div class="whatif">
    <${TauSlider} id=${`whatif-${answer.sessionId}`} label="What if tau were" tau=${tau ?? 0.02} onTau=${onTau} />
    ${guess ? html`<p aria-live="polite">
      <b>${share(guess.numSlm)} SLM</b>, ${guess.switches} switches, ${guess.discarded} discarded; ${" "}<span
      class="faint">as written: ${share(answer.length - written)} SLM, ${answer.switches.length} switches</span></p>
      <p class="faint">An estimate from the entropies of this answer: another writer would have written another text. ${" "}
        <button type="button" class="link" onClick=${() => onTau(null)}>Put away</button></p>`
    : html`<p class="faint">Move it to see an estimate from the entropies of this answer.</p>`}
  </div>`;
}

// `version` changes with what the answer has; `compact` is one of several side by side.
export function AnswerView({ answer, version, policy, compact, onGoOn }) {
  const [pointed, setHover] = useState(null);
  const [picked, setChosen] = useState(null);
  // Another answer is shown before those of the one before it are forgotten.
  const [hover, chosen] = [pointed, picked].map((token) => (token !== null && token < answer.length ? token : null));
  const [supposed, setSupposed] = useState(null);
  const element = useRef();
  const view = useRef(null);
  useLayoutEffect(() => {
    element.current.replaceChildren();
    view.current = new TextView(element.current, point);
    setHover(null);
    setChosen(null);
    setSupposed(null);
  }, [answer]);
  useLayoutEffect(() => view.current.sync(answer), [answer, version]);
  const point = (token, keep) => {
    if (keep) {
      setHover(null);
      setChosen(token);
      view.current.mark(answer, token, "chosen", false);
    } else {
      setHover(token);
      view.current.mark(answer, token, "hover", false);
    }
  };
  const inStrip = (token, keep) => {
    point(token, keep);
    if (keep) view.current.mark(answer, token, "chosen", true);
  };
  const known = tauOf(answer.finished?.policy || policy);
  const guess = useMemo(() => supposed !== null && estimate(answer, supposed), [answer, version, supposed]);
  return html`<section class=${compact ? "answer compact" : "answer"} aria-label="Answer">
    <div class="reading">
      <div class="column">
        <div class="text ${answer.finished ? "" : "writing"}" ref=${element} tabindex="0" role="region"
          aria-label="Text of the answer" />
        <${Strip} answer=${answer} version=${version} tau=${supposed ?? known} guess=${guess || null}
          hover=${hover} chosen=${chosen} onPoint=${inStrip} />
        ${!compact && answer.length > 0 && html`<${WhatIf} answer=${answer} version=${version} tau=${supposed}
          onTau=${setSupposed} />`}
      </div>
      ${!compact && html`<${TokenCard} answer=${answer} token=${hover ?? chosen} tau=${known}
        onChoose=${(token) => inStrip(token, true)} onGoOn=${onGoOn} />`}
    </div>
    ${answer.finished && html`<${Usage} finished=${answer.finished} compact=${compact} />`}
  </section>`;
}

