// The page of one agent: who it is, what it handed in, and its conversation, turn by turn.

function drawAgent() {
  const panel = byId("agent");
  const agent = agents[state.agent];
  panel.hidden = !agent;
  document.body.classList.toggle("with-agent", Boolean(agent));
  if (!agent) return;
  const way = [...above(agent.n)].reverse();
  const title = el("h2", { tabindex: "-1", id: "agent-name" }, glyph(agent.state), agent.name, el("span", { class: `tag is-${agent.state}`, text: agent.state }));
  const face = bars(agent.n, 600, false, 26);
  panel.setAttribute("aria-label", `Agent ${agent.name}`);
  panel.replaceChildren(
    el("header", { class: "agent-head" },
      el("div", { class: "crumbs" }, way.flatMap((n) => [agentLink(n), " › "]), el("span", { text: agent.name }),
        el("button", { type: "button", class: "close", "aria-label": "Close (Escape)", text: "×", onclick: closeAgent })),
      title, el("p", { class: "role", dir: "auto" }, marked(agent.role))),
    el("dl", { class: "figures small" },
      figure("calls", count(agent.calls)), figure("tokens in", short(agent.input_tokens)), figure("out", short(agent.output_tokens)),
      agent.cached_tokens > 0 && figure("cached", short(agent.cached_tokens)), figure("cost", money(agent.cost)),
      figure("in model calls", span(agent.thinking * 1000)), figure("tools", `${count(agent.tools)}${agent.refused ? `, ${agent.refused} refused` : ""}`)),
    el("div", { class: "own-time" }, face, el("div", { class: "ends" }, el("span", { text: "0" }), el("span", { text: span(run.worked) }))));
  if (agent.depends_on.length) panel.append(el("p", { class: "relations" }, "after ", agent.depends_on.flatMap((n, i) => [i ? ", " : "", agentLink(n)])));
  if (agent.members.length) panel.append(team(agent));
  const report = texts.reports[agent.n];
  if (report) panel.append(el("h3", { text: "Report" }), passage(report, 10));
  else if (agent.note) panel.append(el("h3", { text: "Last heard of" }), passage(agent.note, 4));
  panel.append(...touched(agent));
  const turns = texts.turns[agent.n] || [];
  panel.append(el("h3", {}, "Conversation ", el("small", { text: many(agent.calls, "turn") })));
  const list = el("ol", { class: "turns" });
  panel.append(list);
  const sought = turns.findIndex((turn) => state.step && turn.step === state.step);
  if (turns.length) inParts(list, turns, turnRow, Math.max(25, sought + 5));
  else list.append(nothing("It has not had a turn."));
  panel.scrollTop = 0;
  if (sought < 0) return;
  list.children[sought].classList.add("sought");
  panel.scrollTop = list.children[sought].getBoundingClientRect().top - panel.getBoundingClientRect().top - 110;
}

function team(agent) {
  const list = el("div", { class: "team" });
  inParts(list, agent.members, (n) => el("span", { class: "mate" }, glyph(agents[n].state), agentLink(n)), 60);
  return el("div", {}, el("h3", {}, "Team ", el("small", { text: agent.members.length === agent.branch.agents - 1 ? "" : `${count(agent.branch.agents - 1)} with their teams` })), list);
}

/** The files that an agent has changed. */
function touched(agent) {
  const rows = [];
  for (const file of texts.files) {
    const own = file.changes.filter((change) => change.agent === agent.name);
    if (own.length) rows.push([file.path, own.reduce((sum, change) => sum + change.added, 0), own.reduce((sum, change) => sum + change.removed, 0)]);
  }
  if (!rows.length) return [];
  const list = el("div", { class: "touched" });
  list.append(...rows.slice(0, 40).flatMap(([path, added, removed]) => [
    el("button", { type: "button", class: "quiet", text: path, title: "Show its changes", onclick: () => openFile(path) }),
    el("span", { class: "plusminus" }, el("ins", { text: `+${count(added)}` }), " ", el("del", { text: `−${count(removed)}` })),
  ]));
  return [el("h3", {}, "Files ", el("small", { text: rows.length > 40 ? `40 of ${count(rows.length)}` : "" })), list];
}

/** The changes of one file: the view of files, narrowed to it. */
function openFile(path) {
  byId("search").value = path;
  location.hash = "#files";
  find(path);
}

const figure = (name, value) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }));

function turnRow(turn) {
  if (typeof turn === "number") return el("li", { class: "gap", text: `${many(turn, "turn")} left out of this report` });
  const numbers = [`${span(turn.seconds * 1000)} in the model`, `${short(turn.in)} tokens in`, `${short(turn.out)} out`];
  if (turn.retries) numbers.push(many(turn.retries, "failed try").replace("trys", "tries"));
  if (turn.cost) numbers.push(money(turn.cost));
  const last = turn.mail.map((n) => texts.mail[n]);
  return el("li", { class: "turn", id: `turn-${turn.step}` },
    el("header", {}, el("b", { text: `Turn ${turn.step}` }), el("time", { text: `at ${span(turn.at)}` }), el("span", { text: numbers.join(" · ") })),
    turn.heard.map((text) => heard(text)),
    last.map((letter) => el("div", { class: "heard" }, el("div", { class: "from" }, "letter from ", agentLink(letter[0], letter[1]), el("span", { class: `tag kind-${letter[3]}`, text: letter[3] })), passage(letter[5], 8))),
    turn.said && el("div", { class: "said" }, passage(turn.said, 16)),
    turn.calls.map(toolRow));
}

function heard(text) {
  const noted = text.startsWith("<note>");
  return el("div", { class: "heard" }, el("div", { class: "from", text: noted ? "note from the system" : "its task" }), passage(noted ? text.slice(6).replace(/<\/note>\s*$/, "") : text, 8));
}

function toolRow([tool, args, ok, result, seconds]) {
  const sign = ok === null ? el("span", { class: "tag", text: "not finished" }) : ok ? null : el("span", { class: "tag is-failed", text: "refused" });
  const hint = args.map(([name, text]) => (name ? `${name}: ` : "") + text.slice(0, 90).split(/\s+/).join(" ")).join(" · ");
  const body = el("div", { class: "tool-body" });
  const row = el("details", { class: "tool" },
    el("summary", {}, el("code", {}, marked(tool || "(no tool)")), el("bdi", { class: "hint" }, marked(hint.slice(0, 160))), sign, seconds >= 0.1 && el("span", { class: "num", text: span(seconds * 1000) })),
    body);
  const build = () => body.childElementCount || body.append(
    ...args.map(([name, text]) => el("div", { class: "arg" }, el("span", { class: "arg-name", text: name || "arguments" }), passage(text, 14, "code"))),
    el("div", { class: "arg" }, el("span", { class: "arg-name", text: ok === false ? "answer" : "result" }), passage(result || "(nothing)", 14, "code")));
  row.addEventListener("toggle", build);
  if (ok === false || (state.query && (result + args.flat().join()).toLowerCase().includes(state.query))) {
    row.open = true;
    build();
  }
  return row;
}
