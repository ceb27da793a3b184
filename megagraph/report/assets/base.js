// What everything else uses: elements made of text alone, numbers for people, and the data of the page.

const SVG = "http://www.w3.org/2000/svg";

const there = (child) => child !== null && child !== undefined && child !== false;

/** An element. `props`: class, text, on… handlers, and attributes. Nothing is ever parsed as HTML. */
function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter(there));
  return node;
}

const byId = (id) => document.getElementById(id);
const many = (number, thing) => `${count(number)} ${thing}${number === 1 ? "" : "s"}`;
const count = (number) => number.toLocaleString("en");

function short(number) {
  if (number < 10_000) return count(number);
  const [unit, size] = number < 999_500 ? ["k", 1e3] : number < 999_500_000 ? ["M", 1e6] : ["G", 1e9];
  const value = number / size;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

function span(ms) {
  const s = ms / 1000;
  if (s < 1) return `${Math.round(ms)} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.round(s)} s`;
  const m = Math.floor(s / 60);
  return m < 60 ? `${m} min ${pad(s % 60)} s` : `${Math.floor(m / 60)} h ${pad(m % 60)} min`;
}

const pad = (number) => String(Math.floor(number)).padStart(2, "0");
const money = (dollars) => dollars === null ? "–" : dollars && dollars < 0.01 ? `$${dollars.toFixed(4)}` : `$${dollars.toFixed(2)}`;
const bytes = (size) => size < 1000 ? `${size} B` : size < 999_500 ? `${(size / 1e3).toFixed(1)} kB` : `${(size / 1e6).toFixed(1)} MB`;
const when = (seconds) => new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** Data that lies in the page: JSON, compressed, in base64. */
async function unpack(id) {
  const packed = Uint8Array.from(atob(byId(id).textContent), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const state = { query: "", view: "timeline", agent: -1, step: 0 };
const STATES = {
  thinking: ["●", "thinking"], acting: ["●", "acting"], waiting: ["○", "waiting"], asking: ["?", "asking"],
  reported: ["✓", "reported"], incomplete: ["!", "incomplete"], failed: ["✗", "failed"], done: ["✓", "done"],
};

const glyph = (name) => el("span", { class: `glyph is-${name}`, "aria-label": STATES[name][1], role: "img", text: STATES[name][0] });

/** Text in which what is searched for is marked. */
function marked(text, query = state.query) {
  const parts = [];
  const low = query ? text.toLowerCase() : "";
  let from = 0;
  for (let at; query && parts.length < 200 && low.length === text.length && (at = low.indexOf(query, from)) >= 0; from = at + query.length) {
    parts.push(text.slice(from, at), el("mark", { text: text.slice(at, at + query.length) }));
  }
  return [...parts, text.slice(from)];
}

/** A text that may be long: some lines of it, and a button for the rest. */
function passage(text, most = 12, kind = "prose") {
  const node = el("div", { class: `passage ${kind}`, dir: "auto" }, marked(text));
  const wide = Math.min(110, (innerWidth - 32) / 7.2);
  const lines = text.split("\n", 400).reduce((sum, line) => sum + 1 + Math.floor(line.length / wide), 0);
  if (lines <= most + 3) return node;
  node.classList.add("folded");
  node.style.setProperty("--lines", most);
  const button = el("button", { class: "quiet", type: "button", "aria-expanded": "false", text: `Show all ${count(text.length)} characters` });
  button.addEventListener("click", () => {
    const folded = node.classList.toggle("folded");
    button.setAttribute("aria-expanded", String(!folded));
    button.textContent = folded ? `Show all ${count(text.length)} characters` : "Show less";
  });
  return el("div", { class: "fold" }, node, button);
}

/** Adds rows to a list a hundred at a time, as far as it is scrolled to. */
function inParts(list, items, row, size = 100) {
  let next = 0;
  const more = el("button", { class: "more", type: "button", onclick: () => add() });
  const watch = new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && add(), { rootMargin: "400px" });
  function add() {
    more.remove();
    list.append(...items.slice(next, next + size).map((item, n) => row(item, next + n)));
    next += size;
    if (next >= items.length) return watch.disconnect();
    more.textContent = `${count(items.length - next)} more`;
    list.append(more);
    watch.observe(more);
  }
  add();
}

const nothing = (text) => el("p", { class: "nothing", text });
