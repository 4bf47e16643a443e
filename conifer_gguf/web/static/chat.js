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
  const parts = [`${t.n_prompt} tokens read` + (t.n_cached ? `, ${t.n_cached} of them known` : "")];
  if (read && t.prompt_s) parts.push(`${Math.round(read / t.prompt_s)} tokens/s`);
  parts.push(`${t.n_generated} written`);
  if (t.generate_s && t.n_generated > 1) parts.push(`${((t.n_generated - 1) / t.generate_s).toFixed(1)} tokens/s`);
  return parts.join(" · ");
}

function Markdown({ text }) {
  // What a model writes is a stranger's HTML: sanitised before it becomes part of the page.
  const clean = DOMPurify.sanitize(marked.parse(text), { FORBID_TAGS: ["style", "form", "input"], FORBID_ATTR: ["style"] });
  return html`<div class="said" dangerouslySetInnerHTML=${{ __html: clean }}></div>`;
}

function Turn({ turn, writing }) {
  if (turn.role === "user") return html`<div class="turn user"><div class="said">${turn.content}</div></div>`;
  if (turn.role === "error") {
    return html`<div class="notice" role="alert"><p>${turn.content}</p></div>`;
  }
  return html`<div class="turn assistant">
    <div class=${writing ? "cursor" : ""}><${Markdown} text=${turn.content} /></div>
    ${turn.timings && html`<div class="numbers">${speed(turn.timings)}</div>`}
    ${turn.stopped && html`<div class="numbers">stopped</div>`}
  </div>`;
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
      if (!response.ok) throw new Error((await response.json()).error.message);
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
  const facts = [model.profile, model.words ?? model.status, size(model.size)];
  if (model.kv_bytes_per_token) facts.push(`${size(model.kv_bytes_per_token)} of cache a token`);
  if (model.state_bytes) facts.push(`${size(model.state_bytes)} of carry`);
  if (model.n_ctx) facts.push(`window ${model.n_ctx.toLocaleString("en")} tokens`);
  return html`<div class="about">${facts.filter(Boolean).join(" · ")}</div>`;
}

function App() {
  const [models, setModels] = useState([]);
  const [chosen, setChosen] = useState("");
  const [turns, setTurns] = useState([]);
  const [draft, setDraft] = useState("");
  const [writing, setWriting] = useState(null); // the AbortController of the running answer
  const [away, setAway] = useState(false); // the server did not answer the last question about its models
  const end = useRef(null);
  const box = useRef(null);
  const model = models.find((m) => m.id === chosen);

  async function refresh() {
    try {
      const response = await call("/api/models");
      setAway(false);
      if (!response.ok) return;
      const body = await response.json();
      setModels(body.models);
      setChosen((now) => now || body.default || "");
    } catch {
      setAway(true);
    }
  }
  useEffect(() => {
    refresh();
    addEventListener("focus", refresh); // models may have been pulled or registered in a terminal meanwhile
    return () => removeEventListener("focus", refresh);
  }, []);
  useEffect(() => { end.current?.scrollIntoView({ block: "end" }); }, [turns]);

  async function ask(text) {
    const asked = [...turns, { role: "user", content: text }];
    const answer = { role: "assistant", content: "" };
    const abort = new AbortController();
    const show = (change) => { Object.assign(answer, change); setTurns([...asked, { ...answer }]); };
    setDraft("");
    setWriting(abort);
    show({});
    try {
      const messages = asked.filter((t) => t.role !== "error").map(({ role, content }) => ({ role, content }));
      const seed = Math.floor(Math.random() * 2 ** 31);
      const body = { model: chosen, messages, stream: true, seed, temperature: 0.7, ...model?.sampling };
      const response = await call("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal: abort.signal });
      if (!response.ok) throw new Error((await response.json()).error.message);
      for await (const data of events(response)) {
        if (data === "[DONE]") break;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        const piece = chunk.choices[0]?.delta?.content;
        if (piece) show({ content: answer.content + piece });
        if (chunk.timings) show({ timings: chunk.timings });
      }
    } catch (error) {
      if (error.name === "AbortError") show({ stopped: true });
      else setTurns([...asked, ...(answer.content ? [{ ...answer }] : []), { role: "error", content: error.message }]);
    }
    setWriting(null);
    refresh();
    box.current?.focus();
  }

  function submit(event) {
    event.preventDefault();
    if (draft.trim() && !writing && chosen) ask(draft.trim());
  }
  function keydown(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
    if (event.key === "Escape" && writing) writing.abort();
  }

  return html`<div class="page">
    <header>
      <img src="/static/icon.svg" alt="" /><h1>conifer-gguf</h1><span class="space"></span>
      <select aria-label="Model" value=${chosen} onChange=${(e) => setChosen(e.target.value)}>
        ${models.map((m) => html`<option value=${m.id}>${m.id}${m.status === "ready" ? "" : ` (${m.status})`}</option>`)}
      </select>
      <button onClick=${() => { writing?.abort(); setTurns([]); }} disabled=${!turns.length}>New chat</button>
    </header>
    <${About} model=${model} />
    <${Gate} model=${model} onChange=${refresh} />
    ${away && html`<div class="notice" role="status">The server does not answer: start it again with <code>conifer-gguf serve</code>, then come back to this page.</div>`}
    <main aria-live="polite">
      ${!turns.length && html`<div class="empty">
        <h2>${models.length ? "Ask something" : "No models yet"}</h2>
        <p>${models.length ? "The answer is computed on this machine." : "conifer-gguf pull smollm2-135m, then reload."}</p>
        ${models.length > 0 && html`<div class="ideas">${IDEAS.map((i) => html`<button onClick=${() => ask(i)}>${i}</button>`)}</div>`}
      </div>`}
      ${turns.map((turn, i) => html`<${Turn} turn=${turn} writing=${writing && i === turns.length - 1} />`)}
      <div ref=${end}></div>
    </main>
    <form onSubmit=${submit}>
      <textarea ref=${box} rows="2" aria-label="Message" placeholder="Message, Enter to send, Shift+Enter for a new line"
        value=${draft} onInput=${(e) => setDraft(e.target.value)} onKeyDown=${keydown}></textarea>
      ${writing
        ? html`<button type="button" onClick=${() => writing.abort()}>Stop</button>`
        : html`<button class="primary" type="submit" disabled=${!draft.trim() || !chosen}>Send</button>`}
    </form>
  </div>`;
}

render(html`<${App} />`, document.getElementById("app"));
