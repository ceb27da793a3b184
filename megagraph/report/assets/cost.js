// What every agent and every branch has used.

const cost = { by: "branch", sort: "tokens", down: true };

const COLUMNS = {
  agent: ["agent", (agent) => agent.n],
  agents: ["agents", (agent) => (cost.by === "branch" ? agent.branch.agents : 1)],
  calls: ["calls", (agent) => (cost.by === "branch" ? agent.branch.calls : agent.calls)],
  input: ["tokens in", (agent) => (cost.by === "branch" ? agent.branch.input : agent.input_tokens)],
  output: ["out", (agent) => (cost.by === "branch" ? agent.branch.output : agent.output_tokens)],
  tokens: ["share of tokens", (agent) => (cost.by === "branch" ? agent.branch.input + agent.branch.output : agent.input_tokens + agent.output_tokens)],
  dollars: ["cost", (agent) => (cost.by === "branch" ? agent.branch.cost : agent.cost) ?? -1],
};

function buildCost() {
  const choice = el("div", { class: "chips", role: "group", "aria-label": "Count" }, Object.entries({ branch: "with everybody below", own: "each alone" }).map(([name, text]) =>
    el("button", {
      type: "button", class: "chip", "aria-pressed": String(cost.by === name), text,
      onclick: (event) => {
        cost.by = name;
        for (const each of choice.children) each.setAttribute("aria-pressed", String(each === event.currentTarget));
        drawCost();
      },
    })));
  cost.table = el("table");
  byId("view-cost").append(el("div", { class: "tools" }, choice), cost.table);
}

function drawCost() {
  const value = COLUMNS[cost.sort][1];
  const rows = agents.filter((agent) => !state.query || fits(agent, state.query)).sort((a, b) => (cost.down ? value(b) - value(a) : value(a) - value(b)) || a.n - b.n);
  const all = Math.max(1, agents[0]?.branch.input + agents[0]?.branch.output);
  const most = cost.by === "branch" ? all : Math.max(1, ...agents.map(COLUMNS.tokens[1]));
  const head = el("tr", {}, Object.entries(COLUMNS).map(([name, [title]]) => el("th", { scope: "col", class: name === "agent" || name === "tokens" ? null : "num", "aria-sort": cost.sort === name ? (cost.down ? "descending" : "ascending") : null },
    el("button", {
      type: "button", class: "quiet", text: title + (cost.sort === name ? (cost.down ? " ↓" : " ↑") : ""),
      onclick: () => {
        cost.down = cost.sort === name ? !cost.down : name !== "agent";
        cost.sort = name;
        drawCost();
      },
    }))));
  const body = el("tbody");
  cost.table.replaceChildren(el("thead", {}, head), body);
  inParts(body, rows, (agent) => {
    const tokens = COLUMNS.tokens[1](agent);
    const share = el("i");
    share.style.width = `${(100 * tokens) / most}%`;
    return el("tr", {}, Object.keys(COLUMNS).map((name) => {
      if (name === "agent") return el("th", { scope: "row" }, glyph(agent.state), agentLink(agent.n));
      if (name === "tokens") return el("td", { class: "share" }, share, el("span", { text: `${((100 * tokens) / all).toFixed(1)} %` }));
      const number = COLUMNS[name][1](agent);
      return el("td", { class: "num", text: name === "dollars" ? money(number < 0 ? null : number) : count(number) });
    }));
  });
}
