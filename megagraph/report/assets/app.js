// The page itself: its head, its views, the search, the keys, the address, the print.

const VIEWS = { timeline: "Timeline", map: "Map", mail: "Mail", files: "Files", checks: "Checks", cost: "Cost", texts: "Conversations" };
const NEEDS_TEXTS = ["mail", "files", "texts"];
let overview = null;

function buildHead() {
  const passed = overview.checks.filter((check) => check.passed).length;
  const good = run.passed ? "good" : ["running", "paused", "asking", "interrupted"].includes(run.status) ? "open" : "bad";
  const sum = agents[0]?.branch || { calls: 0, input: 0, output: 0, cost: null };
  const about = [`run ${run.id.slice(0, 8)}`, run.scenario, run.rehearsal ? "rehearsal: a script plays the agents" : run.model, `started ${when(run.created)}`, run.status === "done" ? "" : `as it stood ${when(run.told)}`].filter(Boolean);
  const title = headline(run.goal.trim());
  const goal = el("h1", { dir: "auto", text: title || "(no goal)" });
  const more = title.length < run.goal.trim().length ? el("details", { class: "goal" }, el("summary", { text: "the whole goal" }), el("div", { class: "prose", dir: "auto", text: run.goal })) : null;
  byId("head").append(...[
    el("div", { class: "verdict" }, el("span", { class: `badge ${good}` }, el("span", { "aria-hidden": "true", text: { good: "✓", open: "○", bad: "!" }[good] }), run.standing), el("span", { class: "about", text: about.join(" · ") })),
    goal, more,
    run.reason && el("p", { class: "reason", dir: "auto", text: run.reason }),
    el("dl", { class: "figures" },
      figure("agents", count(agents.length)), figure("model calls", count(sum.calls)), figure("tokens in", short(sum.input)), figure("tokens out", short(sum.output)),
      figure("cost", money(sum.cost)), figure("time at work", span(run.worked)), figure("letters", count(overview.letters)), figure("files", count(overview.files)),
      overview.checks.length > 0 && figure("checks passed", `${passed} of ${overview.checks.length}`),
      run.retries > 0 && figure("retries", count(run.retries)), run.bad_answers > 0 && figure("bad answers", count(run.bad_answers))),
    el("div", { class: "brief" },
      overview.report && el("section", {}, el("h2", { text: "The boss reports" }), passage(overview.report, 6)),
      attention()),
  ].filter(there));
}

/** The first sentence of a goal, or the beginning of a long one. */
function headline(goal) {
  const line = goal.split("\n", 1)[0].replace(/^#+\s+/, "");
  const sentence = line.match(/^.{20,180}?[.!?](?=\s)/)?.[0] || line;
  return sentence.length > 180 ? `${sentence.slice(0, 179)}…` : sentence;
}

/** What a reader should look at first: failed checks, and agents whose work is missing. */
function attention() {
  const failed = overview.checks.filter((check) => !check.passed);
  const order = { asking: 0, failed: 1, incomplete: 2 };
  const missing = agents.filter((agent) => isTrouble(agent) && agent.n).sort((a, b) => order[a.state] - order[b.state] || b.depth - a.depth);
  if (!failed.length && !missing.length) return null;
  const list = el("ul", { class: "plain" },
    failed.slice(0, 5).map((check) => el("li", {}, glyph("failed"), el("a", { href: "#checks", text: check.name }), el("span", { class: "why", text: ` ${check.detail.slice(0, 160)}` }))),
    missing.slice(0, Math.max(2, 6 - failed.length)).map((agent) => el("li", {}, glyph(agent.state), agentLink(agent.n), el("span", { class: "why", dir: "auto", text: ` ${agent.note.slice(0, 180)}` }))));
  const left = failed.length + missing.length - list.childElementCount;
  return el("section", {}, el("h2", { text: "Look here first" }), list, left > 0 && el("a", { class: "quiet", href: "#checks", text: `and ${count(left)} more` }));
}

function buildBar() {
  const tabs = el("div", { class: "tabs", role: "tablist" }, Object.entries(VIEWS).map(([view, title]) =>
    el("a", { role: "tab", id: `tab-${view}`, href: `#${view}`, "aria-controls": `view-${view}`, hidden: view === "texts" }, title, el("small"))));
  tabs.addEventListener("keydown", (event) => {
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!way) return;
    const open = [...tabs.children].filter((tab) => !tab.hidden);
    const next = open[(open.indexOf(document.activeElement) + way + open.length) % open.length];
    next.focus();
    next.click();
  });
  const search = el("input", { type: "search", id: "search", placeholder: "Search everything", "aria-label": "Search everything", "aria-keyshortcuts": "/", autocomplete: "off", spellcheck: "false" });
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => find(search.value), 120);
  });
  byId("bar").append(tabs, el("label", { class: "search" }, search, el("kbd", { text: "/", "aria-hidden": "true" })));
}

/** Search in everything: the view in sight is narrowed, the other tabs say how much is found there. */
function find(text) {
  state.query = text.trim().toLowerCase();
  const found = {};
  if (state.query) {
    const { query } = state;
    found.timeline = agents.filter((agent) => fits(agent, query)).length;
    if (texts) {
      found.mail = texts.mail.filter((letter) => mailFits(letter, query)).length;
      found.files = texts.files.filter((file) => fileFits(file, query)).length;
      hits = conversationHits(query);
      found.texts = hits.length;
    }
  }
  for (const view of Object.keys(VIEWS)) byId(`tab-${view}`).querySelector("small").textContent = found[view] === undefined ? "" : ` ${count(found[view])}`;
  byId("tab-texts").hidden = !state.query;
  if (!state.query && state.view === "texts") location.hash = "#timeline";
  refreshOutline();
  drawView();
}

let hits = [];

/** The turns in which something is found: [agent, turn, the text around it]. */
function conversationHits(query) {
  const found = [];
  for (const agent of agents) {
    for (const turn of texts.turns[agent.n] || []) {
      if (typeof turn === "number") continue;
      for (const text of [turn.said, ...turn.heard, ...turn.calls.flatMap(([tool, args, , result]) => [tool, ...args.map((arg) => arg[1]), result])]) {
        const at = text.toLowerCase().indexOf(query);
        if (at < 0) continue;
        found.push([agent.n, turn, `${at > 90 ? "…" : ""}${text.slice(Math.max(0, at - 90), at + 160).split(/\s+/).join(" ")}`]);
        break;
      }
    }
  }
  return found;
}

function drawTexts() {
  const list = el("div", { class: "list" });
  byId("view-texts").replaceChildren(list);
  if (!hits.length) return list.append(nothing("No conversation has it."));
  return inParts(list, hits, ([n, turn, text]) => el("article", { class: "letter" },
    el("header", {}, agentLink(n, "", turn.step), el("span", { text: `turn ${turn.step}` }), el("time", { text: `at ${span(turn.at)}` })), passage(text, 4)));
}

const BUILD = { map: buildMap, mail: buildMail, files: buildFiles, checks: () => buildChecks(overview), cost: buildCost };
const DRAW = { timeline: () => drawRows(), map: () => drawMap(), mail: () => drawMail(), files: () => drawFiles(), cost: () => drawCost(), texts: () => drawTexts(), checks: () => buildChecks(overview) };

function drawView(view = state.view) {
  const place = byId(`view-${view}`);
  if (!texts && NEEDS_TEXTS.includes(view)) return place.replaceChildren(nothing("A moment…"));
  if (BUILD[view] && !place.dataset.built) {
    place.replaceChildren();
    place.dataset.built = "yes";
    BUILD[view]();
  }
  return DRAW[view]();
}

/** The address says what is shown: `#view` `#view/agent`, or `#view/agent/turn`. */
function route() {
  const [view, name, step] = location.hash.slice(1).split("/");
  const before = state.view;
  state.view = view in VIEWS && (view !== "texts" || state.query) ? view : "timeline";
  state.agent = agents.findIndex((agent) => agent.name === name);
  state.step = Number(step) || 0;
  for (const each of Object.keys(VIEWS)) {
    byId(`view-${each}`).hidden = each !== state.view;
    const tab = byId(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === state.view));
    tab.tabIndex = each === state.view ? 0 : -1;
  }
  if (before !== state.view && byId("bar").getBoundingClientRect().top <= 0) byId("views").scrollIntoView();
  if (texts || state.agent < 0) drawAgent();
  drawView();
  mark();
}

function openAgent(n, focus = false) {
  location.hash = agentHash(n);
  if (focus) focusAgent = true;
}

let focusAgent = false;

function closeAgent() {
  location.hash = `#${state.view}`;
  (state.view === "timeline" ? outline.tree : byId(`tab-${state.view}`)).focus({ preventScroll: true });
}

function onKey(event) {
  const typing = event.target.matches?.("input, textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    byId("search").focus();
    byId("search").select();
  } else if (event.key === "Escape") {
    const search = byId("search");
    if (typing && search.value) {
      search.value = "";
      find("");
    } else if (typing) outline.tree.focus({ preventScroll: true });
    else if (state.agent >= 0) closeAgent();
  } else if (event.target === byId("search") && (event.key === "Enter" || event.key === "ArrowDown")) {
    event.preventDefault();
    if (state.view === "timeline") outline.tree.focus();
    else byId(`tab-${state.view}`).focus();
  }
}

/** Paper has no scrolling: all rows, and what else tells how the run went. */
function print(on) {
  outline.all = on;
  if (on) for (const view of ["checks", "cost"]) drawView(view);
  const view = state.view;
  state.view = "timeline";
  refreshOutline();
  state.view = view;
}

async function start() {
  overview = await unpack("overview");
  plant(overview);
  buildHead();
  buildBar();
  buildOutline();
  route();
  document.documentElement.dataset.ready = "overview";
  addEventListener("hashchange", () => {
    route();
    if (focusAgent && state.agent >= 0) byId("agent-name")?.focus({ preventScroll: true });
    focusAgent = false;
  });
  addEventListener("keydown", onKey);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
  texts = await unpack("words");
  if (state.query) find(state.query);
  route();
  document.documentElement.dataset.ready = "all";
}

start().catch((error) => {
  document.body.prepend(el("p", { class: "broken", text: `This report cannot be shown by this browser: ${error.message}` }));
  throw error;
});
