// ---- head, filter, list and address --------------------------------------------------------------------------------
const PAGE = 200; // rows added to the list at a time
const NARROW = 800; // pixels, as in page.css
const state = { episode: -1, comparing: several, beside: null };
let shown = []; // numbers of the episodes that pass the filter, in the order of the list
let from = 0, to = 0; // part of them that is in the list
let asked = 0;

const figure = (value, label) => make("span", { class: "figure" }, make("b", {}, value), " ", make("span", {}, label));

function head() {
  at("name").textContent = several ? data.runs.length + " runs" : data.runs[0].name;
  for (const run of data.runs)
    at("stages").append(make("div", { class: "run" }, several ? make("b", { class: "name" }, run.name) : null, ...run.stages.map(stageFigures)));
  if (!several) at("filter").elements.run.hidden = true;
  const field = at("filter").elements;
  choices(field.run, data.runs.map((run, i) => [i, run.name]));
  for (const key of ["stage", "stop"]) choices(field[key], [...new Set(episodes.map((one) => one[key]))].map((value) => [value, value]));
  choices(field.issue, [...new Set(episodes.flatMap((one) => one.issues))].sort().map((value) => [value, value]));
}

function stageFigures(one) {
  return make("div", { class: "stage" }, make("b", {}, one.name), one.last_of ? make("span", { class: "quiet" }, "last of " + one.last_of + " steps") : null, one.users.length ? make("span", { class: "quiet" }, "user " + one.users.join(", ")) : null,
    figure(String(one.episodes), "logged episodes"), one.broken ? figure(String(one.broken), "broken") : null,
    figure(percent(one.success), "success"), one.floor === null ? null : figure(percent(one.floor), "doing nothing"),
    several ? null : figure(number(one.reward, 3), "reward"), figure(number(one.turns, 3), "turns each"),
    one.coverage === null || several ? null : figure(percent(one.coverage), "diagnosed"), one.malformed ? figure(percent(one.malformed), "malformed") : null);
}

function choices(select, pairs) {
  for (const [value, text] of pairs) select.append(make("option", { value }, text));
}

function within(value, least, most) {
  if (least === "" && most === "") return true;
  return known(value) && (least === "" || value >= Number(least)) && (most === "" || value <= Number(most));
}

function passes(one, want) {
  return (want.run === "" || one.run === Number(want.run)) && (want.stage === "" || one.stage === want.stage) &&
    (want.outcome === "" || one.ok === (want.outcome === "succeeded")) && (want.stop === "" || one.stop === want.stop) &&
    (want.issue === "" || one.issues.includes(want.issue)) && within(one.reward, want.reward_min, want.reward_max) &&
    within(one.turns, want.turns_min, want.turns_max) && within(one.step, want.step_min, want.step_max);
}

const settings = () => Object.fromEntries([...at("filter").elements].filter((field) => field.name).map((field) => [field.name, field.value]));

async function filter() {
  const want = settings(), mine = ++asked, query = want.q.trim().toLowerCase();
  if (query && haystacks.length < episodes.length) {
    at("count").textContent = "Reading the texts \u2026";
    try {
      await prepareSearch(true);
    } catch (error) {
      at("count").textContent = error.message;
      return;
    }
    if (mine !== asked) return; // another filter was asked for meanwhile
  }
  shown = episodes.filter((one) => passes(one, want) && (!query || haystacks[one.i].includes(query))).map((one) => one.i);
  if (want.sort) shown.sort(order(want.sort.replace("-", ""), want.sort.startsWith("-") ? -1 : 1));
  rows(0, PAGE);
  mark();
}

function order(key, sign) {
  return (left, right) => {
    const [a, b] = [episodes[left][key], episodes[right][key]];
    if (!known(a) || !known(b)) return Number(!known(a)) - Number(!known(b)); // missing values last
    return (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b) * sign || left - right;
  };
}

function rows(first, last) { // list the rows from first up to last
  [from, to] = [Math.max(0, first), Math.min(shown.length, last)];
  const step = (text, first, last) => make("button", { type: "button", class: "more", onclick: () => { rows(first, last); mark(); } }, text);
  at("list").replaceChildren(...(from ? [step("show " + Math.min(PAGE, from) + " before", from - PAGE, to)] : []),
    ...shown.slice(from, to).map(row), ...(to < shown.length ? [step("show " + Math.min(PAGE, shown.length - to) + " more", from, to + PAGE)] : []));
}

function row(i) {
  const one = episodes[i];
  const sub = [...(several ? [data.runs[one.run].name] : []), one.stage, "step " + one.step, plural(one.turns, "turn"), one.stop];
  const choose = async () => {
    await open(i);
    if (innerWidth <= NARROW) at("main").scrollIntoView(); // there the episode is below the list
  };
  return make("button", { type: "button", "data-i": i, onclick: choose },
    make("span", { class: "dot" + (one.ok ? " ok" : ""), role: "img", "aria-label": one.ok ? "succeeded" : "failed", title: one.ok ? "succeeded" : "failed" }),
    make("span", { class: "name" }, one.task), make("span", { class: "quiet" }, number(one.reward, 3)),
    make("span", { class: "sub quiet" }, sub.join(" \u00b7 ")));
}

function mark(scroll) { // mark the row of the open episode and write the address
  const place = shown.indexOf(state.episode);
  if (scroll && place >= 0 && (place < from || place >= to)) rows(place - 20, place - 20 + PAGE);
  for (const button of at("list").querySelectorAll("[data-i]")) {
    const current = Number(button.dataset.i) === state.episode;
    button.setAttribute("aria-current", current);
    if (current && scroll) button.scrollIntoView({ block: "nearest" });
  }
  const hidden = state.episode >= 0 && place < 0 ? " \u00b7 the open episode is not among them" : "";
  at("count").textContent = shown.length + " of " + plural(episodes.length, "episode") + hidden + " \u00b7 ? for keys";
  const link = new URLSearchParams({ episode: state.episode });
  if (state.beside !== null) link.set("beside", state.beside);
  else if (several && !state.comparing) link.set("beside", "none");
  if (at("scale").value !== "run") link.set("scale", at("scale").value);
  for (const [key, value] of Object.entries(settings())) if (value !== "") link.set(key, value);
  history.replaceState(null, "", "#" + link);
}

async function fromAddress() {
  const link = new URLSearchParams(location.hash.slice(1)), named = Number(link.get("episode") ?? data.open), beside = link.get("beside");
  for (const field of at("filter").elements) if (field.name) field.value = link.get(field.name) ?? "";
  at("more").open = [...at("more").querySelectorAll("[name]")].some((field) => field.value !== "") || at("more").open;
  at("scale").value = link.get("scale") === "episode" ? "episode" : "run";
  const start = Number.isInteger(named) && named >= 0 && named < episodes.length ? named : data.open;
  state.episode = episodes.length ? start : -1; // filter() below marks its row
  const other = Number(beside);
  state.comparing = beside === null ? several : beside !== "none";
  const given = beside !== null && Number.isInteger(other) && other >= 0 && other < episodes.length && other !== start ? other : null;
  const filtered = filter();
  await open(state.episode, given);
  await filtered;
  mark(true);
}
