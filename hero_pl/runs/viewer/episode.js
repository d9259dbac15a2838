// ---- one episode, or two side by side ------------------------------------------------------------------------------
const chip = (text, kind) => make("span", { class: "chip " + (kind || "") }, text);
let latest = 0;

async function open(i, beside) { // beside: the episode to show next to it; without it, the best one while comparing
  if (i < 0) {
    at("pair").replaceChildren(make("p", { class: "none" }, "There are no episodes."));
    return;
  }
  const mine = ++latest;
  state.episode = i;
  state.beside = !state.comparing ? null : known(beside) ? beside : sameTask(i)[0]?.i ?? null;
  mark();
  partners();
  const pair = state.beside === null ? [i] : [i, state.beside];
  try {
    const bodies = await Promise.all(pair.map(bodyOf));
    if (mine !== latest) return; // another episode was asked for meanwhile
    hideTip();
    at("pair").className = pair.length > 1 ? "pair" : "";
    at("pair").replaceChildren(...pair.map((one, side) => article(episodes[one], bodies[side], bodies[1 - side])));
    const first = at("pair").querySelector(".token, pre.tipped");
    if (first) first.tabIndex = 0;
    at("main").scrollTop = 0;
  } catch (error) {
    at("pair").replaceChildren(make("p", { class: "none" }, error.message));
  }
}

function partners() { // fill the list of episodes to compare with
  const others = sameTask(state.episode).slice(0, 100), chosen = state.beside;
  if (chosen !== null && !others.some((one) => one.i === chosen)) others.unshift(episodes[chosen]);
  const text = (one) => [...(several ? [data.runs[one.run].name] : []), one.stage, "step " + one.step, one.ok ? "succeeded" : "failed", plural(one.turns, "turn")].join(" \u00b7 ");
  at("beside").replaceChildren(make("option", { value: "" }, others.length ? "nothing" : "no other episode of this task"),
    ...others.map((one) => make("option", { value: one.i }, text(one))));
  at("beside").value = chosen === null ? "" : chosen;
}

function compare(on) {
  state.comparing = on;
  open(state.episode);
}

function article(one, body, other) {
  const top = scaleOf(one, body), node = make("article", { "aria-label": one.task });
  const title = make("div", { class: "top" }, make("h1", {}, one.task),
    make("div", { class: "quiet" }, (several ? data.runs[one.run].name + " \u00b7 " : "") + body.env + " \u00b7 seed " + one.seed + " \u00b7 group " + body.group +
      " \u00b7 " + one.stage + ", step " + one.step + (body.version === null ? "" : " \u00b7 weights after " + body.version + " updates")), chips(one, body));
  if (body.error) title.append(fold("error", body.error, true));
  if (body.turns.length) title.append(strip(one, body, node), legend(one, top));
  if (body.reflection && body.reflection.raw) title.append(fold("reply of the reflector", body.reflection.raw));
  if (body.shared[body.system]) title.append(fold("system prompt", body.shared[body.system]));
  if (body.shared[body.tools]) title.append(fold("tools", body.shared[body.tools]));
  node.append(title, make("section", { class: "card" }, make("div", { class: "title" }, make("b", {}, "Task")), part("", "", make("pre", {}, body.first))));
  body.turns.forEach((turn, t) => node.append(card(turn, t, body, top, other && other.turns[t])));
  if (!body.turns.length) node.append(make("p", { class: "none" }, "No turn was played."));
  [...node.children].forEach((child, place) => { child.style.gridRow = String(place + 1); }); // turns of a pair side by side
  return node;
}

function scaleOf(one, body) { // the losses with the full color, of tokens and of turns
  const run = data.runs[one.run];
  if (at("scale").value === "run") return { token: run.token_scale, turn: run.turn_scale };
  const percentile = (values) => {
    const positive = values.filter((value) => value > 0).sort((a, b) => a - b);
    return positive.length ? positive[Math.floor(0.95 * (positive.length - 1))] : null;
  };
  return { token: percentile((body.tokens || []).flatMap((columns) => columns[1])), turn: percentile(body.turns.map((turn) => turn.mean[0])) };
}

function chips(one, body) {
  const box = make("div", { class: "chips" }, chip(one.ok ? "succeeded" : "failed", one.ok ? "ok" : "bad"), chip("reward " + number(one.reward, 3)),
    chip(plural(one.turns, "turn")), chip("stopped: " + one.stop, /error|full/.test(one.stop) ? "bad" : ""));
  if (body.reflection) {
    box.append(chip("reflection " + body.reflection.status, body.reflection.status === "rejected" ? "bad" : ""));
    for (const issue of body.reflection.issues) box.append(chip(issue, "bad"));
  }
  return box;
}

function strip(one, body, node) {
  const top = scaleOf(one, body).turn;
  return make("div", { class: "strip" }, ...body.turns.map((turn, t) => tipped("button", { type: "button", class: "heat", "aria-label": "turn " + (t + 1), share: share(turn.mean[0], top),
    onclick: () => node.querySelectorAll(".turn")[t].scrollIntoView({ block: "start" }) }, () => tipText(...turn.mean, "turn " + (t + 1) + ", means"), String(t + 1))));
}

function legend(one, top) {
  const tokens = data.runs[one.run].per_token, scale = tokens ? top.token : top.turn;
  const what = (tokens ? "tokens" : "turns") + " of the " + at("scale").value;
  if (!scale) return make("div", { class: "legend quiet" }, "No losses were logged.");
  return make("div", { class: "legend quiet" }, "loss 0", make("span", { class: "ramp" }), number(scale, 3) + " nats: 95th percentile of the " + what + (tokens ? "" : "; no tokenizer was given"));
}

function fold(label, text, open) {
  return make("details", { open: open ? "" : null }, make("summary", {}, label), make("pre", {}, text));
}

function part(kind, label, ...children) {
  return make("div", { class: "part " + kind }, label ? make("div", { class: "label" }, label) : null, ...children);
}

function card(turn, t, body, top, other) {
  const title = make("div", { class: "title" }, make("b", {}, "Turn " + (t + 1)), make("span", { class: "quiet" }, plural(turn.ids, "token")),
    turn.finish === "length" ? chip("cut at the token limit", "bad") : null, turn.malformed ? chip("malformed: " + turn.malformed, "bad") : null,
    other ? chip(other.action.trim() === turn.action.trim() ? "same action" : "other action") : null,
    make("span", { class: "space" }), turn.mean[0] === null ? null : make("span", { class: "quiet" }, "mean loss " + number(turn.mean[0], 3)));
  const box = make("section", { class: "card turn" }, title, part("", "reply", reply(turn, body.tokens && body.tokens[t], body.words, top)));
  if (turn.action.trim() !== turn.text.trim()) box.append(part("action", "action", make("pre", {}, turn.action)));
  if (turn.diagnosis) {
    const d = turn.diagnosis;
    box.append(part("diagnosis", "diagnosis \u00b7 " + d.confidence + " confidence", make("p", {}, d.text),
      d.target === null ? null : make("div", { class: "action" }, make("div", { class: "label" }, "target"), make("pre", {}, d.target))));
  } else if (body.reflection) box.append(part("none", "", "no diagnosis"));
  if (turn.hint) box.append(make("div", { class: "part hint" }, fold("hint as the teacher saw it \u00b7 " + turn.hint.position, turn.hint.text || "(empty)")));
  if (turn.observation) box.append(part("", "observation \u00b7 " + turn.role, make("pre", {}, turn.observation)));
  return box;
}

function reply(turn, columns, words, top) {
  if (!columns)
    return tipped("pre", { class: "heat", share: share(turn.mean[0], top.turn) }, () => tipText(...turn.mean, "means of the turn"), turn.text);
  const [texts, loss, student, teacher] = columns;
  return make("pre", {}, ...texts.map((word, i) => {
    const text = words[word];
    return tipped("span", { class: "token heat" + (text ? "" : " unseen"), share: share(loss[i], top.token) }, () => tipText(loss[i], student[i], teacher[i], JSON.stringify(text)), text || "\u2205");
  }));
}

const share = (loss, scale) => (!known(loss) || !scale ? 0 : Math.min(1, Math.max(0, loss / scale)));

// ---- values of a token, on hover and on focus ------------------------------------------------------------------------
function tipped(tag, attributes, text, ...children) {
  const node = make(tag, { ...attributes, class: attributes.class + " tipped" }, ...children);
  node.tip = text;
  return node;
}

function tipText(loss, student, teacher, head) {
  const lines = [head];
  if (known(loss)) lines.push("loss     " + number(loss) + " nats");
  if (known(student)) lines.push("student  " + number(student));
  if (known(teacher)) lines.push("teacher  " + number(teacher));
  return lines.join("\n");
}

function showTip(target) {
  const box = at("tip"), text = target.tip ? target.tip() : target.dataset.tip;
  box.hidden = false;
  box.textContent = text;
  const place = target.getBoundingClientRect();
  box.style.left = Math.max(4, Math.min(place.left, innerWidth - box.offsetWidth - 8)) + "px";
  box.style.top = (place.top > box.offsetHeight + 12 ? place.top - box.offsetHeight - 6 : Math.min(place.bottom + 6, innerHeight - box.offsetHeight - 4)) + "px";
}

function hideTip() {
  at("tip").hidden = true;
}

function overTip(event) {
  const pointed = event.target.closest ? event.target.closest(".tipped") : null;
  const focused = document.activeElement.matches(".tipped:focus-visible") ? document.activeElement : null;
  if (pointed || focused) showTip(pointed || focused); else hideTip();
}

function moveToken(key) { // left and right: tokens; up and down: the first token of a turn
  const now = document.activeElement.closest("#pair .token, #pair pre.tipped");
  const side = now ? now.closest("article") : at("pair").querySelector("article");
  if (!side) return false;
  const all = [...side.querySelectorAll(".token, pre.tipped")], place = all.indexOf(now);
  let next = all[place + (key === "ArrowRight" ? 1 : -1)];
  if (key === "ArrowUp" || key === "ArrowDown") {
    if (!now) return false;
    const turns = [...side.querySelectorAll(".turn")], turn = turns.indexOf(now.closest(".turn")) + (key === "ArrowDown" ? 1 : -1);
    next = turns[turn] && turns[turn].querySelector(".token, pre.tipped");
  } else if (!now) next = all[0];
  if (!next) return Boolean(now);
  if (now) now.tabIndex = -1;
  next.tabIndex = 0;
  next.setAttribute("aria-describedby", "tip");
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
  showTip(next);
  return true;
}
