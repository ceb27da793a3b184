// The map: the whole organisation at once, each level a column, each branch as high as its weight.

const map = { root: 0, weight: "agents" };

function buildMap() {
  const weights = { agents: "agents", tokens: "tokens", calls: "calls" };
  const choice = el("div", { class: "chips", role: "group", "aria-label": "Height of a branch" }, "height: ",
    Object.keys(weights).map((name) => el("button", {
      type: "button", class: "chip", "aria-pressed": String(name === map.weight), text: weights[name],
      onclick: (event) => {
        map.weight = name;
        for (const each of choice.querySelectorAll("button")) each.setAttribute("aria-pressed", String(each === event.currentTarget));
        drawMap();
      },
    })));
  map.crumbs = el("div", { class: "crumbs" });
  map.face = el("div", { class: "icicle" });
  byId("view-map").append(el("div", { class: "tools" }, choice, map.crumbs, el("p", { class: "hint", text: "A click looks into a branch, and opens an agent that leads nobody." })), map.face);
  new ResizeObserver(() => drawMap()).observe(byId("view-map"));
}

const weigh = (agent) => ({ agents: agent.branch.agents, tokens: agent.branch.input + agent.branch.output, calls: agent.branch.calls })[map.weight] || 0;

function levels(n) {
  return 1 + Math.max(0, ...agents[n].members.map(levels));
}

function drawMap() {
  if (state.view !== "map" || !map.face.clientWidth || !agents.length) return;
  const way = [map.root, ...above(map.root)].reverse();
  map.crumbs.replaceChildren(...way.flatMap((n, place) => [place ? " › " : "", el("button", { type: "button", class: "quiet", text: agents[n].name, onclick: () => zoom(n) })]));
  const width = map.face.clientWidth;
  const height = Math.max(420, innerHeight - 190);
  const column = width / levels(map.root);
  const cells = [];
  const lay = (n, x, y, tall) => {
    cells.push({ n, x, y, tall });
    const members = [...agents[n].members];
    const sum = members.reduce((total, m) => total + weigh(agents[m]), 0);
    let top = y;
    for (const member of members) {
      const part = sum ? (tall * weigh(agents[member])) / sum : tall / members.length;
      lay(member, x + column, top, part);
      top += part;
    }
  };
  lay(map.root, 0, 0, height);
  map.face.style.height = `${height}px`;
  const narrow = matchMedia("screen and (max-width: 760px)").matches;
  map.face.replaceChildren(...cells.filter((cell) => cell.tall >= 0.4).map(({ n, x, y, tall }) => {
    const agent = agents[n];
    const cell = el("button", {
      type: "button", class: `cell is-${agent.state}${state.query && !fits(agent, state.query) ? " dim" : ""}`,
      tabindex: tall >= 12 ? "0" : "-1", title: `${agent.name} · ${agent.role}\n${agent.state} · ${many(agent.branch.agents, "agent")} · ${short(agent.branch.input + agent.branch.output)} tokens`,
      onclick: () => (agent.members.length && n !== map.root ? zoom(n) : openAgent(n, true)),
    });
    cell.style.left = `${x}px`;
    cell.style.top = `${y}px`;
    cell.style.width = `${column - 2}px`;
    cell.style.height = `${Math.max(0.6, tall - (tall > 4 ? 1 : 0))}px`;
    if (tall > 60) cell.classList.add("tall");
    if (tall < 5) cell.classList.add("line");
    if (tall >= 9) {
      cell.append(el("b", { text: agent.name }));
      if (tall >= 30 && !narrow) cell.append(el("span", { text: agent.members.length ? many(agent.branch.agents - 1, "agent") + " below" : agent.role }));
      if (tall < 18) cell.classList.add("tiny");
    }
    return cell;
  }));
}

function zoom(n) {
  map.root = n;
  drawMap();
}
