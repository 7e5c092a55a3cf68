// The entropies of an answer as bars, one for each token or, of a long answer, the highest of each column. It draws and
// says which token is pointed at; it keeps nothing.

import { LLM, NAMES } from "./answer.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./html.js";

const TICKS = [0.001, 0.01, 0.1, 1];
const LENS = 160; // tokens that the lens shows
const TOP = 14; // where switches are marked, in pixels
const GUTTER = 34; // at the right, where the scale is, in pixels
const BAND = 10; // at the bottom, where the estimate is

// Most entropies are far below 0.1, so that the third root of them is shown.
const heightOf = (value) => Math.cbrt(Math.min(Math.max(value, 0), 1));

function colors(element) {
  const style = getComputedStyle(element);
  const of = (name) => style.getPropertyValue(name).trim();
  return {
    slm: of("--slm"), llm: of("--llm"), line: of("--line"), ink: of("--ink"), faint: of("--faint"), tau: of("--tau"),
    mark: of("--mark"), paper: of("--paper"),
  };
}

function prepared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function paint(canvas, answer, first, last, tau, guess) {
  const { context, width: whole, height } = prepared(canvas);
  const width = whole - GUTTER;
  const color = colors(canvas);
  const floor = height - (guess ? BAND + 3 : 0);
  const room = floor - TOP;
  const yOf = (value) => floor - room * heightOf(value);
  context.font = "10px system-ui, sans-serif";
  for (const tick of TICKS) {
    context.fillStyle = color.line;
    context.fillRect(0, Math.round(yOf(tick)), width, 1);
  }
  const num = last - first;
  const step = width / Math.max(num, 40);
  const gap = step >= 4 ? 1 : 0;
  const share = (models, from, to) => {
    let sum = 0;
    for (let token = from; token < to; token += 1) sum += models[token] === LLM ? 1 : 0;
    return sum / (to - from);
  };
  // A column of several tokens is as high as the highest, and the LLM's by its share of them.
  const fill = (x, y, wide, high, byLlm) => {
    context.fillStyle = color.slm;
    if (byLlm < 1) context.fillRect(x, y, wide, high * (1 - byLlm));
    context.fillStyle = color.llm;
    if (byLlm > 0) context.fillRect(x, y + high * (1 - byLlm), wide, high * byLlm);
  };
  const columns = step >= 1 ? num : Math.floor(width);
  const wide = step >= 1 ? step : width / columns;
  for (let index = 0; index < columns; index += 1) {
    const from = first + (step >= 1 ? index : Math.floor((index * num) / columns));
    const to = step >= 1 ? from + 1 : Math.max(from + 1, first + Math.floor(((index + 1) * num) / columns));
    let high = 0;
    for (let token = from; token < to; token += 1) high = Math.max(high, answer.entropies[token]);
    const y = Math.min(yOf(high), floor - 1.5);
    fill(index * wide, y, wide - gap, floor - y, share(answer.models, from, to));
    if (guess) fill(index * wide, height - BAND, wide - gap, BAND, share(guess.models, from, to));
  }
  const xOf = (token) => (token - first) * (step >= 1 ? step : width / num);
  // What the SLM proposed in vain: how unsure it was, above the token that took its place.
  for (const each of answer.discarded()) {
    if (each.at < first || each.at >= last) continue;
    context.strokeStyle = color.mark;
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(xOf(each.at) + Math.min(step, 8) / 2, yOf(each.value), step >= 3 ? 3 : 1.5, 0, 7);
    context.stroke();
  }
  for (const each of answer.switches) {
    if (each.at < first || each.at >= last) continue;
    const x = xOf(each.at);
    context.fillStyle = each.to === LLM ? color.llm : color.slm;
    context.beginPath();
    context.moveTo(x - 3.5, 2);
    context.lineTo(x + 3.5, 2);
    context.lineTo(x, 8);
    context.fill();
  }
  if (tau !== null) {
    context.strokeStyle = color.tau;
    context.lineWidth = 1.5;
    context.setLineDash([5, 4]);
    context.beginPath();
    context.moveTo(0, yOf(tau));
    context.lineTo(width, yOf(tau));
    context.stroke();
    context.setLineDash([]);
  }
  context.fillStyle = color.faint;
  context.textBaseline = "middle";
  let above = Infinity;
  for (const tick of TICKS) {
    if (above - yOf(tick) < 11) continue;
    above = yOf(tick);
    context.fillText(String(tick), width + 5, above);
  }
}

function paintCursor(canvas, first, last, marked) {
  const { context, width, height } = prepared(canvas);
  const color = colors(canvas);
  const step = (width - GUTTER) / Math.max(last - first, 40);
  for (const [token, chosen] of marked) {
    if (token === null || token < first || token >= last) continue;
    const x = (token - first) * step;
    context.fillStyle = color.ink;
    context.globalAlpha = chosen ? 0.22 : 0.12;
    context.fillRect(x, 0, Math.max(step, 2), height);
    context.globalAlpha = 1;
    if (chosen) context.strokeRect(x + 0.5, 0.5, Math.max(step - 1, 2), height - 1);
  }
}

const spoken = (answer, token) =>
  `token ${token + 1}, ${NAMES[answer.models[token]]}, entropy ${answer.entropies[token].toPrecision(3)}`;

function Bars({ answer, version, first, last, tau, guess, hover, chosen, onPoint, label, keys, tall }) {
  const base = useRef();
  const over = useRef();
  const [size, setSize] = useState(0);
  useEffect(() => {
    const redraw = () => setSize((before) => before + 1);
    const seen = new ResizeObserver(redraw);
    seen.observe(base.current);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", redraw);
    document.addEventListener("rstitch-theme", redraw);
    return () => {
      seen.disconnect();
      dark.removeEventListener("change", redraw);
      document.removeEventListener("rstitch-theme", redraw);
    };
  }, []);
  useLayoutEffect(() => paint(base.current, answer, first, last, tau, guess), [answer, version, first, last, tau, guess, size]);
  useLayoutEffect(() => paintCursor(over.current, first, last, [[hover, false], [chosen, true]]));
  const tokenAt = (event) => {
    const box = over.current.getBoundingClientRect();
    const token = first + Math.floor(((event.clientX - box.left) / (box.width - GUTTER)) * Math.max(last - first, 40));
    return token >= first && token < last ? token : null;
  };
  const down = useRef(false);
  return html`<div class=${tall ? "bars" : "bars lens"}>
    <canvas ref=${base} aria-hidden="true" />
    <canvas ref=${over} class="over" role="slider" tabindex="0" aria-label=${label}
      aria-valuemin=${first + 1} aria-valuemax=${Math.max(last, first + 1)} aria-valuenow=${(chosen ?? first) + 1}
      aria-valuetext=${chosen === null ? "no token chosen" : spoken(answer, chosen)}
      onPointerDown=${(event) => {
        down.current = true;
        over.current.setPointerCapture(event.pointerId);
        onPoint(tokenAt(event), true);
      }}
      onPointerUp=${() => { down.current = false; }}
      onPointerMove=${(event) => onPoint(tokenAt(event), down.current)}
      onPointerLeave=${() => onPoint(null, false)}
      onKeyDown=${keys} />
  </div>`;
}

export function Strip({ answer, version, tau, guess, hover, chosen, onPoint }) {
  const num = answer.length;
  const keys = (event) => {
    const at = chosen ?? -1;
    const next = (found) => (found ? found.at : at);
    const to = {
      ArrowRight: event.shiftKey ? next(answer.switches.find((each) => each.at > at && each.at < num)) : at + 1,
      ArrowLeft: event.shiftKey ? next(answer.switches.findLast((each) => each.at < at)) : at - 1,
      PageDown: at + 20, PageUp: at - 20, Home: 0, End: num - 1,
    }[event.key];
    if (event.key === "Escape") onPoint(null, true);
    else if (to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    else onPoint(Math.min(Math.max(to, 0), num - 1), true);
    event.preventDefault();
  };
  const about = chosen ?? hover;
  const from = about === null ? 0 : Math.min(Math.max(about - LENS / 2, 0), Math.max(num - LENS, 0));
  const shared = { answer, version, tau, guess, hover, chosen, onPoint, keys };
  return html`<figure class="strip">
    <${Bars} ...${shared} first=${0} last=${num} tall
      label="Entropy of each token. Arrows choose a token, with Shift a switch." />
    ${num > 3 * LENS && about !== null && html`
      <${Bars} ...${shared} first=${Math.round(from)} last=${Math.min(Math.round(from) + LENS, num)}
        label="Entropy around the chosen token" />`}
    <figcaption>
      <span class="key slm">SLM</span> <span class="key llm">LLM</span>
      <span><svg width="10" height="10" aria-hidden="true"><circle cx="5" cy="5" r="3.5"
        class="ring" /></svg> discarded proposal</span>
      <span><svg width="10" height="10" aria-hidden="true"><path d="M1 2h8l-4 6z" class="wedge" /></svg> switch</span>
      ${tau !== null && html`<span><svg width="20" height="10" aria-hidden="true"><path d="M0 5h20"
        class="dash" /></svg> tau ${tau}</span>`}
      ${guess && html`<span>lower band: the estimate</span>`}
    </figcaption>
  </figure>`;
}
