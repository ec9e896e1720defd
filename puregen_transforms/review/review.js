// The page of `puregen review`: a gallery with one suspect beside it. All HTML comes from the server, which escapes names.
(() => {
  "use strict";
  const ANSWERS = { k: "keep", d: "drop", u: "unsure", Backspace: null };
  const LINGER = 200; // ms on a suspect before something is measured for it
  const others = new BroadcastChannel("puregen-review");
  const state = { class_name: "", kind: "", decision: "", page: 1, sha: "" };
  const root = () => document.getElementById("review");
  const list = () => root().querySelector("main");
  const panel = () => root().querySelector("aside");
  const tiles = () => [...list().querySelectorAll(".tile")];
  const tileOf = (sha) => list().querySelector(`.tile[data-sha="${sha}"]`);
  const isShown = () => root() && root().offsetParent !== null;

  const remember = () => history.replaceState(null, "", "#" + new URLSearchParams(state));
  const restore = () => {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(state)) if (kept.has(name)) state[name] = kept.get(name);
    state.page = Number(state.page) || 1;
    if (!/^[0-9a-f]{64}$/.test(state.sha)) state.sha = "";
  };

  function complain(text) {
    root().querySelector(".problem")?.remove();
    const box = document.createElement("div");
    box.className = "problem";
    box.textContent = text;
    root().append(box);
    setTimeout(() => box.remove(), 8000);
  }

  async function fetchText(address) {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.text();
  }

  let asked = 0;
  async function showPage(place) {
    const number = ++asked;
    const { sha, ...wanted } = state;
    const html = await fetchText("review/page?" + new URLSearchParams(wanted));
    if (number !== asked) return;
    list().innerHTML = html;
    state.page = Number(list().querySelector(".grid").dataset.page);
    const found = tiles();
    const kept = tileOf(state.sha);
    const tile = place === "first" ? found[0] : place === "last" ? found.at(-1) : (kept ?? found[0]);
    await open(tile?.dataset.sha ?? "");
  }

  async function open(sha) {
    state.sha = sha;
    remember();
    tiles().forEach((tile) => tile.classList.toggle("here", tile.dataset.sha === sha));
    tileOf(sha)?.scrollIntoView({ block: "nearest" });
    if (!sha) return void panel().replaceChildren();
    const html = await fetchText("review/suspect/" + sha);
    if (state.sha !== sha) return;
    panel().innerHTML = html;
    setTimeout(() => state.sha === sha && lookAtOnce(), LINGER);
  }

  function mark(sha, answer) {
    const tile = tileOf(sha);
    if (tile) {
      tile.dataset.answer = answer ?? "";
      tile.querySelector(".badge").textContent = answer ?? "";
    }
    const box = panel().querySelector(`.answers[data-sha="${sha}"]`);
    if (box) box.dataset.answer = answer ?? "";
  }

  function count(counts) {
    for (const [answer, number] of Object.entries(counts)) {
      const place = list().querySelector(`[data-count="${answer}"]`);
      if (place) place.textContent = number.toLocaleString("en");
    }
  }

  async function decide(answer, sha = state.sha) {
    if (!sha) return;
    try {
      const told = await fetch("review/decide", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ sha256: sha, answer }),
      });
      if (!told.ok) throw new Error(await told.text());
      const { counts } = await told.json();
      mark(sha, answer);
      count(counts);
      others.postMessage({ sha, answer, counts });
    } catch (error) {
      complain("Not saved: " + error.message);
    }
  }

  async function step(by) {
    const found = tiles();
    const here = found.findIndex((tile) => tile.dataset.sha === state.sha);
    const next = here + by;
    if (next < 0) return turn(-1, "last");
    if (next >= found.length) return turn(1, "first");
    await open(found[next].dataset.sha);
  }

  async function turn(by, place) {
    const pages = Number(list().querySelector(".grid").dataset.pages);
    if (state.page + by < 1 || state.page + by > pages) return;
    state.page += by;
    await showPage(place);
  }

  const columns = () => getComputedStyle(list().querySelector(".grid")).gridTemplateColumns.split(" ").length;

  async function look(button) {
    const image = new Image();
    image.alt = button.dataset.view;
    button.textContent = "working ...";
    button.disabled = true;
    image.onload = () => button.replaceWith(image);
    image.onerror = () => (button.textContent = "not to be had");
    image.src = `review/picture/${button.dataset.view}/${state.sha}`;
  }

  async function compare(box) {
    try {
      box.innerHTML = await fetchText("review/near/" + box.dataset.near);
    } catch (error) {
      box.textContent = error.message;
    }
  }

  function lookAtOnce() {
    panel().querySelectorAll("[data-at-once]:not(:disabled)").forEach(look);
    panel().querySelectorAll("[data-near]").forEach(compare);
  }

  const lookAt = (view) => {
    const button = panel().querySelector(`[data-view="${view}"]:not(:disabled)`);
    if (button) look(button);
  };

  let queue = Promise.resolve(); // keys are answered in order, however fast they come
  const inOrder = (work) => (queue = queue.then(work).catch((error) => complain(error.message)));

  document.addEventListener("keydown", (event) => {
    if (!isShown() || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const moves = {
      ArrowLeft: () => step(-1),
      ArrowRight: () => step(1),
      ArrowUp: () => step(-columns()),
      ArrowDown: () => step(columns()),
      PageUp: () => turn(-1, "first"),
      PageDown: () => turn(1, "first"),
      p: () => (lookAt("purified"), lookAt("change")),
    };
    if (key in ANSWERS) inOrder(() => decide(ANSWERS[key]).then(() => key !== "Backspace" && step(1)));
    else if (key in moves) inOrder(moves[key]);
    else return;
    event.preventDefault();
  });

  document.addEventListener("click", (event) => {
    if (!root()?.contains(event.target)) return;
    const on = (selector) => event.target.closest(selector);
    if (on("[data-decide]")) inOrder(() => decide(on("[data-decide]").dataset.decide));
    else if (on("[data-view]")) lookAt(on("[data-view]").dataset.view);
    else if (on("[data-open]")) inOrder(() => open(on("[data-open]").dataset.open));
    else if (on("[data-step]")) inOrder(() => turn(Number(on("[data-step]").dataset.step), "first"));
    else if (on(".tile")) inOrder(() => open(on(".tile").dataset.sha));
  });

  document.addEventListener("change", (event) => {
    if (!root()?.contains(event.target) || !event.target.matches("select")) return;
    state[event.target.name] = event.target.value;
    state.page = 1;
    event.target.blur();
    inOrder(() => showPage("first"));
  });

  others.onmessage = ({ data }) => {
    if (!root()) return;
    mark(data.sha, data.answer);
    count(data.counts);
  };

  const begin = setInterval(() => {
    if (!root()?.querySelector("main")) return;
    clearInterval(begin);
    root().closest(".gradio-container").style.overflow = "clip"; // Gradio's "hidden" lets nothing stay in sight
    restore();
    inOrder(() => showPage());
  }, 50);
})();
