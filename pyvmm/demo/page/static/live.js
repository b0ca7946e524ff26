// SPDX-License-Identifier: MIT
// A page that follows its reader's machine: sends what is asked for, exchanges the parts that have changed.
"use strict";

(() => {
  const REPEAT = [500, 1000, 2000, 5000];
  const SILENCE = 40000; // A beat comes every 15 s.
  const byId = (name) => document.getElementById(name);
  const byPart = (name) =>
    name === "status" ? byId("status") : document.querySelector(`[data-part="${name}"]`);
  const says = byId("connection");
  const notice = byId("notice");
  const trial = byId("trial");
  let socket = null;
  let seen = 0;
  let tries = 0;
  let watch = 0;
  let over = false;
  let wanted = ""; // The place in the address, as "slots/overlap", until the page is there.

  const say = (text) => {
    if (says.textContent !== text) says.textContent = text;
    says.hidden = text === "";
  };
  const note = (text) => {
    notice.textContent = text;
    notice.hidden = text === "";
  };

  // -- out --

  const send = (wish) => {
    if (socket === null || socket.readyState !== WebSocket.OPEN) {
      note("The connection is lost; nothing can be done until it is back.");
      return;
    }
    note("");
    socket.send(JSON.stringify({ ...wish, seen }));
  };

  // An answer belongs to the step, or to what the reader is about to try.
  const answerOf = (item) =>
    trial.contains(item)
      ? { try: trial.dataset.act, predicted: item.dataset.key }
      : { predict: item.dataset.key };

  const wishOf = (element) => {
    const moves = ["next", "back", "restart"];
    if (moves.includes(element.id)) return { move: element.id };
    if (element.dataset.try) return { try: element.dataset.try };
    if (element.dataset.leave) return { leave: element.dataset.leave };
    const item = element.closest("li");
    if (item === null) return null;
    if (item.dataset.key !== undefined) return answerOf(item);
    if (item.dataset.act !== undefined) return { consider: item.dataset.act };
    if (item.dataset.moment !== undefined) return { look: item.dataset.moment };
    return null;
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button === null || button.getAttribute("aria-disabled") === "true") return;
    const wish = wishOf(button);
    if (wish !== null) send(wish);
  });

  byId("scrub").addEventListener("change", (event) => {
    const { moments, at } = document.body.dataset;
    const wanted = event.target.value;
    if (Number(wanted) < Number(moments)) send({ look: wanted });
    else if (at !== "") send({ move: "next" });
  });
  byId("chapter").addEventListener("change", (event) => send({ jump: event.target.value }));

  byId("try").addEventListener("submit", (event) => {
    event.preventDefault();
    const act = byId("act");
    if (act.value.trim() !== "") send({ consider: act.value.trim() });
  });

  const KEYS = { n: "next", b: "back", r: "restart", s: "skip" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    if (event.defaultPrevented || !byId("keys").checked) return;
    if (event.target.closest("select, input:not([type=checkbox])") !== null) return;
    if (event.key in KEYS) {
      send({ move: KEYS[event.key] });
    } else if (/^[1-9]$/.test(event.key)) {
      const where = trial.firstChild === null ? document : trial;
      const answers = where.querySelectorAll("[data-ask] > li[data-key]");
      const answer = answers[Number(event.key) - 1];
      if (answer !== undefined) send(answerOf(answer));
    } else {
      return;
    }
    event.preventDefault();
  });

  // -- in --

  // Answers, acts and moments are list items in every form of the page; here they are buttons, too.
  const makeButtons = (part) => {
    const items = part.querySelectorAll("[data-ask] > li[data-key], li[data-act], li[data-moment]");
    for (const item of items) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...item.childNodes);
      if (item.hasAttribute("aria-current")) {
        button.setAttribute("aria-current", item.getAttribute("aria-current"));
      }
      item.append(button);
    }
  };

  const nameOf = (element) => {
    const item = element.closest("li");
    if (item === null) return null;
    for (const name of ["key", "act", "moment"]) {
      if (item.dataset[name] !== undefined) {
        return `li[data-${name}="${CSS.escape(item.dataset[name])}"] > button`;
      }
    }
    return null;
  };

  const exchange = (name, html) => {
    const part = byPart(name);
    if (part === null) return;
    const active = document.activeElement;
    const hadFocus = part !== active && part.contains(active);
    const again = hadFocus ? (active.id ? `#${CSS.escape(active.id)}` : nameOf(active)) : null;
    part.innerHTML = html;
    makeButtons(part);
    part.dispatchEvent(new CustomEvent("pyvmm:part", { bubbles: true, detail: { name } }));
    if (hadFocus) {
      const heir = again === null ? null : part.querySelector(again);
      (heir ?? byId("next")).focus({ preventScroll: true });
    }
  };

  // -- controls --

  const place = () => {
    const { link, moments, at } = document.body.dataset;
    const [chapter] = link.split("/");
    if (byId("chapter").value !== chapter) byId("chapter").value = chapter;
    const last = at === "" ? Number(moments) : Number(moments) - 1;
    const here = at === "" ? last : Number(at);
    const scrub = byId("scrub");
    scrub.max = String(Math.max(0, last));
    scrub.value = String(here);
    byId("where").textContent = `${here + 1} of ${Math.max(0, last) + 1}`;
    scrub.setAttribute("aria-valuetext", byId("where").textContent);
    if (socket !== null) history.replaceState(null, "", `#${link}`);
  };

  const OFF = "#next, #back, #restart, #try button, .told li > button, .timeline button";
  const allow = () => {
    const { phase, role } = document.body.dataset;
    const isFollower = role === "follower";
    const isBusy = phase === "doing" || phase === "opening" || over;
    for (const button of document.querySelectorAll(OFF)) {
      const isAnswer = button.parentElement.dataset.key !== undefined;
      button.setAttribute("aria-disabled", String(isBusy || (isFollower && !isAnswer)));
    }
    for (const one of [byId("scrub"), byId("chapter")]) one.disabled = isFollower || over;
    byId("try").hidden = isFollower;
    for (const button of document.querySelectorAll("[data-leave]")) {
      button.hidden = over || (button.dataset.leave === "lecture") !== isFollower;
    }
  };

  const consider = (message) => {
    trial.innerHTML = message.html;
    trial.dataset.act = message.trial;
    makeButtons(trial);
    const without = document.createElement("button");
    without.type = "button";
    without.dataset.try = message.trial;
    without.textContent = "Without a prediction";
    trial.append(without);
    trial.querySelector("button").focus();
  };

  const take = (message) => {
    if (message.notice !== undefined) note(message.notice);
    if (message.trial !== undefined) consider(message);
    if (message.parts === undefined) return;
    trial.replaceChildren();
    if (message.whole) {
      for (const part of document.querySelectorAll("[data-part]")) {
        if (!(part.dataset.part in message.parts)) exchange(part.dataset.part, "");
      }
    }
    for (const [name, text] of Object.entries(message.parts)) {
      if (name.startsWith("@")) document.body.dataset[name.slice(1)] = text;
      else exchange(name, text);
    }
    seen = message.number;
    place();
    allow();
    if (wanted !== "" && document.body.dataset.role !== "follower") {
      if (document.body.dataset.phase === "opening") return;
      if (document.body.dataset.link !== wanted) send({ jump: wanted });
      wanted = "";
    }
  };

  // -- the connection --

  const listen = () => {
    clearTimeout(watch);
    watch = setTimeout(() => socket?.close(), SILENCE);
  };

  const connect = () => {
    const mine = new WebSocket(`ws://${location.host}/live`);
    socket = mine;
    mine.addEventListener("open", () => {
      tries = 0;
      say("");
      listen();
    });
    mine.addEventListener("message", (event) => {
      listen();
      take(JSON.parse(event.data));
    });
    mine.addEventListener("close", (event) => {
      clearTimeout(watch);
      if (socket !== mine) return;
      socket = null;
      ended(event);
    });
  };

  const end = (text) => {
    over = true;
    document.body.dataset.phase = "lost";
    say(text);
    allow();
  };

  const ended = (event) => {
    if (over) return;
    if (event.code === 1001 && event.reason === "left") {
      end("You have left, and your machine is gone. Load the page again for another.");
    } else if (event.code === 1008 || event.code === 1009) {
      end(`The server has closed the connection: ${event.reason}. Load the page again to go on.`);
    } else {
      say("The connection is lost; trying to get it back.");
      setTimeout(again, REPEAT[Math.min(tries++, REPEAT.length - 1)]);
    }
  };

  const again = async () => {
    let answer = null;
    try {
      answer = await fetch("/live", { cache: "no-store" });
    } catch {
      ended({ code: 1006 });
      return;
    }
    await enteredOr(answer);
  };

  const enteredOr = async (answer) => {
    // The status of a refused upgrade is kept from scripts: the same is asked without one first.
    if (answer.ok) {
      connect();
      return;
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    end(page.querySelector("p")?.textContent ?? `The server refuses: ${answer.status}.`);
  };

  const begin = async () => {
    for (const part of document.querySelectorAll("[data-part]")) makeButtons(part);
    allow();
    byId("explains").hidden = false;
    document.querySelector("nav.bar").hidden = false;
    place();
    const token = location.hash.slice(1);
    if (token.includes("/")) wanted = token;
    if (!token.includes("/") && token.length >= 32) {
      history.replaceState(null, "", location.pathname);
      say("Getting a machine for you.");
      await enteredOr(await fetch("/enter", { method: "POST", body: token, cache: "no-store" }));
    } else {
      await again();
    }
  };

  note("");
  begin().catch(() => ended({ code: 1006 }));
})();
