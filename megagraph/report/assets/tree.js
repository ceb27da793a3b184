// The organisation: who leads whom, what branches have used, and who is found.

let agents = [];
let run = {};
let texts = null;

function plant(overview) {
  run = overview.run;
  agents = overview.agents;
  agents.forEach((agent, n) => Object.assign(agent, { n, members: [], depth: 0 }));
  for (const agent of agents) {
    if (agent.lead < 0) continue;
    agents[agent.lead].members.push(agent.n);
    agent.depth = agents[agent.lead].depth + 1;
  }
  // Leads come before their members, so the sums grow from the end.
  for (const agent of agents) {
    agent.branch = { agents: 1, calls: agent.calls, input: agent.input_tokens, output: agent.output_tokens, cost: agent.cost, trouble: isTrouble(agent) ? 1 : 0 };
  }
  for (const agent of [...agents].reverse()) {
    if (agent.lead < 0) continue;
    const above = agents[agent.lead].branch;
    for (const key of ["agents", "calls", "input", "output", "trouble"]) above[key] += agent.branch[key];
    above.cost = above.cost === null || agent.branch.cost === null ? null : above.cost + agent.branch.cost;
  }
}

const isTrouble = (agent) => ["failed", "incomplete", "asking"].includes(agent.state);

function* above(n) {
  for (let up = agents[n].lead; up >= 0; up = agents[up].lead) yield up;
}

function* below(n) {
  for (const member of agents[n].members) {
    yield member;
    yield* below(member);
  }
}

/** How many of those below an agent were at work in each of `bins` equal parts of the run. */
function density(n, bins = 150) {
  const agent = agents[n];
  if (agent.density) return agent.density;
  const work = new Float32Array(bins);
  const width = Math.max(1, run.worked) / bins;
  for (const member of below(n)) {
    for (const [from, until, name] of agents[member].spans) {
      if (name !== "thinking" && name !== "acting") continue;
      const last = Math.min(bins - 1, Math.floor(until / width));
      for (let bin = Math.min(bins - 1, Math.floor(from / width)); bin <= last; bin++) {
        work[bin] += Math.max(0, Math.min(until, (bin + 1) * width) - Math.max(from, bin * width)) / width;
      }
    }
  }
  return (agent.density = work);
}

const fits = (agent, query) => agent.name.includes(query) || agent.role.toLowerCase().includes(query) || agent.note.toLowerCase().includes(query);

const agentHash = (n, step = 0) => `#${state.view}/${agents[n].name}${step ? `/${step}` : ""}`;

/** A link to an agent's page, perhaps to a turn there; who is none (the system, a person) is only named. */
function agentLink(n, name = "", step = 0) {
  if (n < 0) return el("span", { class: "who", text: name });
  const link = el("a", { class: "who", href: agentHash(n, step) }, marked(agents[n].name));
  // The view may have changed since the link was made.
  link.addEventListener("click", () => { link.href = agentHash(n, step); });
  return link;
}
