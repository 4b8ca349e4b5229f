"use strict";
const $ = (id) => document.getElementById(id);
const state = { image: null, like: null, busy: 0 };

function say(text) { $("status").textContent = text; }

async function ask(path, body) {
  const headers = {};
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = "Bearer " + key;
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  $("unlock").hidden = answer.status !== 401;
  const values = await answer.json();
  if (!answer.ok) throw new Error(values.error.message);
  return values;
}

function address() {
  const query = new URLSearchParams();
  if ($("text").value.trim()) query.set("q", $("text").value.trim());
  if ($("filter").value.trim()) query.set("filter", $("filter").value.trim());
  if ($("k").value !== "24") query.set("k", $("k").value);
  if (state.like !== null) query.set("like", state.like);
  const text = query.toString();
  return text ? "?" + text : location.pathname;
}

function read() {
  const query = new URLSearchParams(location.search);
  $("text").value = query.get("q") || "";
  $("filter").value = query.get("filter") || "";
  $("k").value = query.get("k") || "24";
  state.like = query.has("like") ? Number(query.get("like")) : null;
}

function request() {
  const body = { k: Math.max(1, Math.min(200, Number($("k").value) || 24)), thumbnails: true };
  if (state.like !== null) body.like = state.like;
  else {
    if ($("text").value.trim()) body.text = $("text").value.trim();
    if (state.image) body.image_b64 = state.image;
  }
  if ($("filter").value.trim()) body.filter = $("filter").value.trim();
  return body;
}

async function search() {
  const body = request();
  if (body.like === undefined && !body.text && !body.image_b64) { $("results").replaceChildren(); return; }
  const turn = ++state.busy;
  say("Searching ...");
  try {
    const found = await ask("/search", body);
    if (turn !== state.busy) return;
    show(found.hits);
    const what = state.like !== null ? " like the chosen one" : "";
    say(found.hits.length + (found.hits.length === 1 ? " result" : " results") + what + " in " + Math.round(found.seconds * 1000) + " ms");
  } catch (error) {
    if (turn !== state.busy) return;
    $("results").replaceChildren();
    say(error.message);
  }
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function show(hits) {
  $("results").replaceChildren(...hits.map((hit) => {
    const tile = element("li");
    tile.tabIndex = 0;
    const name = hit.item.path.split("/").pop();
    const caption = hit.item.captions && hit.item.captions[0];
    if (hit.thumbnail) {
      const image = element("img", "", "shot");
      image.src = hit.thumbnail;
      image.alt = caption || name;
      tile.append(image);
    } else tile.append(element("div", "", "shot"));
    const said = element("div", "", "said");
    said.append(element("b", hit.rank + ". " + name));
    const score = hit.score === null ? "" : ", score " + hit.score.toFixed(3);
    said.append(element("span", "cosine " + hit.cosine.toFixed(3) + score));
    if (caption) said.append(element("span", caption));
    const more = element("button", "More like this");
    more.type = "button";
    more.setAttribute("aria-label", "More like this: " + name);
    more.addEventListener("click", () => { state.like = hit.row; state.image = null; picture(); go(); window.scrollTo(0, 0); });
    said.append(more);
    tile.append(said);
    return tile;
  }));
}

function go() { history.pushState(null, "", address()); search(); }

function picture() {
  $("chosen").hidden = !state.image;
  $("dropnote").hidden = Boolean(state.image);
  if (state.image) $("preview").src = state.image;
}

function take(file) {
  if (!file || !file.type.startsWith("image/")) { say("That is not a picture."); return; }
  const reader = new FileReader();
  reader.onload = () => { state.image = reader.result; state.like = null; picture(); go(); };
  reader.readAsDataURL(file);
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); state.like = null; go(); });
$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  start();
});
$("file").addEventListener("change", () => take($("file").files[0]));
$("clear").addEventListener("click", () => { state.image = null; $("file").value = ""; picture(); go(); });
addEventListener("popstate", () => { read(); state.image = null; picture(); search(); });
addEventListener("paste", (event) => {
  const item = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
  if (item) { event.preventDefault(); take(item); }
});
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files[0]);
});
addEventListener("keydown", (event) => {
  const tag = document.activeElement.tagName;
  if (event.key === "/" && tag !== "INPUT") { event.preventDefault(); $("text").focus(); }
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const tile = document.activeElement.closest("#results > li");
  if (tile && step) {
    const next = step > 0 ? tile.nextElementSibling : tile.previousElementSibling;
    if (next) { event.preventDefault(); next.focus(); }
  }
  if (tile && event.key === "Enter" && tag === "LI") tile.querySelector("button").click();
});

async function start() {
  try {
    const about = await ask("/info");
    $("about").textContent = about.index
      ? about.index.items.toLocaleString("en") + " images, searched with " + about.model
      : "This service has no index: start it with --index INDEX.";
    if (about.index) $("columns").textContent = "Columns: " + about.index.columns.join(", ");
    await search();
  } catch (error) { say(error.message); }
}

read();
start();
