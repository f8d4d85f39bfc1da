"use strict";
// Search, filter, sort and page the rows; sort the anchors. Without it the page shows everything in rank order.
const PAGE = 25;
const list = document.getElementById("list");
const items = Array.from(list.children);
const texts = new Map();
const search = document.getElementById("search");
const status = document.getElementById("status");
const sort = document.getElementById("sort");
const found = document.getElementById("found");
const more = document.getElementById("more");
let shown = PAGE;

function textOf(item) {
  if (!texts.has(item)) texts.set(item, item.textContent.toLowerCase());
  return texts.get(item);
}

function update() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = items.filter(
    (item) =>
      (!status.value || item.dataset.status === status.value) &&
      words.every((word) => textOf(item).includes(word)),
  );
  const visible = new Set(fits.slice(0, shown));
  for (const item of items) item.hidden = !visible.has(item);
  found.value = `${fits.length} ${fits.length === 1 ? "row" : "rows"}`;
  more.hidden = fits.length <= shown;
  more.textContent = `Show ${Math.min(4 * PAGE, fits.length - shown)} more of ${fits.length - shown}`;
}

function restart() {
  shown = PAGE;
  update();
}

function key(item) {
  const value = item.dataset[sort.value];
  if (value === "") return Infinity;
  return sort.value === "gain" || sort.value === "length" ? -Number(value) : Number(value);
}

sort.addEventListener("change", () => {
  items.sort((a, b) => key(a) - key(b) || Number(a.dataset.place) - Number(b.dataset.place));
  list.append(...items);
  restart();
});
search.addEventListener("input", restart);
status.addEventListener("change", restart);
more.addEventListener("click", () => {
  shown += 4 * PAGE;
  update();
});
search.form.addEventListener("submit", (event) => event.preventDefault());
update();

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim().replace("−", "-").replace(/[%,]/g, "");
    return text === "" || Number.isNaN(Number(text)) ? -Infinity : Number(text);
  };
  Array.from(table.tHead.rows[0].cells).forEach((cell, column) => {
    if (column === 1) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent;
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") !== "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      const rows = Array.from(body.rows);
      rows.sort((a, b) => {
        const x = value(a, column);
        const y = value(b, column);
        return x === y ? 0 : sign * (x < y ? -1 : 1);
      });
      body.append(...rows);
    });
  });
}
