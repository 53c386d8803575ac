"use strict";
// Everything is readable without this script; it points, sorts and blends.

const tip = document.getElementById("tip");

function showTip(target, x, y) {
  tip.textContent = target.dataset.tip;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x - width / 2, innerWidth - width - 4))}px`;
  tip.style.top = `${y - height - 14 > 4 ? y - height - 14 : y + 18}px`;
}

function tellFocused() {
  const place = document.activeElement;
  if (!place.dataset.tip || !place.matches(":focus-visible")) return;
  const box = place.getBoundingClientRect();
  showTip(place, box.left + box.width / 2, box.top);
}
addEventListener("scroll", () => { if (!tip.hidden) tellFocused(); }, { capture: true, passive: true });

// In a group one element takes part in the order of Tab, and arrows lead from it to the others.
function rove(group, items, step) {
  let current = items[0];
  group.addEventListener("focusin", (event) => {
    if (!items.includes(event.target)) return;
    current.tabIndex = -1;
    current = event.target;
    current.tabIndex = 0;
  });
  group.addEventListener("keydown", (event) => {
    const to = step(event.key, items.indexOf(current));
    if (to === undefined || document.activeElement !== current) return;
    event.preventDefault();
    items[to]?.focus();
  });
}

for (const chart of document.querySelectorAll("svg.chart")) {
  const places = [...chart.querySelectorAll("[data-tip]")];
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  rove(chart, places, (key, at) =>
    key === "Home" ? 0 : key === "End" ? places.length - 1 : key in steps ? at + steps[key] : undefined);
  for (const place of places) {
    place.addEventListener("pointermove", (event) => showTip(place, event.clientX, event.clientY));
    place.addEventListener("pointerleave", () => { tip.hidden = true; });
    place.addEventListener("focus", tellFocused);
    place.addEventListener("blur", () => { tip.hidden = true; });
  }
}
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

const { names, confusion } = JSON.parse(document.getElementById("data").textContent);
const matrix = document.querySelector(".matrix");
const readout = document.getElementById("readout");
const cells = [...matrix.querySelectorAll("td")];
const columns = [...matrix.querySelectorAll("thead th.up")];
const rows = [...matrix.querySelectorAll("tbody th")];

function read(cell) {
  for (const each of matrix.querySelectorAll(".on")) each.classList.remove("on");
  const at = cells.indexOf(cell);
  if (at < 0) return;
  const row = Math.floor(at / names.length), column = at % names.length;
  for (const each of [cell, rows[row], columns[column]]) each.classList.add("on");
  const total = confusion[row].reduce((sum, n) => sum + n, 0), n = confusion[row][column];
  if (!total) {
    readout.textContent = `${names[row]} is not in truth.`;
    return;
  }
  const share = `${(100 * n / total).toFixed(2)} % (${n.toLocaleString("en")} of ${total.toLocaleString("en")} pixels)`;
  readout.textContent = row === column
    ? `${names[row]}: ${share} found.`
    : `${names[row]} taken for ${names[column]}: ${share}.`;
}
// Not pointerover, which a page that scrolls under a resting pointer sends too.
matrix.addEventListener("pointermove", (event) => read(event.target.closest("td")));
matrix.addEventListener("focusin", (event) => read(event.target));
rove(matrix, cells, (key, at) => {
  const k = names.length, column = at % k;
  return {
    ArrowRight: column < k - 1 ? at + 1 : at, ArrowLeft: column ? at - 1 : at, ArrowDown: at + k, ArrowUp: at - k,
    Home: at - column, End: at - column + k - 1,
  }[key];
});

const table = document.querySelector("[data-sortable]");
const heads = [...table.querySelectorAll("thead th")];
heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
  const upwards = column === 0 ? head.ariaSort !== "ascending" : head.ariaSort === "descending";
  for (const each of heads) each.ariaSort = "none";
  head.ariaSort = upwards ? "ascending" : "descending";
  const value = (row) => Number(row.children[column].dataset.value) * (upwards ? 1 : -1);
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => value(a) - value(b)));
}));

const opacity = document.getElementById("opacity");
function blend() {
  document.getElementById("images").style.setProperty("--opacity", opacity.value / 100);
}
opacity.addEventListener("input", blend);
blend(); // a browser may bring back the value of a former visit
