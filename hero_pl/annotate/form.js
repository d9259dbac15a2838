"use strict";
// Outside text is added to the page as text nodes only. No answer is preset: null means "cannot tell", and a question
// without an answer is not in the labels at all.
const data = JSON.parse(document.getElementById("data").textContent);
const names = Object.keys(data.questions);
const CHOICES = [["yes", true, "y"], ["no", false, "n"], ["cannot tell", null, "-"]];
const at = (id) => document.getElementById(id);
let answers = new Map();
let other = null; // the labels of another rater by row id
let place = 0;
let asked = 0;

function add(parent, tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  parent.append(element);
  return element;
}

const rater = () => at("rater").value.trim();
const store = () => "hero_pl annotate " + data.sample + " " + rater();
const complete = (row) => names.every((name) => name in answers.get(row.id));

function load() { // the answers of the rater that is named: those in the file, and those given here before
  answers = new Map(data.rows.map((row) => [row.id, rater() && row.rater === rater() ? { ...row.labels } : {}]));
  try {
    for (const [id, labels] of Object.entries(JSON.parse(localStorage.getItem(store()) || "{}"))) if (answers.has(id)) answers.set(id, labels);
  } catch { /* some browsers do not let a local page store data; the save button still works */ }
  go(Math.max(0, data.rows.findIndex((row) => !complete(row))));
}

function go(to) {
  place = Math.min(Math.max(to, 0), data.rows.length - 1);
  asked = Math.max(0, names.findIndex((name) => !(name in answers.get(data.rows[place].id))));
  show();
  scrollTo(0, 0);
}

function show() {
  const row = data.rows[place], box = at("row");
  box.replaceChildren();
  add(box, "small", `task ${row.task_id}, turn ${row.turn} of ${row.turns}, reward ${row.reward}`);
  add(box, "pre", row.task);
  for (const turn of row.history) { add(box, "pre", "> " + turn.action); add(box, "pre", turn.reply); }
  add(box, "pre", "> " + row.action, "now");
  add(box, "pre", row.reply, "now");
  add(box, "small", `diagnosis (${row.confidence})`);
  add(box, "pre", row.diagnosis, "diagnosis");
  if (row.next_action_target !== null) add(box, "pre", JSON.stringify(row.next_action_target), "diagnosis");
  at("unnamed").hidden = rater() !== "";
  at("questions").hidden = rater() === "";
  at("questions").replaceChildren();
  names.forEach((name, number) => ask(row, name, number));
  const done = data.rows.filter(complete).length;
  const begun = data.rows.filter((one) => !complete(one) && Object.keys(answers.get(one.id)).length).length;
  at("progress").max = data.rows.length;
  at("progress").value = done;
  at("told").textContent = `row ${place + 1} of ${data.rows.length}, ${done} answered` + (begun ? `, ${begun} in part (not saved)` : "");
  at("agreement").replaceChildren();
  if (other) agree();
}

function ask(row, name, number) {
  const field = add(at("questions"), "fieldset", undefined, number === asked ? "now" : "");
  add(field, "legend", data.questions[name]);
  for (const [text, value, key] of CHOICES) {
    const label = add(field, "label"), input = add(label, "input");
    input.type = "radio";
    input.name = name;
    input.checked = name in answers.get(row.id) && answers.get(row.id)[name] === value;
    input.addEventListener("change", () => answer(number, value));
    label.append(` ${text} (${key})`);
  }
}

function answer(number, value) {
  answers.get(data.rows[place].id)[names[number]] = value;
  asked = Math.min(number + 1, names.length - 1);
  const given = data.rows.filter((row) => Object.keys(answers.get(row.id)).length).map((row) => [row.id, answers.get(row.id)]);
  try { localStorage.setItem(store(), JSON.stringify(Object.fromEntries(given))); } catch { /* as above */ }
  show();
}

// ---- agreement with another rater ------------------------------------------------------------------------------------
function kappa(pairs) { // Cohen (1960), as cohen_kappa in quality.py; null if it is undefined
  const part = (test) => pairs.filter(test).length / pairs.length;
  const expected = part(([a]) => a) * part(([, b]) => b) + part(([a]) => !a) * part(([, b]) => !b);
  return pairs.length && expected < 1 ? (part(([a, b]) => a === b) - expected) / (1 - expected) : null;
}

function agree() {
  const table = add(at("agreement"), "table");
  const head = add(table, "tr");
  for (const text of ["question", "answered by both", "agree", "Cohen's kappa"]) add(head, "th", text);
  for (const name of names) {
    const pairs = data.rows.filter((row) => complete(row) && other.has(row.id)).map((row) => [answers.get(row.id)[name], other.get(row.id)[name]])
      .filter((pair) => pair.every((one) => typeof one === "boolean"));
    const line = add(table, "tr"), value = kappa(pairs);
    const cells = [name, pairs.length, pairs.filter(([a, b]) => a === b).length, value === null ? "\u2013" : value.toFixed(3)];
    for (const text of cells) add(line, "td", String(text));
  }
}

async function compare() {
  const [file] = at("other").files;
  if (!file) return;
  try {
    const rows = (await file.text()).split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
    other = new Map(rows.filter((row) => answers.has(row.id) && row.labels).map((row) => [row.id, row.labels]));
    show();
    if (!other.size) add(at("agreement"), "p", `${file.name} has no row of this sample. Give the JSON lines that another rater saved.`);
  } catch (error) {
    other = null;
    show();
    add(at("agreement"), "p", `${file.name} is not a file of labeled rows (${error.message}).`);
  }
}

function save() {
  const lines = data.rows.filter(complete).map((row) => JSON.stringify({ ...row, rater: rater(), labels: answers.get(row.id) }) + "\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  link.download = data.name + (rater() ? "." + rater() : "") + ".labels.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
}

function keys(event) {
  if (event.target.id === "rater" && event.key === "Enter") event.target.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.id === "rater") return;
  const choice = CHOICES.find(([, , key]) => key === event.key);
  if (choice && rater()) answer(asked, choice[1]);
  else if (event.key === "j" || event.key === "ArrowRight") go(place + 1);
  else if (event.key === "k" || event.key === "ArrowLeft") go(place - 1);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    asked = Math.min(Math.max(asked + (event.key === "ArrowDown" ? 1 : -1), 0), names.length - 1);
    show();
  } else return;
  event.preventDefault();
}

at("rater").addEventListener("change", load);
at("back").addEventListener("click", () => go(place - 1));
at("next").addEventListener("click", () => go(place + 1));
at("save").addEventListener("click", save);
at("other").addEventListener("change", compare);
at("questions").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", keys);
load();
