"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const store = "hero_pl annotate " + data.name + " " + data.rows.map((row) => row.id).join("").slice(0, 64);
const answers = new Map(data.rows.map((row) => [row.id, { ...row.labels }]));
const touched = new Set();
let place = 0;

try {
  for (const [id, labels] of Object.entries(JSON.parse(localStorage.getItem(store) || "{}")))
    if (answers.has(id)) { answers.set(id, labels); touched.add(id); }
} catch { /* some browsers do not let a local page store data; the save button still works */ }

function add(parent, tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  parent.append(element);
  return element;
}

function show() {
  const row = data.rows[place];
  const box = document.getElementById("row");
  box.replaceChildren();
  add(box, "small", `task ${row.task_id}, turn ${row.turn} of ${row.turns}, reward ${row.reward}`);
  add(box, "pre", row.task);
  for (const turn of row.history) { add(box, "pre", "> " + turn.action); add(box, "pre", turn.reply); }
  add(box, "pre", "> " + row.action, "now");
  add(box, "pre", row.reply, "now");
  add(box, "small", `diagnosis (${row.confidence})`);
  add(box, "pre", row.diagnosis, "diagnosis");
  if (row.next_action_target !== null) add(box, "pre", JSON.stringify(row.next_action_target), "diagnosis");
  const form = document.getElementById("questions");
  form.replaceChildren();
  for (const [name, question] of Object.entries(data.questions)) {
    const field = add(form, "fieldset");
    add(field, "div", question);
    for (const [text, value] of [["yes", true], ["no", false], ["cannot tell", null]]) {
      const label = add(field, "label");
      const input = add(label, "input");
      input.type = "radio";
      input.name = name;
      input.checked = answers.get(row.id)[name] === value;
      input.addEventListener("change", () => answer(row.id, name, value));
      label.append(" " + text);
    }
  }
  document.getElementById("progress").textContent = `row ${place + 1} of ${data.rows.length}, ${touched.size} answered`;
}

function answer(id, name, value) {
  answers.get(id)[name] = value;
  touched.add(id);
  try { localStorage.setItem(store, JSON.stringify(Object.fromEntries([...touched].map((one) => [one, answers.get(one)])))); } catch { }
}

function go(step) {
  place = Math.min(Math.max(place + step, 0), data.rows.length - 1);
  show();
}

function save() {
  const rater = document.getElementById("rater").value;
  const lines = data.rows.filter((row) => touched.has(row.id))
    .map((row) => JSON.stringify({ ...row, rater, labels: answers.get(row.id) }) + "\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  link.download = data.name + (rater ? "." + rater : "") + ".labels.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
}

document.getElementById("back").addEventListener("click", () => go(-1));
document.getElementById("next").addEventListener("click", () => go(1));
document.getElementById("save").addEventListener("click", save);
document.getElementById("questions").addEventListener("submit", (event) => event.preventDefault());
show();
