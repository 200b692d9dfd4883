
"use strict";
// Sort, find, narrow down, show large. Without this script the page is a table, and pictures are links.
const body = document.querySelector("#table tbody");
const rows = [...body.rows];
const heads = [...document.querySelectorAll("#table thead th")];
const [find, which, order, shown] = ["find", "which", "order", "shown"].map((id) => document.getElementById(id));
const texts = rows.map((row) => row.cells[2].textContent.toLowerCase());
document.getElementById("controls").hidden = false;
document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());

function narrow() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let number = 0;
  rows.forEach((row, i) => {
    const kinds = row.dataset.is.split(" ");
    row.hidden = !((!which.value || kinds.includes(which.value)) && words.every((word) => texts[i].includes(word)));
    number += !row.hidden;
  });
  shown.textContent = `${number} of ${rows.length} shown`;
}

function sortBy(column, down) {
  const numbers = heads[column].dataset.kind === "number";
  const value = (row) => {
    const text = row.cells[column].dataset.value;
    return text === undefined ? null : numbers ? Number(text) : text;
  };
  const sorted = rows.map((row) => [value(row), row]);
  sorted.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
    const ascending = numbers ? a - b : a.localeCompare(b, undefined, { numeric: true });
    return down ? -ascending : ascending;
  });
  body.append(...sorted.map(([, row]) => row));
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  order.value = String(column);
}

heads.forEach((head, i) => {
  if (!head.dataset.kind) return;
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  const first = i > 2 && button.textContent.trim() !== "confidence"; // most first, but least of confidence
  button.addEventListener("click", () => {
    const now = head.getAttribute("aria-sort");
    sortBy(i, now === null ? first : now === "ascending");
  });
  const name = i === 0 ? "those to look at first" : button.textContent.trim();
  order.append(new Option(name, String(i)));
  head.dataset.down = first ? "yes" : "";
});
order.addEventListener("change", () => sortBy(Number(order.value), heads[Number(order.value)].dataset.down === "yes"));
find.addEventListener("input", narrow);
which.addEventListener("change", narrow);

const [dialog, picture, trouble] = ["dialog", "dialog-picture", "dialog-trouble"].map((id) => document.getElementById(id));
let current = null;

function show(link) {
  current = link;
  const name = link.closest("tr").querySelector(".name").textContent;
  document.getElementById("dialog-name").textContent = name;
  trouble.hidden = true;
  picture.alt = `slices of ${name}, and the labels over them`;
  picture.src = link.href;
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const links = [...body.querySelectorAll("tr:not([hidden]) a.large")];
  const next = links[links.indexOf(current) + by];
  if (next) show(next);
}

picture.addEventListener("error", () => {
  const small = current.querySelector("img");
  trouble.hidden = false;
  if (small && picture.src !== small.src) picture.src = small.src;
});
body.addEventListener("click", (event) => {
  const link = event.target.closest("a.large");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link);
});
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
dialog.addEventListener("close", () => current && current.focus());
document.getElementById("before").addEventListener("click", () => step(-1));
document.getElementById("after").addEventListener("click", () => step(1));
document.getElementById("close").addEventListener("click", () => dialog.close());
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
narrow();
