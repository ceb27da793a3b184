// The checks with their evidence, what was not done, and what a person was asked.

function buildChecks(overview) {
  const parts = [];
  const passed = overview.checks.filter((check) => check.passed).length;
  parts.push(el("h2", {}, "Checks ", el("small", { text: overview.checks.length ? `${passed} of ${overview.checks.length} passed` : "" })));
  const failedFirst = [...overview.checks].sort((a, b) => a.passed - b.passed);
  parts.push(...failedFirst.map((check) => el("article", { class: `check ${check.passed ? "passed" : "failed"}` },
    el("h3", {}, glyph(check.passed ? "done" : "failed"), marked(check.name), el("span", { class: "tag", text: check.passed ? "passed" : "failed" })),
    check.detail && passage(check.detail, 8, "code"))));
  if (!overview.checks.length) parts.push(nothing(run.status === "done" ? "This run had no checks." : "The checks come when the run is done."));
  if (run.not_done.length) {
    parts.push(el("h2", {}, "Not done ", el("small", { text: many(run.not_done.length, "agent") })),
      el("ul", { class: "plain" }, run.not_done.map((text) => {
        const n = agents.findIndex((agent) => text.startsWith(`${agent.name} (`));
        return el("li", { dir: "auto" }, n < 0 ? text : [agentLink(n), text.slice(agents[n].name.length)]);
      })));
  }
  if (overview.questions.length) {
    parts.push(el("h2", { text: "Questions to a person" }),
      ...overview.questions.map((asked) => el("article", { class: "letter" },
        el("header", {}, agentLink(agents.findIndex((agent) => agent.name === asked.agent), asked.agent), el("span", { class: "tag", text: asked.answer === null ? "open" : "answered" })),
        passage(asked.question, 6), asked.answer !== null && el("blockquote", { dir: "auto", text: asked.answer }))));
  }
  byId("view-checks").replaceChildren(...parts.filter(there));
}
