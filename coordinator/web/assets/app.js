// The page of one node: its pairs as they are now, charts of the last
// minutes, events, and reports of divergences. All text from outside goes
// into text nodes, never into markup.

import { Chart } from "/chart.js";

const $ = (id) => document.getElementById(id);
const state = { role: "none", pairs: [], selected: null, points: new Map(), last: new Map(), events: [], eventsFrom: null, stop: null };
const KEEP = 900; // points of a pair
const MAX_EVENTS = 300;

// clean writes out what is not plainly visible: control characters, and those that turn text around.
function clean(s) {
  return String(s ?? "").replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Cs}\u2028\u2029]/gu, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");
}

function make(name, className, ...children) {
  const e = document.createElement(name);
  if (className) e.className = className;
  for (const c of children) e.append(c instanceof Node ? c : clean(c));
  return e;
}

class Refused extends Error {
  constructor(status, sentence) { super(sentence); this.status = status; }
}

async function call(path, options = {}) {
  const r = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  if (!r.ok) {
    let sentence = `colod answered ${r.status}`;
    try { sentence = (await r.json()).error || sentence; } catch { /* not colod's own answer */ }
    throw new Refused(r.status, sentence);
  }
  return r;
}

const getJSON = async (path) => (await call(path)).json();

function post(path, body, method = "POST") {
  return call(path, { method, headers: { "Content-Type": "application/json" }, body: body === undefined ? undefined : JSON.stringify(body) });
}

// Figures.

function amount(v) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (v >= size) return (v / size).toFixed(v >= 10 * size ? 0 : 1) + unit;
  return v >= 10 || v === Math.round(v) ? v.toFixed(0) : v.toFixed(1);
}
const bytes = (v) => amount(v) + "B";
function micros(v) {
  if (v >= 1e6) return (v / 1e6).toFixed(1) + " s";
  if (v >= 1e3) return (v / 1e3).toFixed(v >= 1e4 ? 0 : 1) + " ms";
  return v.toFixed(0) + " µs";
}
function age(time) {
  const s = Math.max(0, Math.floor((Date.now() - Date.parse(time)) / 1000));
  if (!Number.isFinite(s)) return "-";
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
function moment(time) {
  const d = new Date(time);
  if (Number.isNaN(d.getTime())) return "-";
  const p = (n, w = 2) => String(n).padStart(w, "0");
  return `${d.getFullYear()}-${p(d.getMonth() + 1)}-${p(d.getDate())} ${p(d.getHours())}:${p(d.getMinutes())}:${p(d.getSeconds())}.${p(d.getMilliseconds(), 3)}`;
}

const mood = { protected: "good", checkpointing: "good", solo: "warn", syncing: "warn", standby: "idle", stopped: "idle", idle: "idle" };
const moodOf = (s) => mood[s] || "bad";
// A checkpoint comes and goes many times a second; people see one state.
const shown = (p) => (p.state === "checkpointing" ? "protected" : p.state);

// Charts.

const measured = (v) => (v > 0 ? v : null);
const charts = [
  new Chart("Released", [{ name: "frames/s", value: (p) => p.frames }], (v) => amount(v) + "/s"),
  new Chart("Delay that clients see", [{ name: "p50", value: (p) => measured(p.delay_p50_us) }, { name: "p99", value: (p) => measured(p.delay_p99_us) }], micros),
  new Chart("Hold until both agree", [{ name: "p50", value: (p) => measured(p.hold_p50_us) }, { name: "p99", value: (p) => measured(p.hold_p99_us) }], micros),
  new Chart("Standstill for checkpoints", [{ name: "p50", value: (p) => measured(p.stop_p50_ms * 1000) }, { name: "longest", value: (p) => measured(p.stop_max_ms * 1000) }], micros),
  new Chart("Checkpoints and divergences", [{ name: "checkpoints", value: (p) => p.checkpoints }, { name: "divergences", value: (p) => p.divergences }], (v) => amount(v) + "/s"),
  new Chart("Link between the nodes", [{ name: "out", value: (p) => p.link_out }, { name: "in", value: (p) => p.link_in }], (v) => bytes(v) + "/s"),
];
$("charts").append(...charts.map((c) => c.root));

// Operations, for those who may operate.

const operations = [
  { op: "protect", name: "Protect", states: ["solo"], ask: "Copy the guest to the other node and run it in lock-step. Clients are served meanwhile." },
  { op: "checkpoint", name: "Checkpoint", states: ["protected", "checkpointing"], ask: "Make the secondary a copy of the primary now. The guest stands still for some milliseconds." },
  { op: "switchover", name: "Switch over", states: ["protected", "checkpointing"], ask: "Make the other node the speaker, without a lost byte. Protection comes back by itself." },
  { op: "failover", name: "Fail over", states: ["protected", "checkpointing"], danger: true, ask: "End the guest on the speaker and let the secondary take over, as if the speaker's VM had died." },
  { op: "stop", name: "Shut down", states: ["protected", "checkpointing", "solo", "syncing"], danger: true, ask: "Shut the guest down on purpose: no node takes over, and clients are no longer served." },
  { op: "start", name: "Start", states: ["stopped"], ask: "Launch the guest on this node." },
];

for (const o of operations) {
  o.button = make("button", o.danger ? "danger" : "plain", o.name);
  o.button.addEventListener("click", () => operate(o));
  $("actions").append(o.button);
}

async function operate(o) {
  const pair = state.selected;
  $("confirm-title").textContent = `${o.name} ${clean(pair)}?`;
  $("confirm-text").textContent = o.ask;
  $("confirm-yes").className = o.danger ? "danger" : "";
  const dialog = $("confirm");
  dialog.returnValue = "no";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  if (dialog.returnValue !== "yes") return;
  const outcome = $("action-outcome");
  outcome.className = "quiet";
  outcome.textContent = `${o.name}: under way ...`;
  try {
    const st = await (await post(`/v1/pairs/${encodeURIComponent(pair)}/${o.op}`, {})).json();
    outcome.textContent = clean(`${o.name}: done. ${st.pair} is ${st.state}: ${st.reason}`);
  } catch (e) {
    outcome.className = "problem";
    outcome.textContent = clean(`${o.name}: ${e.message}`);
  }
}

// Drawing.

function drawPairs() {
  const nav = $("pairs");
  const known = new Map([...nav.children].map((b) => [b.dataset.pair, b]));
  for (const p of state.pairs) {
    let b = known.get(p.pair);
    known.delete(p.pair);
    if (!b) {
      b = make("button", "", make("strong", "", p.pair), make("span", "pill"), make("span", "quiet"));
      b.dataset.pair = p.pair;
      b.addEventListener("click", () => select(p.pair));
      nav.append(b);
    }
    const [, pill, quiet] = b.children;
    pill.textContent = shown(p);
    pill.className = "pill " + moodOf(p.state);
    quiet.textContent = clean(p.role === "none" ? "no role here" : `${p.role} here`);
    b.setAttribute("aria-current", String(p.pair === state.selected));
  }
  for (const b of known.values()) b.remove();
}

function select(pair) {
  state.selected = pair;
  $("action-outcome").textContent = "";
  draw();
  refreshReports();
}

function fill(element, ...children) { element.replaceChildren(...children); }

function set(id, text, className) {
  const e = $(id);
  if (e.textContent !== text) e.textContent = text;
  if (className !== undefined && e.className !== className) e.className = className;
}

function roleBox(name, what, here) {
  return make("div", "node" + (here ? " here" : ""), make("b", "", name || "none"), make("span", "quiet", what + (here ? ", this node" : "")));
}

function bars(id, counts) {
  const rows = Object.entries(counts || {}).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, 12);
  if (rows.length === 0) { fill($(id), make("p", "quiet", "None since colod started.")); return; }
  fill($(id), ...rows.map(([name, n]) => {
    const bar = document.createElement("progress");
    bar.max = rows[0][1];
    bar.value = n;
    return make("div", "bar", make("span", "", name), bar, make("span", "", amount(n)));
  }));
}

function draw() {
  if (!state.pairs.some((p) => p.pair === state.selected)) {
    state.selected = state.pairs[0]?.pair ?? null;
    refreshReports();
  }
  drawPairs();
  const p = state.pairs.find((q) => q.pair === state.selected);
  $("detail").hidden = !p;
  if (!p) return;
  set("pair-name", clean(p.pair));
  set("pair-state", shown(p), "pill " + moodOf(p.state));
  set("pair-since", "for " + age(p.since));
  set("pair-reason", clean(p.reason));
  const here = (n) => n === p.node;
  const wire = make("div", "wire" + (p.standby ? (p.peer.up ? "" : " down") : p.peer.up ? " none" : " down"),
    make("span", "", p.peer.up ? (p.peer.rtt_us > 0 ? micros(p.peer.rtt_us) : "connected") : "not connected"));
  fill($("roles"), roleBox(p.speaker, "speaker", here(p.speaker)), wire,
    p.standby ? roleBox(p.standby, "secondary", here(p.standby)) : roleBox(here(p.speaker) ? p.peer.node : p.node, p.peer.up ? "not in lock-step" : "away", !here(p.speaker)));
  const facts = [
    ["Generation", p.generation], ["Mode", p.mode], ["Released", `${amount(p.released.frames)} frames, ${bytes(p.released.bytes)}`],
    ["Agreed / covered / alone", `${amount(p.released.agreed)} / ${amount(p.released.covered)} / ${amount(p.released.alone)}`],
    ["Checkpoints", amount(p.checkpoints.count)], ["Standstill p50 / p99", `${micros(p.checkpoints.pause_ms.p50 * 1000)} / ${micros(p.checkpoints.pause_ms.p99 * 1000)}`],
    ["Delay p50 / p99", `${micros(p.hold_us.p50)} / ${micros(p.hold_us.p99)}`], ["Hold budget", micros(p.path.budget_ms * 1000)],
    ["Held now", `${p.path.held} frames`], ["Data path", `${p.path.role}, ${p.path.mode}`], ["QEMU", p.vm ? `${p.vm.qemu}, process ${p.vm.pid}` : "none here"],
    ["Divergences", amount(p.divergences.count)],
  ];
  fill($("facts"), ...facts.map(([k, v]) => make("div", "", make("dt", "", k), make("dd", "", v))));
  $("actions").hidden = state.role !== "operate";
  for (const o of operations) o.button.hidden = !o.states.includes(p.state);
  const points = state.points.get(p.pair) || [];
  for (const c of charts) c.draw(points);
  bars("divergences", p.divergences.by_reason);
  bars("checkpoints", p.checkpoints.reasons);
}

// What comes from colod.

let looking = false;
async function look() {
  if (looking || state.role === "none") return;
  looking = true;
  try {
    const st = await getJSON("/v1/status");
    set("node", clean(`node ${st.node}, ${st.version}, up ${age(st.since)}`));
    document.title = clean(`colod ${st.node}`);
    state.pairs = st.pairs || [];
    await Promise.all(state.pairs.map(async (p) => {
      const a = await getJSON(`/v1/pairs/${encodeURIComponent(p.pair)}/series?after=${state.last.get(p.pair) || 0}`);
      if (!a.points.length) return;
      let all = state.points.get(p.pair) || [];
      if (all.length && a.points[0].id <= all[all.length - 1].id) all = []; // another colod counts anew
      state.points.set(p.pair, all.concat(a.points).slice(-KEEP));
      state.last.set(p.pair, a.points[a.points.length - 1].id);
    }));
    set("live", "live", "pill good");
    draw();
  } catch (e) {
    away(e);
  } finally {
    looking = false;
  }
}

function away(e) {
  if (e instanceof Refused && e.status === 401) { begin(); return; }
  set("live", e instanceof Refused ? "refused" : "not answering", "pill bad");
}

function drawEvents() {
  fill(document.querySelector("#events tbody"), ...state.events.map((e) => make("tr", "",
    make("td", "", moment(e.time)), make("td", "tight", e.pair),
    make("td", "", make("span", "quiet", `${e.from} → `), make("span", moodOf(e.state), e.state), make("span", "quiet", ` (${e.role}, generation ${e.generation})`)),
    make("td", "", e.reason))));
}

// follow reads the stream of events, and comes back when it breaks.
async function follow(signal) {
  while (!signal.aborted) {
    try {
      const since = state.eventsFrom || "168h";
      const r = await call(`/v1/events?routine=false&since=${encodeURIComponent(since)}`, { signal });
      const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const e = JSON.parse(line);
          if (state.events.some((x) => x.id === e.id && x.time === e.time)) continue; // seen before the break
          state.events.unshift(e);
          state.eventsFrom = e.time;
        }
        state.events.length = Math.min(state.events.length, MAX_EVENTS);
        drawEvents();
        look();
      }
    } catch (e) {
      if (signal.aborted) return;
      away(e);
      if (state.role === "none") return;
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

let reading = false;
async function refreshReports() {
  const pair = state.selected;
  if (reading || pair === null || state.role === "none") return;
  reading = true;
  try {
    const text = await (await call(`/v1/pairs/${encodeURIComponent(pair)}/reports?last=50`)).text();
    const reports = text.split("\n").filter(Boolean).map((l) => JSON.parse(l)).reverse();
    const stats = await getJSON(`/v1/pairs/${encodeURIComponent(pair)}/reports/stats`);
    if (pair !== state.selected) return;
    bars("causes", stats.reports?.by_cause);
    fill(document.querySelector("#reports tbody"), ...reports.map((r) => make("tr", "",
      make("td", "", moment(r.time)),
      make("td", "", make("b", "", r.cause?.title || r.reason), make("div", "quiet", r.cause?.advice || "")),
      make("td", "", r.flow?.text || "-"),
      make("td", "tight", r.position?.exact ? `byte ${r.position.stream}` : "-"),
      make("td", "tight", r.checkpoint ? `${r.checkpoint.stop_ms.toFixed(1)} ms` : "-"))));
    set("report-note", reports.length ? "colod report show NUMBER has the bytes of both sides." : "No divergence has been recorded.");
  } catch (e) {
    if (e instanceof Refused) set("report-note", clean(e.message));
  } finally {
    reading = false;
    if (pair !== state.selected) refreshReports();
  }
}

// Who one is.

async function begin() {
  let who;
  try {
    who = await getJSON("/v1/session");
  } catch {
    set("live", "not answering", "pill bad");
    setTimeout(begin, 2000);
    return;
  }
  state.stop?.abort();
  state.role = who.role;
  const known = who.role !== "none";
  $("login").hidden = known;
  $("content").hidden = !known;
  $("leave").hidden = !known || who.name === "local";
  set("who", known ? clean(`${who.name}, may ${who.role}`) : "");
  set("live", known ? "connecting" : "not signed in", "pill");
  if (!known) { set("node", ""); $("token").focus(); return; }
  state.stop = new AbortController();
  follow(state.stop.signal);
  look();
  refreshReports();
}

$("login-form").addEventListener("submit", async (e) => {
  e.preventDefault();
  set("login-problem", "");
  try {
    await post("/v1/session", { token: $("token").value });
    $("token").value = "";
    begin();
  } catch (err) {
    set("login-problem", clean(err.message));
  }
});

$("leave").addEventListener("click", async () => {
  try { await post("/v1/session", undefined, "DELETE"); } finally { location.reload(); }
});

setInterval(look, 1000);
setInterval(refreshReports, 5000);
begin();
