"use strict";
// The page works without this file; it adds keys within lists, pictures dropped or pasted, and changes in place.

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

main.addEventListener("keydown", (event) => {
  const grid = event.target.closest("[data-grid]");
  if (!grid || event.altKey || event.ctrlKey || event.metaKey) return;
  const items = links(grid);
  const place = items.indexOf(event.target);
  const to = place < 0 ? null : target(event.key, place, items);
  if (to !== null) {
    event.preventDefault();
    items[place].tabIndex = -1;
    items[to].tabIndex = 0;
    items[to].focus();
    return;
  }
  if (!main.querySelector(".search") || event.shiftKey) return;
  if (event.key === "n" || event.key === "p") {
    const link = document.getElementById(event.key === "n" ? "next" : "previous");
    if (link) swap(link.href, "first");
  } else if (event.key === "m") change("maps", 1);
  else if (event.key === "b") change("right", 1);
  else return;
  event.preventDefault();
});

main.addEventListener("focusin", (event) => {
  const grid = event.target.closest("[data-grid]");
  if (grid) links(grid).forEach((link) => { link.tabIndex = link === event.target ? 0 : -1; });
});

// Changes in place: fetch the page, take its main part, say what came.
let asked = 0;
async function swap(address, focus, push = true) {
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
  const open = main.querySelector("details.own")?.open;
  main.replaceChildren(...fresh.childNodes);
  main.classList.remove("busy");
  main.removeAttribute("aria-busy");
  document.title = page.title;
  if (push) history.pushState({}, "", address);
  if (open) main.querySelector("details.own")?.setAttribute("open", "");
  prepareLists();
  announce();
  const grids = main.querySelectorAll("[data-grid]");
  const grid = grids[Math.min(Math.max(panel, 0), grids.length - 1)];
  const again = focus === "first" ? null : document.getElementById(id);
  const place = again || (focus === "first" || panel >= 0 ? grid?.querySelector("a") : null) || main;
  if (place !== main || focus === "first") place.focus({ preventScroll: focus !== "first" });
  if (focus === "first") scrollTo(0, 0);
}

main.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-swap]");
  if (!link || event.button || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  swap(link.href, link.closest("[data-grid]") ? "first" : "same");
});

main.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("form[data-swap]")) return;
  event.preventDefault();
  const address = new URL(form.action);
  address.search = new URLSearchParams(new FormData(form)).toString();
  swap(address.href, "same");
});

main.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-swap]");
  if (form) form.requestSubmit();
});

addEventListener("popstate", () => swap(location.href, "same", false));

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

let depth = 0;
addEventListener("dragenter", (event) => { if (carriesFiles(event)) { depth += 1; root.classList.add("dropping"); main.querySelector("details.own")?.setAttribute("open", ""); } });
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

prepareLists();
