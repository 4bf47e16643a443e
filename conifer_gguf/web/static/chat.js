// The chat page: one conversation with one of the models on this machine, over the same API that any client uses.
import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";

const IDEAS = ["Tell me a short story about a lighthouse.", "Explain tides to a child.", "Write a haiku about rain."];
const KEY = "conifer-gguf-key";

function headers() {
  const key = sessionStorage.getItem(KEY);
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

/** Fetch that asks once for the API key when the server wants one. */
async function call(path, options = {}, more = {}) {
  const response = await fetch(path, { ...options, headers: { ...headers(), ...more } });
  if (response.status !== 401) return response;
  const key = prompt("This server asks for an API key.");
  if (!key) return response;
  sessionStorage.setItem(KEY, key);
  return fetch(path, { ...options, headers: { ...headers(), ...more } });
}

/** The data of each server-sent event, as it arrives. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const whole = held.split("\n\n");
    held = whole.pop();
    for (const event of whole) if (event.startsWith("data: ")) yield event.slice(6);
  }
}

function size(bytes) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (bytes < 1000) return `${Number(bytes.toPrecision(3))} ${unit}`;
    bytes /= 1000;
  }
  return `${Number(bytes.toPrecision(3))} TB`;
}

function speed(t) {
  const read = t.n_prompt - t.n_cached;
  const known = t.n_cached ? ` (${t.n_cached} of them known)` : "";
  const reading = read && t.prompt_s ? `, ${Math.round(read / t.prompt_s)} tokens/s` : "";
  const writing = t.generate_s && t.n_generated > 1 ? `, ${((t.n_generated - 1) / t.generate_s).toFixed(1)} tokens/s` : "";
  return `${t.n_prompt} tokens read${known}${reading} · ${t.n_generated} written${writing}`;
}

/** What went wrong, as the server tells it: the fact, and the one command that helps. */
class Refusal extends Error {
  constructor({ message, hint }) {
    super(hint ? message.replace(` (hint: ${hint})`, "") : message);
    this.hint = hint;
  }
}

function Copy({ text, what }) {
  const [done, setDone] = useState(false);
  async function copy() {
    await navigator.clipboard.writeText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  }
  return html`<button class="quiet" aria-label=${`Copy ${what}`} onClick=${copy}>${done ? "Copied" : "Copy"}</button>`;
}

function Markdown({ text }) {
  // What a model writes is a stranger's HTML: sanitised before it becomes part of the page.
  const clean = DOMPurify.sanitize(marked.parse(text), { FORBID_TAGS: ["style", "form", "input"], FORBID_ATTR: ["style"] });
  return html`<div class="said" dangerouslySetInnerHTML=${{ __html: clean }}></div>`;
}

function Problem({ turn, onRetry }) {
  return html`<div class="notice error" role="alert">
    <p>${turn.content}</p>
    ${turn.hint && html`<p>Hint: <code>${turn.hint}</code></p>`}
    ${onRetry && html`<p><button onClick=${onRetry}>Try again</button></p>`}
  </div>`;
}

function Turn({ turn, writing, loaded, onRetry }) {
  if (turn.role === "user") return html`<div class="turn user"><div class="said">${turn.content}</div></div>`;
  if (turn.role === "error") return html`<${Problem} turn=${turn} onRetry=${onRetry} />`;
  return html`<div class="turn assistant">
    ${writing && !turn.content
      ? html`<div class="waiting" role="status">${loaded ? "Reading" : "Loading the model"}<span class="dots"></span></div>`
      : html`<div class=${writing ? "writing" : ""}><${Markdown} text=${turn.content} /></div>`}
    ${!writing && html`<div class="numbers">
      ${turn.timings && html`<span>${speed(turn.timings)}</span>`}
      ${turn.stopped && html`<span>stopped</span>`}
      ${turn.content && html`<${Copy} text=${turn.content} what="the answer" />`}
      ${onRetry && html`<button class="quiet" onClick=${onRetry}>Another answer</button>`}
    </div>`}
  </div>`;
}

function Empty({ any, onIdea }) {
  return html`<div class="empty">
    <h2>${any ? "Ask something" : "No models yet"}</h2>
    ${any ? html`<p>The answer is computed on this machine.</p>` : html`<p><code>conifer-gguf pull smollm2-135m</code>, then come back to this page.</p>`}
    ${any && html`<div class="ideas">${IDEAS.map((idea) => html`<button onClick=${() => onIdea(idea)}>${idea}</button>`)}</div>`}
  </div>`;
}

/** The models by what they need, so that the list tells which answer at once. */
function Picker({ models, chosen, onChoose }) {
  const groups = [["Ready", "ready"], ["Load-gated: wait for kernels", "load-gated"], ["Unknown architecture", "unknown"]];
  return html`<select aria-label="Model" value=${chosen} onChange=${(e) => onChoose(e.target.value)}>
    ${groups.map(([label, status]) => {
      const rows = models.filter((m) => m.status === status);
      return rows.length > 0 && html`<optgroup label=${label}>${rows.map((m) => html`<option value=${m.id} selected=${m.id === chosen}>${m.id}</option>`)}</optgroup>`;
    })}
  </select>`;
}

/** What a gated model waits for, and the button that ends the wait. */
function Gate({ model, onChange }) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const csrf = document.querySelector('meta[name="csrf"]').content;
  if (model?.status !== "load-gated") return null;
  const command = model.register.length ? `conifer-gguf plugins register ${model.register.join(" ")}` : "conifer-gguf plugins list";
  async function register() {
    setBusy(true);
    setProblem("");
    try {
      const body = JSON.stringify({ names: model.register });
      const response = await call("/api/plugins/register", { method: "POST", body }, { "X-CSRF-Token": csrf });
      if (!response.ok) throw new Refusal((await response.json()).error);
    } catch (error) {
      setProblem(error.message);
    }
    setBusy(false);
    onChange();
  }
  return html`<section class="notice" aria-label="Load-gated">
    <p><strong>${model.id} is load-gated.</strong> ${model.layers ? `${model.layers}; ` : ""}no registered plugin supplies ${model.needs.map((op, i) => html`${i ? ", " : ""}<code>${op}</code>`)}.</p>
    <p>Registering runs native code from this package on this machine. In a terminal: <code>${command}</code></p>
    ${csrf && model.register.length > 0 && html`<p><button class="primary" disabled=${busy} onClick=${register}>${busy ? "Checking the kernels…" : `Register ${model.register.join(" and ")}`}</button></p>`}
    ${problem && html`<p role="alert">${problem}</p>`}
  </section>`;
}

function About({ model }) {
  if (!model) return null;
  const facts = [model.profile, size(model.size)];
  if (model.kv_bytes_per_token) facts.push(`${size(model.kv_bytes_per_token)} of cache a token`);
  if (model.state_bytes) facts.push(`${size(model.state_bytes)} of carry`);
  if (model.n_ctx) facts.push(`window ${model.n_ctx.toLocaleString("en")} tokens`);
  return html`<div class="about"><span class=${`state ${model.status}`}>${model.words ?? model.status}</span>${facts.filter(Boolean).map((fact) => html` · ${fact}`)}</div>`;
}

/** Models of the server, kept fresh: some may have been pulled or registered in a terminal meanwhile. */
function useModels() {
  const [models, setModels] = useState(null); // null: not listed yet
  const [chosen, setChosen] = useState("");
  const [away, setAway] = useState(false); // the server did not answer the last question about its models
  async function refresh() {
    try {
      const response = await call("/api/models");
      setAway(false);
      if (!response.ok) return;
      const body = await response.json();
      setModels(body.models);
      setChosen((now) => (body.models.some((m) => m.id === now) ? now : body.default || ""));
    } catch {
      setAway(true);
    }
  }
  useEffect(() => {
    refresh();
    addEventListener("focus", refresh);
    return () => removeEventListener("focus", refresh);
  }, []);
  return { models, chosen, setChosen, away, refresh };
}

/** Keep the newest text in view, unless the reader has scrolled away from it. */
function useFollow(...changes) {
  const view = useRef(null);
  const follows = useRef(true);
  useEffect(() => {
    if (follows.current) view.current.scrollTop = view.current.scrollHeight;
  }, changes);
  const onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = view.current;
    follows.current = scrollHeight - scrollTop - clientHeight < 60;
  };
  return { view, onScroll, follow: () => { follows.current = true; } };
}

function App() {
  const { models, chosen, setChosen, away, refresh } = useModels();
  const [turns, setTurns] = useState([]);
  const [draft, setDraft] = useState("");
  const [writing, setWriting] = useState(null); // the AbortController of the running answer
  const box = useRef(null);
  const { view, onScroll, follow } = useFollow(turns, writing);
  const model = models?.find((m) => m.id === chosen);

  useEffect(() => { box.current.focus(); }, []);
  useEffect(() => { // the box grows with what is typed, up to the height that the style sheet allows
    box.current.style.height = "auto";
    box.current.style.height = `${box.current.scrollHeight + 2}px`;
  }, [draft]);

  async function ask(text, before = turns) {
    const asked = [...before, { role: "user", content: text }];
    const answer = { role: "assistant", content: "" };
    const abort = new AbortController();
    const show = (change, ...more) => {
      if (abort.signal.reason === "new chat") return;
      Object.assign(answer, change);
      setTurns([...asked, ...(more.length && !answer.content ? [] : [{ ...answer }]), ...more]);
    };
    setDraft("");
    setWriting(abort);
    follow();
    show({});
    try {
      await write(asked, abort.signal, show, answer);
    } catch (error) {
      if (abort.signal.aborted) show({ stopped: true });
      else show({}, { role: "error", content: error.message, hint: error.hint });
    }
    setWriting((now) => (now === abort ? null : now));
    refresh();
    box.current?.focus();
  }

  async function write(asked, signal, show, answer) {
    const messages = asked.filter((t) => t.role !== "error").map(({ role, content }) => ({ role, content }));
    const seed = Math.floor(Math.random() * 2 ** 31);
    const body = { model: chosen, messages, stream: true, seed, temperature: 0.7, ...model?.sampling };
    const response = await call("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
    if (!response.ok) throw new Refusal((await response.json()).error);
    for await (const data of events(response)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refusal(chunk.error);
      const piece = chunk.choices[0]?.delta?.content;
      if (piece) show({ content: answer.content + piece });
      if (chunk.timings) show({ timings: chunk.timings });
    }
  }

  function retry() {
    const last = turns.findLastIndex((t) => t.role === "user");
    ask(turns[last].content, turns.slice(0, last));
  }
  function fresh() {
    writing?.abort("new chat");
    setWriting(null);
    setTurns([]);
    box.current.focus();
  }
  function submit(event) {
    event.preventDefault();
    if (draft.trim() && !writing && chosen) ask(draft.trim());
  }
  function keydown(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  }
  useEffect(() => { // Escape stops from anywhere on the page, not only from the box
    const stop = (event) => { if (event.key === "Escape") writing?.abort(); };
    addEventListener("keydown", stop);
    return () => removeEventListener("keydown", stop);
  }, [writing]);

  return html`<div class="page">
    <header>
      <img src="/static/icon.svg" alt="" /><h1>conifer-gguf</h1><span class="space"></span>
      <${Picker} models=${models ?? []} chosen=${chosen} onChoose=${setChosen} />
      <button onClick=${fresh} disabled=${!turns.length}>New chat</button>
    </header>
    <${About} model=${model} />
    <${Gate} model=${model} onChange=${refresh} />
    ${away && html`<div class="notice" role="status">The server does not answer: start it again with <code>conifer-gguf serve</code>, then come back to this page.</div>`}
    <main aria-live="polite" ref=${view} onScroll=${onScroll}>
      ${models && !turns.length && html`<${Empty} any=${models.length > 0} onIdea=${(idea) => ask(idea)} />`}
      ${turns.map((turn, i) => html`<${Turn} turn=${turn} writing=${writing && i === turns.length - 1} loaded=${model?.n_ctx} onRetry=${!writing && i === turns.length - 1 && retry} />`)}
    </main>
    <form onSubmit=${submit}>
      <textarea ref=${box} rows="1" aria-label="Message" placeholder="Message"
        value=${draft} onInput=${(e) => setDraft(e.target.value)} onKeyDown=${keydown}></textarea>
      ${writing
        ? html`<button type="button" title="Esc" onClick=${() => writing.abort()}>Stop</button>`
        : html`<button class="primary" type="submit" disabled=${!draft.trim() || !chosen}>Send</button>`}
    </form>
    <p class="keys"><kbd>Enter</kbd> sends, <kbd>Shift</kbd>+<kbd>Enter</kbd> begins a new line, <kbd>Esc</kbd> stops an answer</p>
  </div>`;
}

render(html`<${App} />`, document.getElementById("app"));
