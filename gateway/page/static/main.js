// The page: its head, which view its address means, and what all views must know.

import { apiKey, get, keep, kept, setApiKey, trajectoryPath } from "./api.js";
import { Ask } from "./ask.js";
import { Problem } from "./card.js";
import { html, render, useEffect, useState } from "./html.js";
import { One, Trajectories } from "./trajectories.js";

const THEMES = ["auto", "light", "dark"];

function useTheme() {
  const [theme, setTheme] = useState(kept("localStorage", "rstitch-theme") || "auto");
  useEffect(() => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    keep("localStorage", "rstitch-theme", theme === "auto" ? "" : theme);
    document.dispatchEvent(new Event("rstitch-theme"));
  }, [theme]);
  return [theme, () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length])];
}

function Key({ wanted, onKey }) {
  const [key, setKey] = useState(apiKey());
  const save = (event) => {
    event.preventDefault();
    setApiKey(key.trim());
    onKey();
  };
  return html`<details class="pop" open=${wanted}><summary>${apiKey() ? "Key set" : "API key"}</summary>
    <form onSubmit=${save}>
      <label for="key">Key, kept in this tab until it is closed</label>
      <input id="key" type="password" autocomplete="off" spellcheck=${false} value=${key}
        onInput=${(event) => setKey(event.target.value)} />
      <button>Use it</button>
    </form></details>`;
}

function State({ status }) {
  if (!status) return null;
  const of = ({ role, model, device }) => `${role.toUpperCase()} ${model.split("/").pop()} (${device})`;
  const models = status.workers.map(of).join(", ");
  return html`<span class=${status.ready ? "ready" : "ready not"} title=${models}>
    ${status.ready ? "ready" : status.detail || "not ready"}</span>`;
}

function nameIn(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

function App() {
  const [path, setPath] = useState(location.pathname);
  const [theme, nextTheme] = useTheme();
  const [settings, setSettings] = useState(null);
  const [status, setStatus] = useState(null);
  const [profiles, setProfiles] = useState([]);
  const [error, setError] = useState(null);
  const [begun, setBegun] = useState(null); // what an answer is to go on from
  const load = async () => {
    try {
      setSettings(await get("/v1/rstitch/ui-settings"));
      setStatus(await get("/v1/rstitch/status"));
      setError(null);
    } catch (failed) {
      setError(failed);
      return;
    }
    // A key may be good for questions, and not for this.
    await get("/v1/rstitch/profiles").then((found) => setProfiles(found.profiles), () => setProfiles([]));
  };
  const go = (to) => {
    history.pushState(null, "", to);
    setPath(location.pathname);
    scrollTo(0, 0);
  };
  // The tokens of a conversation up to one of its last answer, from where the next answer is to be written anew.
  const goOnFrom = async (answer, token) => {
    try {
      const { segments } = await get(trajectoryPath(answer.sessionId));
      const tokens = segments.flatMap((each) => each.tokens).slice(0, answer.start + token + 1);
      setBegun({ session: answer.sessionId, token: token + 1, tokens, thinking: answer.thinksBehind(token) });
      go("/");
    } catch (failed) {
      setError(failed);
    }
  };
  const navigate = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(event.currentTarget.getAttribute("href"));
  };
  useEffect(() => {
    load();
    addEventListener("popstate", () => setPath(location.pathname));
  }, []);
  const [, first, told] = path.split("/");
  const id = told && nameIn(told);
  const title = id || (first === "t" ? "Trajectories" : "");
  useEffect(() => { document.title = title ? `${title} – rstitch` : "rstitch"; }, [title]);
  const shared = { settings, navigate, onGoOn: goOnFrom };
  return html`
    <header>
      <a class="brand" href="/" onClick=${navigate}><svg viewBox="0 0 34 14" aria-hidden="true"><path
        class="s" d="M2 11h8M23 11h9"/><path class="l" d="M12 3h9"/></svg>rstitch</a>
      <nav aria-label="Views"><a href="/" aria-current=${first === "" ? "page" : undefined} onClick=${navigate}>Ask</a>
        <a href="/t" aria-current=${first === "t" ? "page" : undefined} onClick=${navigate}>Trajectories</a></nav>
      <span class="end"><${State} status=${status} />
        <${Key} wanted=${error?.status === 401} onKey=${load} />
        <button type="button" class="link" onClick=${nextTheme} aria-label=${`Colours: ${theme}. Change`}>
          ${theme}</button></span>
    </header>
    <${Problem} error=${error}><button type="button" onClick=${load}>Try again</button><//>
    ${settings && html`
      <div hidden=${first !== ""}><${Ask} ...${shared} status=${status} profiles=${profiles}
        begun=${begun} onAnew=${() => setBegun(null)} /></div>
      ${first === "t" && !id && html`<${Trajectories} ...${shared} />`}
      ${first === "t" && id && html`<${One} key=${id} id=${id} go=${go} ...${shared} />`}`}`;
}

const page = document.getElementById("page");
page.replaceChildren();
render(html`<${App} />`, page);
