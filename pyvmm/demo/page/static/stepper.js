// SPDX-License-Identifier: MIT
// Pictures that explain themselves and can be walked with arrows; and steps through the moments of a
// file, all of which are in the page. On a live page live.js exchanges parts, and says so by the
// event "pyvmm:part".
"use strict";
(() => {
  const find = (names, within = document) => within.querySelector(names);
  const all = (names, within = document) => [...within.querySelectorAll(names)];

  // -- everything explains itself --

  const explained = "[role=gridcell], svg.pins [role=img], .structure td:nth-of-type(2)";
  let explains = find("#explains");
  if (!explains) {
    explains = document.createElement("div");
    explains.id = "explains";
    explains.className = "explains";
    explains.setAttribute("aria-hidden", "true");
    document.body.append(explains);
  }

  function explain(event) {
    const one = event.target.closest && event.target.closest(explained);
    if (!one) return;
    const title = find("title", one);
    explains.textContent = one.getAttribute("aria-label") || (title && title.textContent)
      || bytesOf(one);
    if (title && ALIKE.test(title.textContent)) explains.textContent += " (Enter: page by page)";
  }
  // Bytes of a structure's field: "0x08: 00 00 10 00 00 00 00 00".
  function bytesOf(cell) {
    const [offset, shown] = cell.textContent.split(": ");
    const first = parseInt(offset, 16), bytes = shown.match(/\b[0-9a-f]{2}\b/g) || [];
    const name = find("th", cell.parentNode).textContent;
    return `bytes ${first} to ${first + bytes.length - 1}: ${name}, the lowest byte first`;
  }
  for (const kind of ["focusin", "pointerover", "click"]) document.addEventListener(kind, explain);

  // -- pages that are alike, one by one: at most MOST cells, each of which can be looked into again --

  const ALIKE = /^(0x[0-9a-f]+) to (0x[0-9a-f]+), ([0-9]+) pages: (.*)$/;
  const MOST = 512n, PAGE = 4096n, ACROSS = 16;
  const WIDTH = 21, HEIGHT = 28, MARGIN = 4;

  function drawn(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  }

  function zoom(cell, takesFocus) {
    const alike = find("title", cell).textContent.match(ALIKE);
    if (!alike) return;
    const figure = cell.closest("figure"), map = find("svg.page-map", figure);
    all(".zoom", figure).forEach(one => one.remove());
    const hex = address => "0x" + address.toString(16);
    const first = BigInt(alike[1]), end = BigInt(alike[2]) + 1n, pages = BigInt(alike[3]);
    const each = (pages + MOST - 1n) / MOST * PAGE;
    const rows = Math.ceil(Number((end - first + each - 1n) / each) / ACROSS);
    const width = 2 * MARGIN + ACROSS * WIDTH, height = rows * HEIGHT + 2 * MARGIN;
    const svg = drawn("svg", {class: "page-map zoom", width, height, role: "grid",
      viewBox: `0 0 ${width} ${height}`, "aria-label": `${alike[1]} to ${alike[2]}, page by page`});
    const letter = find("text", cell).textContent[0], box = find("rect", cell);
    let row = null, at = 0;
    for (let start = first; start < end; start += each, at++) {
      if (at % ACROSS === 0) svg.append(row = drawn("g", {role: "row"}));
      const x = MARGIN + at % ACROSS * WIDTH, y = MARGIN + Math.floor(at / ACROSS) * HEIGHT;
      const last = start + each < end ? start + each : end;
      const count = (last - start) / PAGE;
      const range = count > 1n ? `${hex(start)} to ${hex(last - 1n)}, ${count} pages` : hex(start);
      const kind = count > 1n ? cell.getAttribute("class")
        : cell.getAttribute("class").replace(" wide", "");
      const made = drawn("g", {class: kind, role: "gridcell", tabindex: at ? "-1" : "0"});
      const moved = `translate(${x + 1 - box.getAttribute("x")} ${y + 1 - box.getAttribute("y")})`;
      made.append(drawn("title", {}, `${range}: ${alike[4]}`),
        drawn("rect", {x: x + 1, y: y + 1, width: WIDTH - 2, height: HEIGHT - 2}),
        ...all("path", cell).map(one => drawn("path", {class: one.getAttribute("class"),
          d: one.getAttribute("d"), transform: moved})),
        drawn("text", {x: x + 3, y: y + 14}, letter));
      row.append(made);
    }
    map.after(svg);
    if (takesFocus) find("[role=gridcell]", svg).focus();
  }

  document.addEventListener("click", event => {
    const cell = event.target.closest && event.target.closest("[role=gridcell]");
    if (cell) zoom(cell, false);
  });

  // -- arrows in pictures: each has one tab stop --

  function rove(event, marks, across) {
    const here = marks.indexOf(document.activeElement);
    const steps = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across};
    let to = null;
    if (event.key in steps) to = here + steps[event.key];
    if (event.key === "Home") to = 0;
    if (event.key === "End") to = marks.length - 1;
    if (to === null) return false;
    event.preventDefault();
    const next = marks[Math.max(0, Math.min(to, marks.length - 1))];
    for (const one of marks) one.setAttribute("tabindex", one === next ? "0" : "-1");
    next.focus();
    return true;
  }

  // The cell of the row above or below that is nearest.
  function roveRows(event, cell) {
    const rows = all("[role=row]", cell.closest("svg"));
    const row = rows.indexOf(cell.parentNode);
    const to = rows[row + (event.key === "ArrowDown" ? 1 : -1)];
    event.preventDefault();
    if (!to) return;
    const middle = one => { const box = one.getBoundingClientRect(); return box.x + box.width / 2; };
    const near = all("[role=gridcell]", to).reduce((best, one) =>
      Math.abs(middle(one) - middle(cell)) < Math.abs(middle(best) - middle(cell)) ? one : best);
    cell.setAttribute("tabindex", "-1");
    near.setAttribute("tabindex", "0");
    near.focus();
  }

  document.addEventListener("keydown", event => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const on = event.target, svg = on.closest && on.closest("svg");
    if (!svg) return;
    const isCell = on.matches("[role=gridcell]");
    if (isCell && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      zoom(on, true);
      return;
    }
    if (isCell && event.key === "Escape" && svg.matches(".zoom")) {
      find("svg.page-map:not(.zoom) [role=gridcell][tabindex='0']", svg.closest("figure")).focus();
      svg.remove();
      return;
    }
    if (on.matches("[role=gridcell]") && /^Arrow(Up|Down)$/.test(event.key)) {
      roveRows(event, on);
    } else {
      rove(event, all("[tabindex]", svg), 1);
    }
  });

  function oneStop() {
    for (const svg of all("svg.pins")) {
      const marks = all("[tabindex]", svg);
      marks.forEach((one, number) => one.setAttribute("tabindex", number ? "-1" : "0"));
    }
  }
  document.addEventListener("pyvmm:part", oneStop);
  oneStop();

  // -- words --

  const terms = find("#glossary");
  document.addEventListener("keydown", event => {
    if (event.key !== "g" || event.altKey || event.ctrlKey || event.metaKey || event.isComposing) return;
    if (!terms || !find("#keys").checked || event.target.closest("select, input:not([type=checkbox])")) return;
    event.preventDefault();
    terms.open = !terms.open;
    find("summary", terms).focus();
    if (terms.open) terms.scrollIntoView();
  });

  // -- a file: every moment is here --

  const run = find("#run");
  const moments = run ? JSON.parse(run.textContent).moments : [];
  if (!moments.length) return;
  const status = find("#status"), scrub = find("#scrub"), where = find("#where");
  const keys = find("#keys"), chapter = find("#chapter");
  const answers = new Map();
  let at = 0;

  const article = number => document.getElementById(moments[number].id);
  const asks = number => !!find("[data-ask]", article(number)) && !answers.has(number);
  const firstOf = name => moments.findIndex(one => one.chapter === name);

  function move(made) {
    switch (made.move) {
      case "next":
        if (asks(at)) answer(null); else go(at + 1);
        break;
      case "back":
        if (find("[data-ask]", article(at)) && answers.get(at) === null) answers.delete(at);
        go(at - 1);
        break;
      case "restart":
        go(firstOf(moments[at].chapter));
        break;
      case "jump":
        go(firstOf(made.chapter));
        break;
      case "at":
        go(made.moment);
        break;
      case "predict":
        if (asks(at)) answer(made.key);
    }
  }

  function answer(key) {
    answers.set(at, key);
    const here = article(at), choices = all("[data-key]", here), truth = here.dataset.true;
    const words = name => {
      const found = choices.find(one => one.dataset.key === name);
      return found ? found.dataset.words : "";
    };
    for (const one of choices) {
      const marks = [];
      if (one.dataset.key === key) marks.push("your prediction");
      if (one.dataset.key === truth) marks.push("came true");
      one.classList.toggle("true", one.dataset.key === truth);
      one.textContent = one.dataset.words + (marks.length ? ` (${marks.join(", ")})` : "");
    }
    const verdict = find(".verdict", here);
    if (key !== null && truth && verdict) {
      verdict.textContent = key === truth ? `As you predicted: ${words(key)}.`
        : `You predicted: ${words(key)}. It was: ${words(truth)}.`;
      verdict.classList.toggle("right", key === truth);
    }
    go(at, find("#next"));
    if (key !== null && verdict) status.textContent = verdict.textContent;
  }

  function go(number, focus) {
    at = Math.max(0, Math.min(number, moments.length - 1));
    const asking = asks(at);
    all(".moment").forEach(one => one.classList.remove("at", "before", "asks"));
    article(at).classList.add("at");
    article(at).classList.toggle("asks", asking);
    const hasBefore = asking && at > 0 && moments[at - 1].chapter === moments[at].chapter;
    if (hasBefore) article(at - 1).classList.add("before");
    for (const one of all("ol.timeline li[data-moment]")) {
      const here = +one.dataset.moment === at;
      if (here) one.setAttribute("aria-current", "step"); else one.removeAttribute("aria-current");
      one.closest("nav").hidden = moments[+one.dataset.moment].chapter !== moments[at].chapter;
    }
    status.textContent = asking ? moments[at].asks : moments[at].said;
    refresh();
    history.replaceState(null, "", "#" + moments[at].id);
    if (chapter) chapter.value = moments[at].chapter;
    requestAnimationFrame(() => scrollTo(0, 0));
    if (focus) focus.focus({preventScroll: true});
  }

  function button(item, made) {
    const pressed = document.createElement("button");
    pressed.type = "button";
    pressed.append(...item.childNodes);
    item.append(pressed);
    pressed.addEventListener("click", () => move(made));
  }

  function refresh() {
    const here = article(at);
    if (asks(at)) for (const one of all("[data-ask] [data-key]", here)) {
      if (find("button", one)) continue;
      one.dataset.words = one.textContent;
      button(one, {move: "predict", key: one.dataset.key});
    }
    const first = firstOf(moments[at].chapter);
    const count = moments.filter(one => one.chapter === moments[at].chapter).length;
    scrub.min = String(first);
    scrub.max = String(first + count - 1);
    scrub.value = String(at);
    where.textContent = `${at - first + 1} of ${count}`;
    scrub.setAttribute("aria-valuetext", `${where.textContent}: ${moments[at].id}`);
    const off = (name, is) => find(name).setAttribute("aria-disabled", String(is));
    off("#back", at === 0);
    off("#next", at === moments.length - 1 && !asks(at));
  }

  document.addEventListener("keydown", event => {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.isComposing || !keys.checked) return;
    if (event.target.closest("select, input:not([type=checkbox])")) return;
    const made = {n: "next", ArrowRight: "next", b: "back", ArrowLeft: "back", r: "restart",
      s: "next"}[event.key];
    if (made) {
      event.preventDefault();
      move({move: made});
    } else if (/^[1-9]$/.test(event.key) && asks(at)) {
      const chosen = all("[data-ask] [data-key]", article(at))[+event.key - 1];
      if (chosen) move({move: "predict", key: chosen.dataset.key});
    }
  });
  for (const name of ["next", "back", "restart"]) {
    find("#" + name).addEventListener("click", () => move({move: name}));
  }
  scrub.addEventListener("input", () => move({move: "at", moment: +scrub.value}));
  chapter.addEventListener("change", () => move({move: "jump", chapter: chapter.value}));
  addEventListener("hashchange", () => {
    const found = moments.findIndex(one => "#" + one.id === decodeURIComponent(location.hash));
    if (found >= 0 && found !== at) go(found);
  });

  history.scrollRestoration = "manual";
  document.body.classList.add("steps");
  find("nav.bar").hidden = false;
  const asked = decodeURIComponent(location.hash.slice(1));
  go(Math.max(0, moments.findIndex(one => one.id === asked)));
})();
