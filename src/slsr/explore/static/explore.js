"use strict";
// The page works without this file; it adds keys, enlarged images, pictures dropped or pasted, and changes in place.

const root = document.documentElement;
const main = document.getElementById("main");
const status = document.getElementById("status");
root.classList.add("js");

function announce() {
  const said = main.querySelector("[data-status]");
  status.textContent = said ? said.textContent.trim().replace(/\s+/g, " ") : "";
}

// Lists: one stop of the Tab key each, arrow keys within.
function links(grid) {
  return [...grid.querySelectorAll("a")];
}

function prepareLists() {
  for (const grid of main.querySelectorAll("[data-grid]")) {
    links(grid).forEach((link, place) => { link.tabIndex = place === 0 ? 0 : -1; });
    for (const card of grid.querySelectorAll("li[data-large]")) {
      const button = make("button", { type: "button", className: "enlarge", tabIndex: -1, title: "Enlarge (e)" },
        make("span", { ariaHidden: "true", textContent: "⤢" }), make("span", { className: "unseen", textContent: `Enlarge ${captionOf(card)}` }));
      card.append(button);
    }
  }
}

function columns(items) {
  const top = items[0].getBoundingClientRect().top;
  const next = items.findIndex((item) => item.getBoundingClientRect().top > top + 1);
  return next < 0 ? items.length : next;
}

function target(key, place, items) {
  const last = items.length - 1;
  switch (key) {
    case "ArrowLeft": return Math.max(place - 1, 0);
    case "ArrowRight": return Math.min(place + 1, last);
    case "ArrowUp": return place - columns(items) >= 0 ? place - columns(items) : place;
    case "ArrowDown": return place + columns(items) <= last ? place + columns(items) : place;
    case "Home": return 0;
    case "End": return last;
    default: return null;
  }
}

function change(name, step) {
  const select = document.getElementById(name);
  if (!select) return;
  select.selectedIndex = (select.selectedIndex + step + select.length) % select.length;
  select.form.requestSubmit();
}

// Letters work anywhere on the page, but not while a control of a form has the focus: there they are text or choices.
function letter(key) {
  if (key === "e") {
    const card = document.activeElement.closest("[data-large]") || main.querySelector("[data-large]");
    if (!card) return false;
    enlarge(card);
    return true;
  }
  if (!main.querySelector(".search")) return false;
  if (key === "n" || key === "p") {
    const link = document.getElementById(key === "n" ? "next" : "previous");
    if (link) swap(link.href, "first");
  } else if (key === "m") change("maps", 1);
  else if (key === "b") change("right", 1);
  else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.isComposing) return;
  if (enlarged.open || event.target.closest("input, select, textarea, button")) return;
  const grid = event.target.closest("[data-grid]");
  const items = grid ? links(grid) : [];
  const place = items.indexOf(event.target);
  const to = place < 0 ? null : target(event.key, place, items);
  if (to !== null) {
    event.preventDefault();
    items[place].tabIndex = -1;
    items[to].tabIndex = 0;
    items[to].focus();
  } else if (!event.shiftKey && letter(event.key)) event.preventDefault();
});

main.addEventListener("focusin", (event) => {
  const grid = event.target.closest("[data-grid]");
  if (grid) links(grid).forEach((link) => { link.tabIndex = link === event.target ? 0 : -1; });
});

// Changes in place: fetch the page, take its main part, say what came.
let asked = 0;
async function swap(address, focus, history_ = "push") {
  const turn = ++asked;
  main.classList.add("busy");
  main.setAttribute("aria-busy", "true");
  let text;
  try {
    const answer = await fetch(address, { headers: { Accept: "text/html" } });
    text = await answer.text();
  } catch {
    location.href = address;
    return;
  }
  if (turn !== asked) return;
  const page = new DOMParser().parseFromString(text, "text/html");
  const fresh = page.getElementById("main");
  if (!fresh) { location.href = address; return; }
  const active = document.activeElement;
  const id = active ? active.id : "";
  const side = active ? active.closest(".panel h2 ~ [data-grid]") : null;
  const panel = side ? [...main.querySelectorAll("[data-grid]")].indexOf(side) : -1;
  const own = main.querySelector("details.own")?.open;
  const written = active?.type === "search" ? active : null;
  main.replaceChildren(...fresh.childNodes);
  main.classList.remove("busy");
  main.removeAttribute("aria-busy");
  document.title = page.title;
  if (history_ === "push") history.pushState({}, "", address);
  if (history_ === "replace") history.replaceState({}, "", address);
  if (own) main.querySelector("details.own")?.setAttribute("open", "");
  fold();
  prepareLists();
  announce();
  const grids = main.querySelectorAll("[data-grid]");
  const grid = grids[Math.min(Math.max(panel, 0), grids.length - 1)];
  const again = focus === "first" ? null : document.getElementById(id);
  if (written && again) again.value = written.value; // what was typed since
  const place = again || (focus === "first" || panel >= 0 ? grid?.querySelector("a") : null) || main;
  if (place !== main || focus === "first") place.focus({ preventScroll: focus !== "first" });
  if (written && again) again.setSelectionRange(written.selectionStart, written.selectionEnd);
  if (focus === "first") scrollTo(0, 0);
}

main.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-swap]");
  if (!link || event.button || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  swap(link.href, link.closest("[data-grid]") ? "first" : "same");
});

function addressOf(form) {
  const address = new URL(form.action);
  address.search = new URLSearchParams(new FormData(form)).toString();
  return address.href;
}

main.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("form[data-swap]")) return;
  event.preventDefault();
  swap(addressOf(form), "same");
});

let typed = 0;
main.addEventListener("input", (event) => {
  const form = event.target.closest("form[data-swap]");
  if (!form || event.target.type !== "search") return;
  clearTimeout(typed);
  typed = setTimeout(() => swap(addressOf(form), "same", "replace"), 250);
});

main.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-swap]");
  if (form && event.target.type !== "search") form.requestSubmit();
});

addEventListener("popstate", () => swap(location.href, "same", "keep"));

// On a narrow screen, controls are folded, so that images come first; whoever opens them keeps them open.
const narrow = matchMedia("(max-width: 60rem)");
let unfolded = false;
function fold() {
  for (const part of main.querySelectorAll("details.fold")) part.open = !narrow.matches || unfolded || "keep" in part.dataset;
}
narrow.addEventListener("change", fold);
main.addEventListener("click", (event) => {
  const part = event.target.closest("details.fold > summary")?.parentElement;
  if (part) unfolded = !part.open;
});

// Images enlarged: the image of a card, without its map and with it, beside what it belongs to.
const enlarged = document.createElement("dialog");
enlarged.className = "enlarged";
enlarged.setAttribute("aria-label", "Enlarged image");
let shownCard = null;

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function spoken(part) {
  const copy = part.cloneNode(true);
  for (const silent of copy.querySelectorAll("[aria-hidden=true]")) silent.remove();
  return copy.textContent.trim().replace(/\s+/g, " ");
}

function figureOf(source, text) {
  return make("figure", {}, make("img", { src: source, alt: text }), make("figcaption", { textContent: text }));
}

function captionOf(card) {
  const parts = [...card.querySelectorAll(":is(a, .still) > :is(.who, .note), .rank, .verdict, .score")].map(spoken);
  const name = card.querySelector("[title]")?.title.replace(": search with this image", "");
  return [...parts, name].filter(Boolean).join(", ");
}

function enlarge(card) {
  shownCard = card;
  const query = main.querySelector("figure.query");
  const figures = query ? [figureOf(query.dataset.large, "query")] : [];
  if (card !== query) figures.push(figureOf(card.dataset.large, captionOf(card)));
  const image = card.querySelector(".frame img");
  if (image.src.includes("/map/")) figures.push(figureOf(image.src, "under its map"));
  const nearest = card.querySelector(".nearest");
  if (nearest) figures.push(figureOf(nearest.dataset.large, spoken(nearest)));
  const close = make("button", { type: "button", textContent: "Close", onclick: () => enlarged.close() });
  const buttons = [make("button", { type: "button", textContent: "Previous image", onclick: () => another(-1) }),
    make("button", { type: "button", textContent: "Next image", onclick: () => another(1) })];
  enlarged.replaceChildren(make("div", { className: "images" }, ...figures),
    make("div", { className: "row" }, ...(card === query ? [] : buttons), close));
  if (!enlarged.open) enlarged.showModal();
  close.focus();
}

function another(step) {
  const cards = [...(shownCard.closest("[data-grid]")?.querySelectorAll("li[data-large]") || [])];
  const next = cards[cards.indexOf(shownCard) + step];
  if (next) enlarge(next);
}

enlarged.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") another(event.key === "ArrowLeft" ? -1 : 1);
});
enlarged.addEventListener("click", (event) => { if (event.target === enlarged) enlarged.close(); });
enlarged.addEventListener("close", () => { shownCard?.querySelector("a")?.focus(); });
document.body.append(enlarged);

main.addEventListener("click", (event) => {
  const place = event.target.closest("button.enlarge, figure.query > a");
  if (!place || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  enlarge(place.closest("[data-large]"));
});

// Pictures dropped or pasted anywhere go into the form and are sent.
function send(files) {
  const form = document.querySelector("form[data-drop]");
  const picture = [...files].find((file) => file.type.startsWith("image/")) || files[0];
  if (!form || !picture) return;
  const carried = new DataTransfer();
  carried.items.add(picture);
  form.querySelector("input[type=file]").files = carried.files;
  status.textContent = "Searching with your picture";
  form.requestSubmit();
}

function carriesFiles(event) {
  return [...(event.dataTransfer?.types || [])].includes("Files");
}

function openForm() {
  const form = main.querySelector("form[data-drop]");
  if (!form) return;
  const part = form.closest("details");
  if (part) part.open = true;
  form.scrollIntoView({ block: "nearest" });
}

let depth = 0;
addEventListener("dragenter", (event) => { if (carriesFiles(event)) { depth += 1; root.classList.add("dropping"); openForm(); } });
addEventListener("dragleave", (event) => { if (carriesFiles(event) && --depth <= 0) { depth = 0; root.classList.remove("dropping"); } });
addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  depth = 0;
  root.classList.remove("dropping");
  send(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) { event.preventDefault(); send(event.clipboardData.files); }
});

// A wrong file is answered at the address of the form; the address of the page itself can be opened again.
if (location.pathname.endsWith("/upload") && main.dataset.address) history.replaceState({}, "", main.dataset.address);
fold();
prepareLists();
