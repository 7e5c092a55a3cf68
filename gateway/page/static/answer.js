// An answer as it is known so far: its tokens, its text in spans, its switches. It knows neither wire nor screen.

export const SLM = 1;
export const LLM = 2;
const MODELS = { slm: SLM, llm: LLM };
export const NAMES = { [SLM]: "SLM", [LLM]: "LLM" };
// By a switch for one of these the SLM's proposal was discarded, and the value is the one that the SLM was unsure by.
const DISCARDING = new Set(["entropy_above", "uncertainty_above", "head"]);

// The bytes of a token, of which the text has only what is whole.
export const bytesOf = ({ text, bytes }) => (bytes ? Uint8Array.from(bytes) : new TextEncoder().encode(text));

export class Answer {
  // `marks` are what a model puts around its thinking.
  constructor(marks) {
    this.sessionId = "";
    this.traceId = "";
    this.start = 0; // position of the first token
    this.numPrompt = 0;
    this.models = [];
    this.ids = [];
    this.entropies = [];
    this.signals = []; // the policy's own, where that is not the entropy
    this.details = [];
    this.switches = []; // {at, from, to, value, reason}: `at` counts tokens of the answer
    this.spans = []; // {from, to, text, model, thinking, exact}: tokens [from, to) have made this text, or about these
    this.finished = null;
    this.thought = null; // null: no thinking; false: it goes on; true: it is over
    this._marks = marks;
    this._held = ""; // text of which may become a mark
    this._heldFrom = 0;
    this._atStart = true;
    this._skipLines = false;
    this._decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    this._queue = []; // pieces of tokens whose text is not told yet
  }

  get length() { return this.models.length; }

  // Takes an event of a stream.
  take(event) {
    if (event.event === "started") {
      this.sessionId = event.session_id;
      this.traceId = event.trace_id;
      this.numPrompt = event.num_prompt_tokens;
      if (!this.length) {
        this.start = event.position;
        this._behind(event.prompt_end);
      }
    } else if (event.event === "chunk") {
      this._tokens(MODELS[event.model], event);
    } else if (event.event === "switch") {
      this._switch(MODELS[event.from], MODELS[event.to], event.position, event.entropy, event.reason);
    } else if (event.event === "finished") {
      this._release();
      this.finished = event;
    }
  }

  // Takes the last answer of a stored trajectory.
  static of(trajectory, marks) {
    const made = new Answer(marks);
    const segments = trajectory.segments;
    const begins = segments.map((each) => each.source).lastIndexOf("prompt") + 1;
    made.sessionId = trajectory.session_id;
    made.start = begins < segments.length ? segments[begins].position : trajectory.length;
    made.numPrompt = made.start;
    made._behind(segments[begins - 1]?.text);
    if (made._endsThinking(segments.slice(0, begins), segments.slice(begins))) made.begin();
    let before = 0;
    for (const segment of segments.slice(begins)) {
      const model = MODELS[segment.source];
      if (segment.reason !== "unspecified") {
        made._switch(before || SLM + LLM - model, model, segment.position, segment.switch_entropy, segment.reason);
      }
      made._tokens(model, segment);
      before = model;
    }
    made._release();
    made.finished = trajectory.finished;
    return made;
  }

  // The thinking goes on: it was begun before the first token.
  begin() {
    this.thought = false;
    this._atStart = false;
    this._skipLines = true;
  }

  // Whether what follows a token is still the thinking.
  thinksBehind(token) {
    const next = this.spans.find((each) => each.to > token + 1);
    return next ? next.thinking : this.thought === false;
  }

  // The span that a token's text is in, or -1.
  spanOf(token) {
    let low = 0;
    let high = this.spans.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.spans[middle].to <= token) low = middle + 1;
      else high = middle;
    }
    return low < this.spans.length && this.spans[low].from <= token ? low : -1;
  }

  // The switch by which a token's model got to write, if it is the first of its segment.
  switchAt(token) { return this.switches.find((each) => each.at === token && each.to === this.models[token]) || null; }

  // Tokens that the SLM proposed and that were not kept: where, and how unsure it was.
  discarded() {
    return this.switches.filter((each) => each.to === LLM && DISCARDING.has(each.reason));
  }

  // A chat template may have begun the thinking.
  _behind(prompt = "") {
    if (prompt.trimEnd().endsWith(this._marks.begin)) this.begin();
  }

  // One that goes on from amid another's thinking ends what it did not begin.
  _endsThinking(before, own) {
    const { begin, end } = this._marks;
    const [told, text] = [before, own].map((segments) => segments.map((each) => each.text).join(""));
    return told.lastIndexOf(begin) > told.lastIndexOf(end) && text.includes(end) && !text.trimStart().startsWith(begin);
  }

  _switch(from, to, position, value, reason) {
    this.switches.push({ at: position - this.start, from, to, value, reason });
  }

  _tokens(model, { tokens, entropies, uncertainties = [], details = [], text }) {
    const from = this.length;
    tokens.forEach((id, index) => {
      this.models.push(model);
      this.ids.push(id);
      this.entropies.push(entropies[index] ?? 0);
      this.signals.push(uncertainties[index] ?? null);
      this.details.push(details[index] ?? null);
    });
    const told = details.length > 0 && details.length === tokens.length;
    for (const piece of told ? this._told(from, details, text) : about(from, this.length, text)) {
      this._text(piece, this.models[piece.to - 1]);
    }
  }

  // A piece for each token, by its own bytes. A character in several tokens is theirs together. Text may come later than its
  // tokens, where it could be the beginning of a stop string; where it is another than theirs, it is right.
  _told(from, details, text) {
    details.forEach((detail, index) => {
      const more = this._decoder.decode(bytesOf(detail), { stream: true });
      const last = this._queue[this._queue.length - 1];
      if (last && !last.text) Object.assign(last, { to: from + index + 1, text: more });
      else this._queue.push({ from: from + index, to: from + index + 1, text: more, exact: true });
    });
    const pieces = [];
    let left = text;
    while (left) {
      const first = this._queue[0];
      if (first?.text && left.startsWith(first.text)) {
        pieces.push(this._queue.shift());
        left = left.slice(first.text.length);
      } else if (first?.text.startsWith(left)) {
        pieces.push({ ...first, text: left });
        first.text = first.text.slice(left.length);
        left = "";
      } else {
        const rest = about(first ? first.from : from, from + details.length, left);
        pieces.push(...rest.map((each) => ({ ...each, exact: false })));
        this._queue = [];
        left = "";
      }
    }
    return pieces;
  }

  _text(piece, model) {
    const { begin, end } = this._marks;
    if (!this._held) this._heldFrom = piece.from;
    let text = this._held + piece.text;
    let from = this._heldFrom;
    this._held = "";
    if (this._atStart) {
      const begun = text.trimStart();
      if (begun.length < begin.length && begin.startsWith(begun)) {
        this._held = text;
        return;
      }
      this._atStart = false;
      if (begun.startsWith(begin)) {
        this.thought = false;
        this._skipLines = true;
        text = begun.slice(begin.length);
        from = piece.from;
      }
    }
    while (text || piece.to > piece.from) {
      if (this._skipLines && text) {
        text = text.replace(/^\n+/, "");
        this._skipLines = !text;
      }
      const thinking = this.thought === false;
      const at = thinking ? text.indexOf(end) : -1;
      const held = thinking && at < 0 ? overlap(text, end) : 0;
      const said = at >= 0 ? text.slice(0, at) : text.slice(0, text.length - held);
      if (said) this.spans.push({ from, to: piece.to, text: said, model, thinking, exact: piece.exact });
      if (at < 0) {
        this._held = text.slice(text.length - held);
        this._heldFrom = said ? piece.from : from;
        return;
      }
      text = text.slice(at + end.length);
      from = piece.from;
      this.thought = true;
      this._skipLines = true;
      if (!text) return;
    }
  }

  _release() {
    if (!this._held) return;
    const last = this.length - 1;
    this.spans.push({
      from: this._heldFrom, to: last + 1, text: this._held, model: this.models[last], thinking: this.thought === false, exact: false,
    });
    this._held = "";
  }
}

// Pieces of about a token each, where only the text of all of them together is known.
function about(from, to, text) {
  const words = to - from > 1 ? text.match(/\s*\S{1,12}\s*$|\s*\S{1,12}|\s+/g) || [""] : [text];
  if (words.length === to - from) {
    return words.map((word, index) => ({ from: from + index, to: from + index + 1, text: word, exact: words.length === 1 }));
  }
  const pieces = [];
  let done = 0;
  for (const word of words) {
    const begins = from + Math.floor(((to - from) * done) / (text.length || 1));
    done += word.length;
    const ends = done >= text.length ? to : from + Math.floor(((to - from) * done) / text.length);
    const first = Math.min(begins, to - 1);
    pieces.push({ from: first, to: Math.max(ends, first + 1), text: word, exact: false });
  }
  return pieces;
}

function overlap(text, mark) {
  for (let num = Math.min(text.length, mark.length - 1); num > 0; num -= 1) {
    if (text.endsWith(mark.slice(0, num))) return num;
  }
  return 0;
}

// Who would have written this very text at another tau, as far as is known: of a token by one model the other's entropy
// is not, but where it was discarded, and the one that is known stands in.
export function estimate(answer, tau) {
  const unsure = new Map(answer.discarded().map((each) => [each.at, each.value]));
  const models = new Uint8Array(answer.length);
  let writer = SLM;
  let switches = 0;
  let discarded = 0;
  for (let token = 0; token < answer.length; token += 1) {
    const own = answer.signals[token] ?? answer.entropies[token];
    if (writer === SLM && (unsure.get(token) ?? own) > tau) {
      writer = LLM;
      switches += 1;
      discarded += 1;
    }
    models[token] = writer;
    if (writer === LLM && own <= tau && token + 1 < answer.length) {
      writer = SLM;
      switches += 1;
    }
  }
  return { models, switches, discarded, numSlm: models.reduce((sum, each) => sum + (each === SLM ? 1 : 0), 0) };
}

// The bound that a policy's word names, or null.
export function tauOf(word) {
  const found = /(?:^|[:,])tau=([0-9.e+-]+)/.exec(word || "");
  return found ? Number(found[1]) : null;
}
