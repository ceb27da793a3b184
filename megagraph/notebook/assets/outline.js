"use strict";
// Names and notes come from models: they are put in as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const list = document.getElementById("rows");
const find = document.getElementById("find");
const agents = data.agents.map(([name, role, lead, state, note, calls, tokens, spans], n) =>
  ({ n, name, role, lead, state, note, calls, tokens, spans, members: [], below: 0, open: data.open.includes(n) }));
for (const agent of agents) if (agent.lead >= 0) agents[agent.lead].members.push(agent);
for (const agent of [...agents].reverse()) if (agent.lead >= 0) agents[agent.lead].below += agent.below + 1;
let chosen = null;

function make(tag, kind, text) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function row(agent, level) {
  const made = make("div", agent.members.length ? "row lead" : "row");
  made.tabIndex = 0;
  made.title = `${agent.name}: ${agent.state}. ${agent.note}`;
  const name = make("span", "name");
  name.style.paddingLeft = `${16 * Math.min(level, 12)}px`;
  const mark = make("span", "", `${data.marks[agent.state]} `);
  mark.style.color = data.inks[agent.state];
  const below = agent.members.length && !agent.open ? ` + ${agent.below.toLocaleString("en")} below ·` : "";
  name.append(make("span", "fold", agent.members.length ? (agent.open ? "▾" : "▸") : ""), mark, make("b", "", agent.name), `${below} ${agent.role}`);
  const time = make("span", "time");
  for (let i = 0; i < agent.spans.length; i += 3) {
    const [start, end, state] = agent.spans.slice(i, i + 3);
    const bar = make("i", data.thin.includes(data.states[state]) ? "thin" : "");
    bar.style.left = `${(100 * start) / data.end}%`;
    bar.style.width = `${(100 * (end - start)) / data.end}%`;
    bar.style.background = data.colours[data.states[state]];
    time.append(bar);
  }
  made.append(name, time, make("span", "num", agent.calls.toLocaleString("en")), make("span", "num", agent.tokens.toLocaleString("en")));
  const act = () => {
    chosen = chosen === agent ? null : agent;
    if (agent.members.length) agent.open = !agent.open;
    draw();
    list.querySelector(`[data-n="${agent.n}"]`)?.focus();
  };
  made.dataset.n = agent.n;
  made.addEventListener("click", act);
  made.addEventListener("keydown", (event) => { if (event.key === "Enter") act(); });
  return made;
}

function draw() {
  const rows = [];
  const words = find.value.trim().toLowerCase();
  const walk = (agent, level) => {
    const found = !words || `${agent.name} ${agent.role} ${agent.state} ${agent.note}`.toLowerCase().includes(words);
    if (found) rows.push(row(agent, words ? 0 : level));
    if (found && chosen === agent) {
      const more = make("p", "", `${agent.role} · ${agent.state}${agent.note ? `: ${agent.note}` : ""}`);
      more.id = "more";
      rows.push(more);
    }
    if (words || agent.open) for (const member of agent.members) walk(member, level + 1);
  };
  walk(agents[0], 0);
  list.replaceChildren(...rows);
}

find.addEventListener("input", draw);
document.getElementById("all").addEventListener("click", () => {
  const open = agents.some((agent) => agent.members.length && !agent.open);
  for (const agent of agents) agent.open = open || agent.n === 0;
  draw();
});
draw();
