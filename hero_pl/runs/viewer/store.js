"use strict";
// Outside text is added to the page as text nodes only; it is never parsed as markup.
const at = (id) => document.getElementById(id);
const data = JSON.parse(at("data").textContent);
const episodes = data.episodes.map(([run, task, stage, step, reward, ok, stop, turns, issues, loss, seed], i) =>
  ({ i, run, task, stage, step, reward, ok, stop, turns, issues, loss, seed }));
const several = data.runs.length > 1;

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "share") node.style.setProperty("--share", value);
    else if (value !== null && value !== false && value !== undefined) node.setAttribute(key, value);
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}

const known = (value) => value !== null && value !== undefined;
const number = (value, digits = 4) => (known(value) ? Number(value.toPrecision(digits)).toString() : "\u2013");
const percent = (value) => (known(value) ? (100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0) + " %" : "\u2013");
const plural = (count, word) => count + " " + word + (count === 1 ? "" : "s");

// ---- compressed chunks ------------------------------------------------------------------------------------------
const KEPT = 6; // decompressed blocks in memory
const unpacked = new Map();

function chunkOf(i) {
  let low = 0, high = data.starts.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (data.starts[middle] <= i) low = middle; else high = middle;
  }
  return low;
}

async function block(id) { // the text of a block; waits while the browser still reads the file
  for (;;) {
    const reading = document.readyState === "loading", node = at(id);
    if (node && (node.nextSibling || !reading)) return node.textContent;
    if (!reading) throw new Error("The page is not complete: " + id + " is missing. Write it again with hero_pl view.");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function unpack(id) {
  if (typeof DecompressionStream === "undefined")
    throw new Error("This browser is too old to decompress the episodes. Use a version of 2023 or later.");
  const text = await block(id);
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text());
}

function kept(id) {
  const found = unpacked.get(id) || unpack(id);
  unpacked.delete(id);
  unpacked.set(id, found); // the newest is last
  if (unpacked.size > KEPT) unpacked.delete(unpacked.keys().next().value);
  return found;
}

async function bodyOf(i) { // texts and values per token of an episode
  const chunk = chunkOf(i), place = i - data.starts[chunk];
  const [texts, tokens] = await Promise.all([kept("texts-" + chunk), kept("tokens-" + chunk)]);
  return { ...texts.episodes[place], shared: texts.shared, tokens: tokens.episodes[place], words: tokens.shared };
}

// ---- search -----------------------------------------------------------------------------------------------------
const haystacks = []; // lower-case text of each episode
let preparing = null;
let hurried = false;

function prepareSearch(hurry) { // reads all texts, in idle time unless somebody waits for them
  hurried = hurried || hurry;
  preparing = preparing || (async () => {
    for (let chunk = 0; chunk < data.starts.length; chunk++) {
      const texts = await unpack("texts-" + chunk);
      texts.episodes.forEach((one, place) => haystacks.push(haystack(episodes[data.starts[chunk] + place], one)));
      if (!hurried) await new Promise((resolve) => (window.requestIdleCallback || setTimeout)(resolve));
    }
  })();
  return preparing;
}

function haystack(one, body) {
  const parts = [one.task, one.stop, body.env, body.error, body.first];
  for (const turn of body.turns) {
    parts.push(turn.text, turn.observation, turn.malformed || "");
    if (turn.action !== turn.text) parts.push(turn.action);
    if (turn.diagnosis) parts.push(turn.diagnosis.text, turn.diagnosis.target || "");
  }
  return parts.join("\n").toLowerCase();
}

// ---- episodes of the same task ------------------------------------------------------------------------------------
let byTask = null;

function sameTask(i) { // other episodes of the task, the best one to compare with first
  if (!byTask) {
    byTask = new Map();
    for (const one of episodes) byTask.set(one.task, [...(byTask.get(one.task) || []), one]);
  }
  const own = episodes[i], distance = (one) => Math.abs(one.step - own.step) * (several ? 1 : -1);
  const rank = (one) => [several && one.run === own.run, one.stage !== own.stage, distance(one), one.seed !== own.seed, one.i].map(Number);
  return byTask.get(own.task).filter((one) => one.i !== i).map((one) => [rank(one), one])
    .sort(([left], [right]) => left.map((value, k) => value - right[k]).find((difference) => difference) || 0).map(([, one]) => one);
}
