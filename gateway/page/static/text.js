// The text of an answer, one element for each span, in blocks that the browser lays out only where they are seen. It is
// written past Preact: an answer has tens of thousands of spans, and those that stand never change.

import { LLM } from "./answer.js";

const BLOCK = 200; // spans, after which a block ends with its line
const LONGEST = 2000; // and after which it ends anywhere
const AT_ONCE = 4; // blocks that are laid out whether they are seen or not: most answers have no more

export class TextView {
  // `element` is filled; `onPoint(token, chosen)` hears of pointer and clicks, null when the pointer leaves.
  constructor(element, onPoint) {
    this._element = element;
    this._done = 0;
    this._elements = [];
    this._block = null;
    this._inBlock = 0;
    this._blocks = 0;
    this._thinking = null;
    // By its moves, not by what it is over: text that scrolls below a pointer at rest is not pointed at.
    let over = null;
    element.addEventListener("pointermove", (event) => {
      const token = event.target.rstitchToken ?? null;
      if (token !== over && (event.movementX || event.movementY)) onPoint((over = token), false);
    });
    element.addEventListener("pointerleave", () => onPoint((over = null), false));
    element.addEventListener("click", (event) => {
      if (event.target.rstitchToken !== undefined && !String(getSelection())) onPoint(event.target.rstitchToken, true);
    });
  }

  // Writes what came since.
  sync(answer) {
    for (; this._done < answer.spans.length; this._done += 1) this._append(answer.spans[this._done]);
    if (answer.thought && this._thinking) this._fold();
    if (answer.finished) this._element.classList.remove("writing");
  }

  // Marks the span of a token as `name` (hover, chosen); `scroll` brings it into view.
  mark(answer, token, name, scroll) {
    for (const element of this._element.querySelectorAll(`.${name}`)) element.classList.remove(name);
    const span = token === null ? -1 : answer.spanOf(token);
    if (span < 0) return;
    const element = this._elements[span];
    element.classList.add(name);
    if (!scroll) return;
    const folded = element.closest("details");
    if (folded) folded.open = true;
    // The text alone; browsers that do not know this scroll the page below it, too.
    element.scrollIntoView({ block: "center", container: "nearest" });
  }

  _append(span) {
    const element = document.createElement("span");
    element.textContent = span.text;
    element.className = span.model === LLM ? "llm" : "slm";
    element.rstitchToken = span.from;
    this._elements.push(element);
    this._into(span.thinking).append(element);
    this._inBlock += 1;
    const line = span.text.endsWith("\n");
    if ((line && this._inBlock >= BLOCK) || this._inBlock >= LONGEST) this._block = null;
  }

  _into(thinking) {
    if (thinking && !this._thinking) {
      this._thinking = document.createElement("details");
      this._thinking.className = "thinking";
      this._thinking.open = true;
      const summary = document.createElement("summary");
      summary.textContent = "Thinking";
      summary.addEventListener("click", () => { this._touched = true; });
      this._thinking.append(summary);
      this._element.append(this._thinking);
      this._block = null;
    }
    if (!this._block || this._blockThinking !== thinking) {
      this._block = document.createElement("div");
      this._block.className = this._blocks < AT_ONCE ? "block" : "block later";
      this._blocks += 1;
      this._blockThinking = thinking;
      this._inBlock = 0;
      (thinking ? this._thinking : this._element).append(this._block);
    }
    return this._block;
  }

  // Once it is over, unless the reader has opened or closed it.
  _fold() {
    if (!this._folded && !this._touched) this._thinking.open = false;
    this._folded = true;
  }
}
