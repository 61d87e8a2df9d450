// The admin page: asks /status.json every two seconds, and the journal when there is something new.
//
// What is shown was written by apps that failed and by clients: text goes into text nodes only. The
// page's policy makes sure of it (Trusted Types, no inline scripts, no outside resources).
"use strict";

const PERIOD_MS = 2000;
const PAGE_SIZE = 50;
const MOST_ENTRIES = 1000;
/** Colours that can be told apart; what comes after them shares a grey. */
const COLOURS = 7;
/** A chart shows no less than this: five minutes, and the step that has not ended. */
const SHORTEST_STEPS = 61;
const SVG = "http://www.w3.org/2000/svg";

const at = (id) => document.getElementById(id);
let status = null;

/** The operators' token is needed, or was wrong. */
class Locked extends Error {}

/** An element with attributes and children. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Sets text only when it changes: a screen reader is not told the same again. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });
const number = (value) => value.toLocaleString("en");
const counted = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;
const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);

function ago(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  return seconds < 90 ? counted(seconds, "second", "seconds") : `${Math.round(seconds / 60)} minutes`;
}

/** The operators' token, if one is needed: kept for this tab only. */
const token = {
  get: () => sessionStorage.getItem("token"),
  set: (value) => sessionStorage.setItem("token", value),
};

async function ask(path) {
  const known = token.get();
  const headers = known ? { Authorization: `Bearer ${known}` } : {};
  const answer = await fetch(path, { cache: "no-store", headers, signal: AbortSignal.timeout(10_000) });
  if (answer.status === 401) throw new Locked();
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

// -- are clients hurt now

/** Outcomes that a client noticed as a failure. */
const noticed = (series) => series.outcome === "normalized" || series.outcome === "aborted";

/** When the step with this index of the history began. */
function begin(index) {
  const { history, time_ms } = status;
  const last = history.requests.length - 1;
  return time_ms - history.current_ms - (last - index) * history.step_ms;
}

function showNow() {
  const { now, history } = status;
  const length = history.requests.length;
  const seen = new Array(length).fill(0);
  const causes = new Map();
  const recent = Math.max(0, length - 1 - (now.seconds * 1000) / history.step_ms);
  for (const series of history.failures.filter(noticed)) {
    series.counts.forEach((count, index) => { seen[index] += count; });
    const count = sum(series.counts.slice(recent));
    const cause = `${series.kind} of ${series.upstream}`;
    causes.set(cause, (causes.get(cause) || 0) + count);
  }
  const hurt = now.failures > 0;
  at("now").dataset.state = hurt ? "hurt" : "well";
  const verdict = hurt ? "Clients are hurt now." : "No client is hurt now.";
  say(at("verdict"), status.readiness === "ready" ? verdict : `${verdict} seawall is ${status.readiness}.`);
  document.title = hurt ? `(${now.failures}) seawall: clients are hurt` : "seawall";

  const parts = [];
  if (hurt) {
    const [cause, count] = [...causes].sort((one, other) => other[1] - one[1])[0] || ["", 0];
    const most = count === now.failures ? "" : `, most often (${number(count)})`;
    parts.push(`In the last minute ${counted(now.failures, "failure", "failures")} reached clients${most}: ${cause}.`);
  } else {
    parts.push("In the last minute no failure reached a client.");
  }
  parts.push(`${counted(now.requests, "request", "requests")} ended.`);
  if (now.recovered) parts.push(`${counted(now.recovered, "failure was", "failures were")} recovered before a client noticed.`);
  if (now.passed) parts.push(`${counted(now.passed, "failing answer", "failing answers")} of an app passed as configured.`);
  say(at("detail"), parts.join(" "));
  say(at("since"), since(seen, hurt));
}

/** Since when it goes on, or when it was last so. A pause of a minute ends a series of failures. */
function since(seen, hurt) {
  const last = seen.findLastIndex((count) => count > 0);
  const length = seen.length;
  if (last < 0) {
    const minutes = Math.max(1, Math.round((length * status.history.step_ms) / 60_000));
    return minutes > 1 ? `None reached a client in the last ${minutes} minutes.` : "";
  }
  if (!hurt) return `The last one reached a client at ${clock(begin(last))}, ${ago(status.time_ms - begin(last))} ago.`;
  const pause = (status.now.seconds * 1000) / status.history.step_ms;
  let first = last;
  for (let index = last; index >= 0 && first - index <= pause; index -= 1) if (seen[index] > 0) first = index;
  const edge = first === 0 && length > status.history.steps ? "for longer than this page remembers" : "";
  return edge ? `It has gone on ${edge}.` : `It began at ${clock(begin(first))}, ${ago(status.time_ms - begin(first))} ago.`;
}

// -- charts

/** A stacked chart of the history, and its legend in words. */
class Chart {
  constructor(figure, name, label) {
    this.figure = figure;
    this.name = name;
    this.label = label;
    this.colours = new Map();
    this.most = element("span");
    this.svg = drawn("svg", { role: "img", preserveAspectRatio: "none" });
    this.from = element("span");
    this.legend = element("ul", { class: "legend" });
    figure.append(this.svg, element("div", { class: "axis" }, this.from, this.most, element("span", {}, "now")), this.legend);
  }

  colour(name) {
    return `s${this.colours.get(name) ?? COLOURS}`;
  }

  /** The largest get the colours; who has one and stays among them keeps it. */
  assignColours(sorted) {
    const largest = sorted.slice(0, COLOURS).map(({ name }) => name);
    for (const name of this.colours.keys()) if (!largest.includes(name)) this.colours.delete(name);
    const taken = new Set(this.colours.values());
    const free = [...Array(COLOURS).keys()].filter((colour) => !taken.has(colour));
    for (const name of largest) if (!this.colours.has(name)) this.colours.set(name, free.shift());
  }

  show() {
    const { history } = status;
    const rows = new Map();
    const all = at("recovered").checked;
    for (const series of history.failures) {
      if (!all && !noticed(series)) continue;
      const row = rows.get(series[this.name]) || new Array(history.requests.length).fill(0);
      series.counts.forEach((count, index) => { row[index] += count; });
      rows.set(series[this.name], row);
    }
    const sorted = [...rows].map(([name, row]) => ({ name, row, total: sum(row) })).sort((one, other) => other.total - one.total);
    this.assignColours(sorted);
    const columns = history.requests.map((_, index) => sum(sorted.map(({ row }) => row[index])));
    const most = Math.max(1, ...columns);
    // The newest step is at the right, however short the past is.
    const width = Math.max(SHORTEST_STEPS, columns.length);
    const left = width - columns.length;
    const minutes = Math.round(((width - 1) * history.step_ms) / 60_000);
    say(this.from, `${minutes} min ago`);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${most}`);
    this.svg.replaceChildren(...columns.flatMap((total, index) => {
      if (!total) return [];
      let y = most;
      const words = [clock(begin(index))];
      const bars = sorted.filter(({ row }) => row[index]).map(({ name, row }) => {
        y -= row[index];
        words.push(`${name} ${row[index]}`);
        return drawn("rect", { class: this.colour(name), x: left + index, y, width: 0.9, height: row[index] });
      });
      return [drawn("g", {}, drawn("title", {}, words.join("\n")), ...bars)];
    }));
    const words = sorted.map(({ name, total }) => `${name} ${total}`);
    this.svg.setAttribute("aria-label", `${this.label}: ${words.join(", ") || "none"}`);
    say(this.most, sorted.length ? `highest: ${number(Math.max(...columns))} in 5 s` : "");
    this.legend.replaceChildren(...(sorted.length ? sorted.map(({ name, total }) => element("li", {},
      element("span", { class: `swatch ${this.colour(name)}`, "aria-hidden": "true" }), `${name} `, element("b", {}, number(total)),
    )) : [element("li", { class: "soft" }, "none")]));
  }
}

// -- upstreams

const STATES = {
  up: "healthy", ejected: "ejected: failed again and again", unhealthy: "out: fails its checks",
  unreachable: "unreachable when last tried", drained: "drained by an operator",
};
const CHECKS = { none: "not checked", passing: "checks pass", failing: "checks fail" };

function showUpstreams() {
  const items = status.upstreams.map((upstream) => {
    const up = upstream.endpoints.filter(({ state }) => state === "up").length;
    const facts = [`${up} of ${counted(upstream.endpoints.length, "endpoint", "endpoints")} healthy`,
      counted(upstream.websockets, "open WebSocket", "open WebSockets")];
    if (upstream.circuit !== "none") facts.push(`circuit ${upstream.circuit}`);
    const endpoints = upstream.endpoints.map(({ endpoint, state, checks }) => element("li", {},
      element("span", { class: "word" }, endpoint),
      element("span", {}, element("span", { class: state === "up" ? "good" : "bad" }, STATES[state] || state),
        element("span", { class: "soft" }, `, ${CHECKS[checks] || checks}`))));
    return element("li", { class: "card" }, element("h3", {}, upstream.name),
      element("span", { class: "soft" }, facts.join(" · ")), element("ul", {}, ...endpoints));
  });
  const list = at("upstreams");
  const fresh = element("ul", {}, ...items);
  if (list.textContent !== fresh.textContent) list.replaceChildren(...fresh.children);
}

// -- the journal

const journal = { limit: PAGE_SIZE, shown: null, nodes: new Map(), busy: false };
const FIELDS = [
  ["kind", "kind"], ["phase", "phase"], ["outcome", "outcome"], ["request_id", "request id"], ["method", "method"],
  ["path", "path"], ["route", "route"], ["upstream", "upstream"], ["endpoint", "endpoint"], ["dependency", "dependency"],
  ["received_status", "the app's status"], ["status", "the client's status"], ["close_code", "close code"],
  ["protocol", "protocol"], ["trace", "trace of"], ["trace_id", "trace id"],
];
const FATES = {
  normalized: "the client got seawall's answer", aborted: "the client saw it cut off",
  recovered: "the client saw nothing", passed: "the client got the app's own answer",
};

function entryNode(entry) {
  const got = entry.close_code ? `close ${entry.close_code}` : entry.status ? `${entry.status}` : "cut off";
  const why = [entry.dependency && `${entry.dependency} failed`, ...(entry.error || [])].filter(Boolean).join(": ");
  const outcome = entry.outcome === "recovered" ? "recovered" : got;
  const summary = element("summary", {}, element("span", { class: "word" }, clock(entry.time_ms)),
    " ", element("b", {}, entry.kind), ` ${entry.upstream} · ${entry.method} ${entry.path} · ${outcome}`,
    element("span", { class: "why" }, why || (status.kinds[entry.kind] || "")));
  const details = element("details", { class: noticed(entry) ? "seen" : "unseen" }, summary);
  // Made when it is opened: a list of many entries stays light.
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(entryBody(entry));
    if (!details.open) refreshJournal();
  });
  return element("li", {}, details);
}

function entryBody(entry) {
  const rows = FIELDS.filter(([field]) => entry[field] !== undefined && entry[field] !== "")
    .flatMap(([field, label]) => [element("dt", {}, label), element("dd", {}, String(entry[field]))]);
  const time = new Date(entry.time_ms).toISOString();
  const body = element("div", { class: "body" },
    element("p", {}, status.kinds[entry.kind] || "", ` Outcome: ${FATES[entry.outcome] || entry.outcome}.`),
    element("dl", {}, element("dt", {}, "time"), element("dd", {}, time), ...rows));
  if (entry.error) body.append(element("p", {}, "Error, outermost first:"), element("pre", { tabindex: "0" }, entry.error.join("\n")));
  if (entry.evidence) {
    const label = "What the app said (the client did not get it, unless the outcome is passed)";
    body.append(element("p", {}, `${label}:`), element("pre", { tabindex: "0", "aria-label": label }, entry.evidence));
  }
  body.append(element("p", {}, element("a", { href: `#id=${encodeURIComponent(entry.request_id)}` }, "Link to this request")));
  return body;
}

function filters() {
  const chosen = { id: at("id").value.trim(), kind: at("kind").value, upstream: at("upstream").value };
  return new URLSearchParams(Object.entries(chosen).filter(([, value]) => value));
}

/** Asks for the journal if it has changed; an entry that is being read is not pushed away. */
async function refreshJournal(wanted = false) {
  const query = filters();
  const asked = `${query}&${journal.limit}`;
  const { next } = status.journal;
  const behind = journal.shown && journal.shown.asked === asked ? next - journal.shown.next : null;
  if (behind === 0 && !wanted) return;
  const reading = at("entries").querySelector("details[open]");
  if (behind !== null && reading && !wanted) {
    at("newer").hidden = false;
    return;
  }
  if (journal.busy) return;
  journal.busy = true;
  try {
    query.set("limit", journal.limit);
    showEntries(await ask(`failures?${query}`));
    journal.shown = { asked, next };
    at("newer").hidden = true;
  } catch (error) {
    say(at("found"), "The journal cannot be read; trying again.");
  } finally {
    journal.busy = false;
  }
  // What was typed meanwhile.
  if (`${filters()}&${journal.limit}` !== asked) refreshJournal();
}

function showEntries(entries) {
  const list = at("entries");
  const nodes = new Map();
  for (const entry of entries) {
    const key = `${entry.number} ${entry.time_ms} ${entry.request_id}`;
    nodes.set(key, journal.nodes.get(key) || entryNode(entry));
  }
  for (const [key, node] of journal.nodes) if (!nodes.has(key)) node.remove();
  // Those that stay are not moved: they keep the focus and what is open.
  let cursor = list.firstChild;
  for (const node of nodes.values()) {
    if (node === cursor) cursor = cursor.nextSibling;
    else list.insertBefore(node, cursor);
  }
  journal.nodes = nodes;
  const full = entries.length >= journal.limit;
  at("more").hidden = !full || journal.limit >= MOST_ENTRIES;
  const narrowed = filters().size > 0;
  if (!entries.length) say(at("found"), narrowed ? "No failure that is remembered matches." : "No failure is remembered.");
  else say(at("found"), full ? `The newest ${number(entries.length)}.` : `${counted(entries.length, "failure", "failures")}, newest first.`);
  // Who looks for one request wants to see it.
  if (at("id").value.trim() && nodes.size === 1) nodes.values().next().value.querySelector("details").open = true;
}

function choices(select, names) {
  const known = new Set([...select.options].map((option) => option.value));
  for (const name of names) if (!known.has(name)) select.append(element("option", { value: name }, name));
}

/** The search is in the address: it can be sent to somebody. */
function remember() {
  const query = filters();
  history.replaceState(null, "", query.size ? `#${query}` : location.pathname);
  journal.limit = PAGE_SIZE;
  if (status) refreshJournal();
}

function recall() {
  const query = new URLSearchParams(location.hash.slice(1));
  if (!["id", "kind", "upstream"].some((name) => query.has(name))) return;
  for (const name of ["id", "kind", "upstream"]) {
    const value = query.get(name) || "";
    if (name !== "id" && value) choices(at(name), [value]);
    at(name).value = value;
  }
  if (status) refreshJournal();
  at("journal").scrollIntoView();
}

// -- the configuration

async function showConfig() {
  const pre = at("config").querySelector("pre");
  try {
    pre.textContent = JSON.stringify(await ask("config"), null, 2);
  } catch (error) {
    pre.textContent = "It cannot be read; close and open this again.";
  }
}

// -- the loop

const charts = [
  new Chart(at("by-kind"), "kind", "Failures by kind in the last 15 minutes"),
  new Chart(at("by-upstream"), "upstream", "Failures by upstream in the last 15 minutes"),
];
/** Asks for the token, and for nothing else until it is given. */
function lock() {
  at("now").dataset.state = "unknown";
  say(at("verdict"), token.get() ? "This is not the token." : "The token is needed.");
  say(at("detail"), "");
  say(at("since"), "");
  at("unlock").hidden = false;
}

let missed = 0;
let timer = null;

async function poll() {
  clearTimeout(timer);
  try {
    status = await ask("status.json");
    missed = 0;
    say(at("version"), `${status.version} · ${status.readiness}`);
    choices(at("kind"), Object.keys(status.kinds));
    choices(at("upstream"), status.upstreams.map(({ name }) => name));
    showNow();
    charts.forEach((chart) => chart.show());
    showUpstreams();
    refreshJournal();
    at("unlock").hidden = true;
    // A link cannot bring the token.
    at("links").hidden = token.get() !== null;
  } catch (error) {
    if (error instanceof Locked) return lock();
    console.error(error);
    missed += 1;
    // A single miss is a connection that was at its end.
    if (missed > 1) {
      at("now").dataset.state = "unknown";
      say(at("verdict"), "This seawall does not answer.");
      say(at("detail"), "What is below may be old. Trying again.");
      say(at("since"), "");
    }
  }
  if (!document.hidden) timer = setTimeout(poll, PERIOD_MS);
}

at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(at("token").value.trim());
  poll();
});
at("recovered").addEventListener("change", () => status && charts.forEach((chart) => chart.show()));
at("search").addEventListener("submit", (event) => event.preventDefault());
at("search").addEventListener("input", remember);
at("newer").addEventListener("click", () => refreshJournal(true));
at("more").addEventListener("click", () => {
  journal.limit = Math.min(MOST_ENTRIES, journal.limit + 2 * PAGE_SIZE);
  refreshJournal(true);
});
at("config").addEventListener("toggle", () => at("config").open && showConfig());
document.addEventListener("visibilitychange", () => document.hidden || poll());
window.addEventListener("hashchange", recall);
recall();
poll();
