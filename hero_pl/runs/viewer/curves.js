// ---- curves over training turns ---------------------------------------------------------------------------------
const WIDTH = 200, HEIGHT = 56, TOP = 4;

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function chart(panel) {
  const xs = panel.lines.flatMap((line) => line.x), ys = panel.lines.flatMap((line) => line.y).filter(known);
  const right = Math.max(...xs, 1), low = panel.low ?? Math.min(...ys), high = panel.high ?? Math.max(...ys), height = high - low || 1;
  const place = (x, y) => ((x / right) * WIDTH).toFixed(1) + "," + (TOP + (1 - (y - low) / height) * (HEIGHT - 2 * TOP)).toFixed(1);
  const told = panel.lines.map((line) => data.runs[line.run].name + ": " + number(line.y[0], 3) + " to " + number(line.y[line.y.length - 1], 3));
  const picture = svg("svg", { viewBox: "0 0 " + WIDTH + " " + HEIGHT, preserveAspectRatio: "none", role: "img", "aria-label": panel.title + " over training turns. " + told.join("; ") },
    ...panel.lines.map((line) => svg("polyline", { class: "line line" + (line.run % 4), points: line.x.map((x, i) => [x, line.y[i]]).filter(([, y]) => known(y)).map(([x, y]) => place(x, y)).join(" ") })));
  const ends = panel.lines.map((line) => number(line.y[0], 3) + " \u2192 " + number(line.y[line.y.length - 1], 3)).join(" | ");
  return make("figure", { class: "tipped", tabindex: 0, "data-tip": panel.column + "\n" + told.join("\n") + "\nup to " + number(right, 6) + " training turns" },
    make("figcaption", {}, make("b", {}, panel.title), make("span", { class: "quiet" }, ends)), picture);
}

function curves() {
  if (!data.curves.length) return;
  at("curves").hidden = false;
  at("curves").open = innerHeight > 640 && innerWidth > NARROW;
  at("charts").append(...data.curves.map(chart));
  if (several)
    at("charts").prepend(make("div", { class: "key" }, ...data.runs.map((run, i) => make("div", {},
      svg("svg", { viewBox: "0 0 30 8", width: 30, height: 8, "aria-hidden": "true" }, svg("polyline", { class: "line line" + (i % 4), points: "0,4 30,4" })), " " + run.name))));
}
