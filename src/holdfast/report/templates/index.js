"use strict";

// Filter by words, sort by a column, and the command that compares the runs that are chosen.
const table = document.querySelector("table");
const body = table.tBodies[0];
const rows = [...body.rows];
const [words, count, command] = ["words", "count", "command"].map((id) => document.getElementById(id));

function show() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  count.textContent = shown === rows.length ? `${rows.length} runs` : `${shown} of ${rows.length} runs`;
}

function quoted(text) {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

table.addEventListener("change", () => {
  const chosen = rows.map((row) => row.querySelector("input")).filter((input) => input?.checked).map((input) => quoted(input.value));
  command.hidden = chosen.length < 2;
  command.textContent = `holdfast compare ${chosen.join(" ")}`;
});

table.tHead.addEventListener("click", (event) => {
  const head = event.target.closest("th");
  if (!head?.querySelector("button")) return;
  const down = head.ariaSort === "ascending";
  for (const other of table.tHead.rows[0].cells) other.ariaSort = "none";
  head.ariaSort = down ? "descending" : "ascending";
  const key = (row) => {
    const { dataset, textContent } = row.cells[head.cellIndex];
    return dataset.value === undefined ? textContent : dataset.value === "" ? NaN : Number(dataset.value);
  };
  const compare = (one, two) => {
    const [a, b] = [key(one), key(two)];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // what was not measured comes last
    return (down ? -1 : 1) * (typeof a === "number" ? a - b : a.localeCompare(b));
  };
  body.append(...rows.sort(compare));
});

words.addEventListener("input", show);
words.form.hidden = false;
words.form.addEventListener("submit", (event) => event.preventDefault());
show();
