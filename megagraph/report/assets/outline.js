// The timeline: a row for each agent, the tree on the left, its time on the right. Only rows in sight are drawn.

const outline = { open: new Set(), rows: [], at: 0, only: "", drawn: new Map(), all: false };

const HEIGHT = () => (matchMedia("screen and (max-width: 760px)").matches ? 46 : 30);

function buildOutline() {
  unfoldAtFirst();
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Show only" });
  const numbers = {};
  for (const agent of agents) numbers[agent.state] = (numbers[agent.state] || 0) + 1;
  for (const name of ["", ...Object.keys(STATES).filter((each) => numbers[each])]) {
    const chip = el("button", { type: "button", class: "chip", "aria-pressed": String(!name), "data-state": name },
      name ? glyph(name) : null, `${name || "all"} `, el("b", { text: count(name ? numbers[name] : agents.length) }));
    chip.addEventListener("click", () => {
      outline.only = name;
      for (const each of chips.children) each.setAttribute("aria-pressed", String(each === chip));
      refreshOutline();
    });
    chips.append(chip);
  }
  const fold = el("div", { class: "buttons" },
    el("button", { type: "button", class: "quiet", text: "Unfold all", onclick: () => { agents.forEach((a) => a.members.length && outline.open.add(a.n)); refreshOutline(); } }),
    el("button", { type: "button", class: "quiet", text: "Fold all", onclick: () => { outline.open = new Set([0]); refreshOutline(); } }));
  const legend = el("div", { class: "legend", "aria-hidden": "true" },
    ["thinking", "acting", "waiting", "asking", "reported", "incomplete", "failed"].map((name) => el("span", {}, el("i", { class: `swatch is-${name}` }), name)));
  outline.axis = el("div", { class: "axis", "aria-hidden": "true" });
  outline.tree = el("div", { class: "tree", role: "tree", tabindex: "0", "aria-label": "Agents", id: "tree" });
  outline.tree.addEventListener("keydown", onTreeKey);
  outline.tree.addEventListener("focus", () => select(outline.at, false));
  outline.tree.addEventListener("mousemove", tipOfRow);
  outline.tree.addEventListener("mouseleave", () => { byId("tip").hidden = true; });
  outline.none = nothing("No agent fits.");
  byId("view-timeline").append(el("div", { class: "tools" }, chips, fold, legend), outline.axis, outline.tree, outline.none);
  addEventListener("scroll", drawRows, { passive: true });
  new ResizeObserver(([seen]) => {
    // Only the width matters: the height changes with every fold.
    if (seen.contentRect.width && seen.contentRect.width !== outline.width) refreshOutline();
    outline.width = seen.contentRect.width || outline.width;
  }).observe(byId("view-timeline"));
  refreshOutline();
}

/** Small organisations are open; of large ones the teams of the boss, and the ways to where something went wrong. */
function unfoldAtFirst() {
  if (agents.length <= 60) return agents.forEach((agent) => agent.members.length && outline.open.add(agent.n));
  outline.open.add(0);
  let rows = agents[0].members.length;
  for (const agent of agents.filter(isTrouble).sort((a, b) => (a.state !== "failed") - (b.state !== "failed"))) {
    const ways = [...above(agent.n)].filter((n) => !outline.open.has(n));
    rows += ways.reduce((sum, n) => sum + agents[n].members.length, 0);
    if (rows > 60) break;
    ways.forEach((n) => outline.open.add(n));
  }
}

function refreshOutline() {
  const { query } = state;
  const narrow = query || outline.only;
  const hits = new Set();
  const shown = new Set();
  if (narrow) {
    for (const agent of agents) {
      if ((query && !fits(agent, query)) || (outline.only && agent.state !== outline.only)) continue;
      hits.add(agent.n);
      shown.add(agent.n);
      for (const up of above(agent.n)) shown.add(up);
    }
  }
  const kept = outline.rows[outline.at]?.n ?? 0;
  outline.rows = [];
  const grow = (n, place, size) => {
    if (narrow && !shown.has(n)) return;
    const members = narrow ? agents[n].members.filter((m) => shown.has(m)) : agents[n].members;
    const open = narrow ? members.length > 0 : outline.open.has(n);
    outline.rows.push({ n, place, size, open, lead: members.length > 0, dim: Boolean(narrow) && !hits.has(n) });
    if (open) members.forEach((m, i) => grow(m, i + 1, members.length));
  };
  if (agents.length) grow(0, 1, 1);
  outline.at = Math.max(0, outline.rows.findIndex((row) => row.n === kept));
  outline.hits = narrow ? hits.size : agents.length;
  outline.none.hidden = outline.rows.length > 0;
  outline.drawn.forEach((row) => row.remove());
  outline.drawn.clear();
  outline.tree.style.height = `${outline.rows.length * HEIGHT()}px`;
  drawAxis();
  drawRows();
}

const stretch = () => Math.max(1, run.worked);
const barWidth = () => outline.axis.querySelector("svg")?.clientWidth || 600;

function ticks(width) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];
  const step = 1000 * (steps.find((s) => (s * 1000 * width) / stretch() >= 84) || 172800);
  return Array.from({ length: Math.floor(stretch() / step) + 1 }, (_, n) => n * step);
}

function drawAxis() {
  const face = svg("svg", { class: "scale" });
  outline.axis.replaceChildren(el("span", { class: "label", text: "agent" }), face, el("span", { class: "label num", text: "tokens" }), el("span", { class: "label num", text: "calls" }));
  const width = barWidth();
  const grid = svg("svg", { class: "grid", "aria-hidden": "true" });
  for (const tick of ticks(width)) {
    const x = (tick / stretch()) * width;
    const late = x > width - 40;
    face.append(svg("text", { x: `${late ? 100 : (tick / stretch()) * 100}%`, y: 17, "text-anchor": late ? "end" : x ? "middle" : "start", text: tick ? span(tick).replace(" 00 s", "").replace(" 00 min", "").replace(".0 s", " s") : "0" }));
    grid.append(svg("line", { x1: `${(tick / stretch()) * 100}%`, x2: `${(tick / stretch()) * 100}%`, y1: 0, y2: "100%" }));
  }
  if (run.judged !== null && run.worked - run.judged > stretch() / 50) {
    const x = (run.judged / stretch()) * 100;
    grid.prepend(svg("rect", { class: "judged", x: `${x}%`, width: `${100 - x}%`, y: 0, height: "100%" }),
      svg("text", { class: "judged", x: `${(x + 100) / 2}%`, y: 20, "text-anchor": "middle", text: "checks" }));
  }
  for (const pause of run.breaks) {
    const x = `${(pause / stretch()) * 100}%`;
    grid.append(svg("line", { class: "pause", x1: x, x2: x, y1: 0, y2: "100%" }, svg("title", { text: "paused and resumed" })));
  }
  outline.tree.querySelector(".under")?.remove();
  outline.tree.prepend(el("div", { class: "under", role: "presentation" }, el("span"), grid));
}

function drawRows() {
  if (state.view !== "timeline" || !outline.tree) return;
  const height = HEIGHT();
  const top = outline.tree.getBoundingClientRect().top;
  const first = outline.all ? 0 : Math.max(0, Math.floor(-top / height) - 8);
  const last = outline.all ? outline.rows.length : Math.min(outline.rows.length, Math.ceil((innerHeight - top) / height) + 8);
  for (const [at, row] of outline.drawn) {
    if (at >= first && at < last) continue;
    row.remove();
    outline.drawn.delete(at);
  }
  const width = barWidth();
  for (let at = first; at < last; at++) {
    if (outline.drawn.has(at)) continue;
    const row = drawRow(outline.rows[at], at, width);
    outline.drawn.set(at, row);
    outline.tree.append(row);
  }
  mark();
}

function drawRow({ n, place, size, open, lead, dim }, at, width) {
  const agent = agents[n];
  const folded = lead && !open;
  const row = el("div", {
    class: `row${dim ? " dim" : ""}`, role: "treeitem", id: `row-${n}`, "data-at": at,
    "aria-level": agent.depth + 1, "aria-posinset": place, "aria-setsize": size,
    "aria-expanded": lead ? String(open) : null, "aria-selected": "false",
    "aria-label": `${agent.name}, ${agent.role}, ${agent.state}`,
  });
  row.style.top = `${at * HEIGHT()}px`;
  row.style.setProperty("--depth", Math.min(agent.depth, 12));
  const caret = el("span", { class: "caret", text: lead ? (open ? "▾" : "▸") : "" });
  row.append(
    el("div", { class: "name" }, caret, glyph(agent.state), el("b", {}, marked(agent.name)),
      folded && el("span", { class: `more-below${agent.branch.trouble - (isTrouble(agent) ? 1 : 0) ? " trouble" : ""}`, text: `+${count(agent.branch.agents - 1)}` }),
      el("span", { class: "role", dir: "auto" }, marked(agent.role))),
    bars(n, width, folded),
    el("span", { class: "num", text: short(folded ? agent.branch.input + agent.branch.output : agent.input_tokens + agent.output_tokens) }),
    el("span", { class: "num", text: count(folded ? agent.branch.calls : agent.calls) }));
  row.addEventListener("click", (event) => {
    select(at);
    if (lead && event.target.closest(".caret, .more-below")) toggle(n);
    else openAgent(n);
  });
  return row;
}

/** At work a bar is whole; at rest it is a line, a thicker one where something is wrong. */
const TALL = { thinking: 1, acting: 1, asking: 1, failed: 0.5, incomplete: 0.5, waiting: 0.2, reported: 0.2, done: 0.2 };

/** The time of one agent; under it, where its members are folded away, how many of those were at work. */
function bars(n, width, folded = false, height = 20) {
  const face = svg("svg", { class: "bars", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const scale = width / stretch();
  const full = folded ? height * 0.5 : height * 0.6;
  const top = folded ? 1 : height * 0.2;
  for (const [from, until, name] of agents[n].spans) {
    const tall = Math.max(2, full * TALL[name]);
    face.append(svg("rect", { class: `is-${name}`, x: (from * scale).toFixed(1), width: Math.max(1, (until - from) * scale).toFixed(1), y: top + (full - tall) / 2, height: tall }));
  }
  if (folded) {
    const work = density(n);
    const most = Math.max(1, ...work);
    const foot = height - 1;
    const points = Array.from(work, (value, bin) => `${((bin * width) / work.length).toFixed(1)},${(foot - (value / most) * height * 0.38).toFixed(1)} ${(((bin + 1) * width) / work.length).toFixed(1)},${(foot - (value / most) * height * 0.38).toFixed(1)}`);
    face.append(svg("polygon", { class: "density", points: `0,${foot} ${points.join(" ")} ${width},${foot}` }));
  }
  return face;
}

function toggle(n, open = !outline.open.has(n)) {
  if (!agents[n].members.length) return;
  if (open) outline.open.add(n);
  else outline.open.delete(n);
  refreshOutline();
}

function select(at, scroll = true) {
  outline.at = Math.max(0, Math.min(outline.rows.length - 1, at));
  if (scroll) {
    const top = outline.tree.getBoundingClientRect().top + outline.at * HEIGHT();
    const head = outline.axis.getBoundingClientRect().bottom;
    if (top < head) scrollBy(0, top - head);
    else if (top + HEIGHT() > innerHeight) scrollBy(0, top + HEIGHT() - innerHeight + 4);
    drawRows();
  }
  mark();
}

function mark() {
  outline.drawn.forEach((row, at) => {
    row.setAttribute("aria-selected", String(at === outline.at));
    row.classList.toggle("opened", outline.rows[at].n === state.agent);
  });
  const now = outline.rows[outline.at];
  if (now) outline.tree.setAttribute("aria-activedescendant", `row-${now.n}`);
}

function onTreeKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const row = outline.rows[outline.at];
  if (!row) return;
  const page = Math.max(1, Math.floor(innerHeight / HEIGHT()) - 8);
  const { lead } = row;
  const steps = {
    ArrowDown: () => select(outline.at + 1),
    ArrowUp: () => select(outline.at - 1),
    PageDown: () => select(outline.at + page),
    PageUp: () => select(outline.at - page),
    Home: () => select(0),
    End: () => select(outline.rows.length - 1),
    ArrowRight: () => (lead && !row.open ? toggle(row.n, true) : lead && select(outline.at + 1)),
    ArrowLeft: () => (lead && row.open && !state.query && !outline.only ? toggle(row.n, false) : select(outline.rows.findIndex((each) => each.n === agents[row.n].lead))),
    Enter: () => openAgent(row.n, true),
    " ": () => toggle(row.n),
    "*": () => { agents[agents[row.n].lead]?.members.forEach((m) => agents[m].members.length && outline.open.add(m)); refreshOutline(); },
  };
  if (!steps[event.key]) return;
  event.preventDefault();
  steps[event.key]();
}

function tipOfRow(event) {
  const face = event.target.closest(".bars");
  const tip = byId("tip");
  tip.hidden = !face;
  if (!face) return;
  const box = face.getBoundingClientRect();
  const time = ((event.clientX - box.left) / box.width) * stretch();
  const { n } = outline.rows[Number(face.closest(".row").dataset.at)];
  const found = agents[n].spans.find(([from, until]) => time >= from && time <= until);
  tip.textContent = `${span(time)}${found ? ` · ${found[2]} for ${span(found[1] - found[0])}` : ""}`;
  tip.style.left = `${Math.min(event.clientX + 12, innerWidth - 190)}px`;
  tip.style.top = `${event.clientY + 16}px`;
}
