// ---- keys and start ------------------------------------------------------------------------------------------------
function show(place) { // open the episode at a place of the list and scroll the list to it
  if (!shown.length) return;
  open(shown[Math.min(shown.length - 1, Math.max(0, place))]);
  mark(true);
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || at("help").open) return;
  const typing = /^(INPUT|SELECT)$/.test(event.target.tagName);
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (!at("tip").hidden) hideTip();
    else if (state.beside !== null) compare(false);
    return;
  }
  if (typing) return;
  const place = shown.indexOf(state.episode), inside = at("main").contains(event.target);
  const actions = {
    "?": () => at("help").showModal(),
    "/": () => at("query").focus(),
    j: () => show(place + 1),
    k: () => show(place - 1),
    c: () => compare(state.beside === null),
    s: () => { at("scale").value = at("scale").value === "run" ? "episode" : "run"; open(state.episode, state.beside); },
  };
  if (event.key in actions) actions[event.key]();
  else if (/^Arrow(Left|Right)$/.test(event.key)) { if (!moveToken(event.key)) return; }
  else if (/^Arrow(Up|Down)$/.test(event.key)) {
    if (inside) { if (!moveToken(event.key)) return; } // without a focused token these keys scroll
    else show(place + (event.key === "ArrowDown" ? 1 : -1));
  } else return;
  event.preventDefault();
}

function start() {
  head();
  curves();
  at("filter").addEventListener("input", filter);
  at("filter").addEventListener("submit", (event) => event.preventDefault());
  at("clear").addEventListener("click", () => { for (const field of at("filter").elements) if (field.name) field.value = ""; filter(); });
  at("scale").addEventListener("input", () => open(state.episode, state.beside));
  at("beside").addEventListener("input", () => {
    state.comparing = at("beside").value !== "";
    open(state.episode, state.comparing ? Number(at("beside").value) : null);
  });
  at("keys").addEventListener("click", () => at("help").showModal());
  window.addEventListener("hashchange", fromAddress);
  document.addEventListener("keydown", keys);
  document.addEventListener("pointerover", overTip);
  document.addEventListener("focusin", overTip);
  document.addEventListener("scroll", (event) => { if (event.target !== document && !event.target.contains(document.activeElement)) hideTip(); }, true);
  window.addEventListener("load", () => setTimeout(() => prepareSearch(false).catch(() => {}), 300)); // a search tells the error
  fromAddress();
}

start();
