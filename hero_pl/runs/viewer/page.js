"use strict";
// Outside text is added to the page as text nodes only; it is never parsed as markup.
const run = JSON.parse(document.getElementById("data").textContent);
const PAGE = 300; // episodes added to the list at a time
const at = (id) => document.getElementById(id);
let shown = []; // indices of the episodes that pass the filter
let listed = 0; // how many of them are in the list
let current = -1;

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "share") node.style.setProperty("--share", value);
    else if (value !== null && value !== false) node.setAttribute(key, value);
  }
  for (const child of children) if (child !== null) node.append(child);
  return node;
}

const number = (value, digits = 3) => (value === null || value === undefined ? "\u2013" : Number(value.toPrecision(digits)).toString());
const percent = (value) => (value === null ? "\u2013" : (100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0) + " %");
const share = (loss, scale) => (loss === null || !scale ? 0 : Math.min(1, Math.max(0, loss / scale)));
const chip = (text, kind) => make("span", { class: "chip " + (kind || "") }, text);

function tipText(loss, student, teacher, head) {
  const lines = [head];
  if (loss !== null) lines.push("loss     " + number(loss) + " nats");
  if (student !== null) lines.push("student  " + number(student));
  if (teacher !== null) lines.push("teacher  " + number(teacher));
  return lines.join("\n");
}

// ---- head and filter -------------------------------------------------------------------------------------------
function figure(value, label) {
  return make("span", { class: "figure" }, make("b", {}, value), " ", make("span", {}, label));
}

function start() {
  at("name").textContent = run.name;
  for (const one of run.stages) {
    at("stages").append(make("div", { class: "stage" }, make("b", {}, one.stage),
      one.users.length ? make("span", { class: "quiet" }, "user " + one.users.join(", ")) : null,
      figure(String(one.episodes), "episodes"), one.broken ? figure(String(one.broken), "broken") : null,
      figure(percent(one.success), "success"), one.floor === null ? null : figure(percent(one.floor), "doing nothing"),
      figure(number(one.reward), "reward"),
      figure(number(one.turns), "turns each"), one.coverage === null ? null : figure(percent(one.coverage), "diagnosed"),
      one.malformed ? figure(percent(one.malformed), "malformed") : null));
    at("stage").append(make("option", { value: one.stage }, one.stage));
  }
  at("filter").addEventListener("input", filter);
  at("filter").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", fromAddress);
  document.addEventListener("keydown", keys);
  document.addEventListener("pointerover", tip);
  filter();
  fromAddress();
  if (current < 0 && shown.length) show(Math.max(0, shown.indexOf(run.open)));
}

function haystack(one) {
  if (!one.words) {
    const parts = [one.task, one.env, one.stop, one.first];
    for (const turn of one.turns) parts.push(turn.action, turn.diagnosis ? turn.diagnosis.text : "");
    one.words = parts.join("\n").toLowerCase();
  }
  return one.words;
}

function filter() {
  const outcome = at("outcome").value, stage = at("stage").value, query = at("query").value.trim().toLowerCase();
  shown = [];
  run.episodes.forEach((one, i) => {
    if (outcome && one.ok !== (outcome === "succeeded")) return;
    if (stage && one.stage !== stage) return;
    if (query && !haystack(one).includes(query)) return;
    shown.push(i);
  });
  at("count").textContent = shown.length + " of " + run.episodes.length + " episodes \u00b7 press j and k to move";
  at("list").replaceChildren();
  listed = 0;
  more();
}

function more() {
  const old = at("list").querySelector(".more");
  if (old) old.remove();
  for (const i of shown.slice(listed, listed + PAGE)) {
    const one = run.episodes[i];
    at("list").append(make("button", { type: "button", "data-i": i, "aria-current": i === current ? "true" : "false", onclick: () => open(i) },
      make("span", { class: "dot" + (one.ok ? " ok" : ""), title: one.ok ? "succeeded" : "failed" }),
      make("span", { class: "name" }, one.task), make("span", { class: "quiet" }, number(one.reward)),
      make("span", { class: "sub quiet" }, one.stage + " \u00b7 step " + one.step + " \u00b7 " + one.turns.length + " turns \u00b7 " + one.stop)));
  }
  listed = Math.min(shown.length, listed + PAGE);
  if (listed < shown.length)
    at("list").append(make("button", { type: "button", class: "more", onclick: more }, "show " + Math.min(PAGE, shown.length - listed) + " more"));
}

function keys(event) {
  if (/^(INPUT|SELECT)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  const move = { j: 1, k: -1 }[event.key];
  if (!move || !shown.length) return;
  show(Math.min(shown.length - 1, Math.max(0, shown.indexOf(current) + move)));
}

function show(place) { // open the episode at an index of the list and scroll the list to it
  while (place >= listed) more();
  open(shown[place]);
  at("list").querySelector('[aria-current="true"]').scrollIntoView({ block: "nearest" });
}

function fromAddress() {
  const match = /^#episode=(\d+)$/.exec(location.hash);
  if (match && Number(match[1]) < run.episodes.length && Number(match[1]) !== current) open(Number(match[1]));
}

// ---- one episode -----------------------------------------------------------------------------------------------
function open(i) {
  current = i;
  for (const button of at("list").querySelectorAll("[data-i]")) button.setAttribute("aria-current", button.dataset.i === String(i) ? "true" : "false");
  history.replaceState(null, "", "#episode=" + i);
  const one = run.episodes[i];
  const page = [make("h1", {}, one.task), make("div", { class: "quiet" }, one.env + " \u00b7 seed " + one.seed + " \u00b7 group " + one.group +
    " \u00b7 " + one.stage + ", step " + one.step + (one.version === null ? "" : " \u00b7 weights after " + one.version + " updates")), chips(one)];
  if (one.error) page.push(fold("error", one.error, true));
  if (one.turns.length) page.push(strip(one), legend());
  if (one.reflection && one.reflection.raw) page.push(fold("reply of the reflector", one.reflection.raw));
  if (run.shared[one.system]) page.push(fold("system prompt", run.shared[one.system]));
  if (run.shared[one.tools]) page.push(fold("tools", run.shared[one.tools]));
  page.push(make("section", { class: "card" }, make("div", { class: "title" }, make("b", {}, "Task")), part("", "", make("pre", {}, one.first))));
  one.turns.forEach((turn, t) => page.push(card(turn, t + 1, one.reflection !== null)));
  if (!one.turns.length) page.push(make("p", { class: "none" }, "No turn was played."));
  at("main").replaceChildren(...page);
  at("main").scrollTop = 0;
}

function chips(one) {
  const box = make("div", { class: "chips" }, chip(one.ok ? "succeeded" : "failed", one.ok ? "ok" : "bad"), chip("reward " + number(one.reward)),
    chip(one.turns.length + " turns"), chip("stopped: " + one.stop, /error|full/.test(one.stop) ? "bad" : ""));
  if (one.reflection) {
    box.append(chip("reflection " + one.reflection.status, one.reflection.status === "rejected" ? "bad" : ""));
    for (const issue of one.reflection.issues) box.append(chip(issue, "bad"));
  }
  return box;
}

function strip(one) {
  return make("div", { class: "strip", role: "list" }, ...one.turns.map((turn, t) => {
    const text = tipText(...turn.mean, "turn " + (t + 1) + ", means");
    const jump = (event) => { event.preventDefault(); at("turn" + (t + 1)).scrollIntoView({ behavior: "smooth" }); };
    return make("a", { href: "#", role: "listitem", class: "heat", "data-tip": text, share: share(turn.mean[0], run.turn_scale), onclick: jump }, String(t + 1));
  }));
}

function legend() {
  const [scale, what] = run.per_token ? [run.token_scale, "tokens"] : [run.turn_scale, "turns; no tokenizer was given"];
  if (!scale) return make("div", { class: "legend quiet" }, "No losses were logged.");
  return make("div", { class: "legend quiet" }, "loss 0", make("span", { class: "ramp" }), number(scale) + " nats (95th percentile over " + what + ")");
}

function fold(label, text, open) {
  return make("details", { open: open ? "" : null }, make("summary", {}, label), make("pre", {}, text));
}

function part(kind, label, ...children) {
  return make("div", { class: "part " + kind }, label ? make("div", { class: "label" }, label) : null, ...children);
}

function card(turn, place, reflected) {
  const title = make("div", { class: "title" }, make("b", {}, "Turn " + place), make("span", { class: "quiet" }, turn.ids + " tokens"),
    turn.finish === "length" ? chip("cut at the token limit", "bad") : null, turn.malformed ? chip("malformed: " + turn.malformed, "bad") : null,
    make("span", { class: "space" }), turn.mean[0] === null ? null : make("span", { class: "quiet" }, "mean loss " + number(turn.mean[0])));
  const box = make("section", { class: "card", id: "turn" + place }, title, part("", "reply", reply(turn)));
  if (turn.action.trim() !== turn.text.trim()) box.append(part("action", "action", make("pre", {}, turn.action)));
  if (turn.diagnosis) {
    const d = turn.diagnosis;
    box.append(part("diagnosis", "diagnosis \u00b7 " + d.confidence + " confidence", make("p", {}, d.text),
      d.target === null ? null : make("div", { class: "action" }, make("div", { class: "label" }, "target"), make("pre", {}, d.target))));
  } else if (reflected) box.append(part("none", "", "no diagnosis"));
  if (turn.observation) box.append(part("", "observation \u00b7 " + turn.role, make("pre", {}, turn.observation)));
  return box;
}

function reply(turn) {
  if (!turn.tokens)
    return make("pre", { class: "heat", "data-tip": tipText(...turn.mean, "means of the turn"), share: share(turn.mean[0], run.turn_scale) }, turn.text);
  return make("pre", {}, ...turn.tokens.map(([text, loss, student, teacher]) =>
    make("span", { class: "token heat" + (text ? "" : " unseen"), share: share(loss, run.token_scale), "data-tip": tipText(loss, student, teacher, JSON.stringify(text)) },
      text || "\u2205")));
}

function tip(event) {
  const target = event.target.closest ? event.target.closest("[data-tip]") : null;
  const box = at("tip");
  box.hidden = target === null;
  if (target === null) return;
  box.textContent = target.dataset.tip;
  const place = target.getBoundingClientRect();
  box.style.left = Math.max(4, Math.min(place.left, innerWidth - box.offsetWidth - 8)) + "px";
  box.style.top = (place.top > box.offsetHeight + 12 ? place.top - box.offsetHeight - 6 : Math.min(place.bottom + 6, innerHeight - 90)) + "px";
}

start();
