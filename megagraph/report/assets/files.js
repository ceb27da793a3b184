// The files: who changed them, and how.

const filesView = {};

function buildFiles() {
  filesView.list = el("div", { class: "list" });
  byId("view-files").append(filesView.list);
}

const fileFits = (file, query) => !query || file.path.toLowerCase().includes(query) || file.changes.some((change) => change.agent.includes(query) || change.patch.toLowerCase().includes(query));

function drawFiles() {
  const found = texts.files.filter((file) => fileFits(file, state.query));
  filesView.list.replaceChildren();
  if (texts.older_changes) filesView.list.append(nothing(`Older changes are not in this report: it has the newest ${count(texts.files.reduce((sum, file) => sum + file.count, 0))}.`));
  if (found.length) inParts(filesView.list, found, fileRow);
  else filesView.list.append(nothing(texts.files.length ? "No file fits." : "No files were written."));
}

function fileRow(file) {
  const added = file.changes.reduce((sum, change) => sum + change.added, 0);
  const removed = file.changes.reduce((sum, change) => sum + change.removed, 0);
  const last = file.changes[0]?.agent || "";
  const body = el("div", { class: "history" });
  const row = el("details", { class: "file" },
    el("summary", {},
      el("bdi", { class: "path" }, marked(file.path)),
      file.size === null ? el("span", { class: "tag", text: "deleted" }) : el("span", { class: "num", text: bytes(file.size) }),
      el("span", { class: "who", text: last }),
      el("span", { class: "num", text: many(file.count, "change") }),
      el("span", { class: "plusminus" }, el("ins", { text: `+${count(added)}` }), " ", el("del", { text: `−${count(removed)}` }))),
    body);
  row.addEventListener("toggle", () => {
    if (!row.open || body.childElementCount) return;
    inParts(body, file.changes, changeRow, 20);
    if (file.count > file.changes.length) body.append(nothing(`${many(file.count - file.changes.length, "older change")} left out.`));
  });
  return row;
}

function changeRow(change) {
  const n = agents.findIndex((agent) => agent.name === change.agent);
  return el("article", { class: "change" },
    el("header", {},
      el("time", { text: new Date(change.time * 1000).toLocaleTimeString("en-GB") }),
      agentLink(n, change.agent || "somebody"), el("span", { class: "verb", text: change.status }),
      change.merged_over.length > 0 && el("span", { class: "tag", text: `merged with ${change.merged_over.join(", ")}` }),
      el("span", { class: "plusminus" }, el("ins", { text: `+${count(change.added)}` }), " ", el("del", { text: `−${count(change.removed)}` }))),
    diff(change.patch));
}

/** A unified diff, line by line. */
function diff(patch) {
  const lines = patch.split("\n");
  if (lines.at(-1) === "") lines.pop();
  const kinds = { "+": "ins", "-": "del" };
  const shown = lines.slice(0, 400);
  const body = el("div", { class: "diff", tabindex: "0" }, shown.map((line) => {
    const tag = kinds[line[0]] || "span";
    return el(tag, { class: line.startsWith("@@") ? "hunk" : line.startsWith("[… ") ? "cut" : "line" }, marked(line || " "));
  }));
  return lines.length > shown.length ? el("div", {}, body, nothing(`${many(lines.length - shown.length, "more line")}.`)) : body;
}
