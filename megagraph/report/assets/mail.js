// The mail: every letter, in the order in which it was sent.

const mail = { only: "" };

function buildMail() {
  mail.chips = el("div", { class: "chips", role: "group", "aria-label": "Show only" });
  const numbers = {};
  for (const letter of texts.mail) numbers[letter[3]] = (numbers[letter[3]] || 0) + 1;
  for (const name of ["", ...Object.keys(numbers)]) {
    mail.chips.append(el("button", {
      type: "button", class: "chip", "aria-pressed": String(!name),
      onclick: (event) => {
        mail.only = name;
        for (const each of mail.chips.children) each.setAttribute("aria-pressed", String(each === event.currentTarget));
        drawMail();
      },
    }, `${name || "all"} `, el("b", { text: count(name ? numbers[name] : texts.mail.length) })));
  }
  mail.list = el("div", { class: "list" });
  byId("view-mail").append(el("div", { class: "tools" }, mail.chips), mail.list);
}

const mailFits = (letter, query) => !query || letter[5].toLowerCase().includes(query) || letter[1].includes(query) || (letter[2] >= 0 && agents[letter[2]].name.includes(query));

function drawMail() {
  const found = texts.mail.filter((letter) => (!mail.only || letter[3] === mail.only) && mailFits(letter, state.query));
  mail.list.replaceChildren();
  if (found.length) inParts(mail.list, found, letterRow);
  else mail.list.append(nothing(texts.mail.length ? "No letter fits." : "No letters were sent."));
}

function letterRow(letter) {
  const [sender, by, to, kind, sent, text] = letter;
  return el("article", { class: `letter kind-${kind}` },
    el("header", {}, el("time", { text: span(sent) }), agentLink(sender, by), el("span", { class: "arrow", text: "→", "aria-label": "to" }), agentLink(to, "?"), el("span", { class: `tag kind-${kind}`, text: kind })),
    passage(text, 3));
}
