"use strict";

// Hover: what a mark of a chart stands for, at once. Without this script the browser shows the same titles, only later.
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);
for (const title of document.querySelectorAll(".chart title")) {
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}
document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest("[data-tip]");
  tip.hidden = !mark;
  if (!mark) return;
  const below = document.elementsFromPoint(event.clientX, event.clientY).filter((each) => each.dataset.tip);
  tip.textContent = below.map((each) => each.dataset.tip).join("\n");
  const place = mark.getBoundingClientRect();
  const left = place.left + place.width / 2 - tip.offsetWidth / 2;
  tip.style.left = `${Math.max(4, Math.min(left, document.documentElement.clientWidth - tip.offsetWidth - 4)) + scrollX}px`;
  tip.style.top = `${Math.max(0, place.top - tip.offsetHeight - 6) + scrollY}px`;
});

// Zoom: an item of the gallery, large; the arrow keys go on to its neighbours.
const zoom = document.getElementById("zoom");
const items = [...document.querySelectorAll(".gallery figure")];
let shown = 0;
function enlarge(place) {
  shown = (place + items.length) % items.length;
  const copy = items[shown].cloneNode(true);
  copy.querySelector("button").replaceWith(copy.querySelector(".triple"));
  for (const image of copy.querySelectorAll("img")) {
    const [framed, words] = [document.createElement("div"), document.createElement("span")];
    words.textContent = image.alt.replace(/^Sample \d+, /, "");
    image.replaceWith(framed);
    framed.append(image, words);
  }
  zoom.firstElementChild.replaceChildren(copy);
  if (!zoom.open) zoom.showModal();
}
items.forEach((item, place) => {
  const button = document.createElement("button");
  button.className = "enlarge";
  button.ariaLabel = `Enlarge sample ${item.dataset.id}`;
  const triple = item.querySelector(".triple");
  triple.replaceWith(button);
  button.append(triple);
  button.addEventListener("click", () => enlarge(place));
});
zoom?.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) enlarge(shown + step);
});
zoom?.addEventListener("click", (event) => {
  const step = event.target.dataset.step;
  if (step) enlarge(shown + Number(step));
  else if (event.target === zoom || event.target.dataset.close) zoom.close();
});

// Samples: every one of every run, filtered, sorted, a page at a time.
const PAGE = 25;
for (const browser of document.querySelectorAll(".samples")) {
  const { classes, stages, radii, levels, rows } = JSON.parse(browser.querySelector("script").textContent);
  const [body, form, count] = ["tbody", "form", "output"].map((name) => browser.querySelector(name));
  const pictures = new Map(items.filter((item) => item.dataset.run === browser.dataset.run).map((item) => [item.dataset.id, item]));
  let order = 0, ascending = true, first = 0;

  const name = (label) => classes[label] ?? String(label);
  const outcome = ([, , , stage]) => (stage < 0 ? "held" : stage === 0 ? "wrong" : "broken");
  function wanted() {
    const { outcome: fate, stage, label, id } = Object.fromEntries(new FormData(form));
    return (row) => (!fate || outcome(row) === fate) && (!stage || row[3] === Number(stage)) && (!label || row[1] === Number(label)) &&
      (!id || String(row[0]).startsWith(id.trim()));
  }
  const logits = (margin) => margin.toFixed(3).replace("-", "\u2212");
  const away = (distance) => levels ? `${Number((255 * distance).toPrecision(3))}/255` : Number(distance.toPrecision(3));
  function compare(a, b) {
    const [one, two] = [a[order], b[order]];
    if (one === null || two === null) return (one === null) - (two === null); // what was not measured comes last
    return (ascending ? 1 : -1) * (one - two) || a[0] - b[0];
  }
  function cell(text, kind) {
    const found = document.createElement("td");
    found.textContent = text;
    if (kind) found.className = kind;
    return found;
  }
  function line(row) {
    const [id, label, predicted, stage, eps, distance, margin] = row;
    const found = document.createElement("tr");
    const fate = { held: "held", wrong: "wrong when clean", broken: "broken" }[outcome(row)];
    found.append(
      cell(id, "num"), cell(name(label)), cell(stage < 0 ? "" : name(predicted)), cell(fate), cell(stage > 0 ? stages[stage] : ""),
      cell(stage > 0 ? radii[eps] : "", "num"), cell(stage > 0 ? away(distance) : "", "num"),
      cell(margin === null ? "" : logits(margin), "num"), cell(""),
    );
    const picture = pictures.get(String(id));
    if (picture) {
      const button = document.createElement("button");
      button.className = "thumbnails";
      button.ariaLabel = `Enlarge sample ${id}`;
      button.append(...[...picture.querySelectorAll("img")].slice(0, 2).map((image) => image.cloneNode()));
      button.addEventListener("click", () => enlarge(items.indexOf(picture)));
      found.lastChild.append(button);
    }
    return found;
  }
  function show() {
    const found = rows.filter(wanted()).sort(compare);
    first = Math.max(0, Math.min(first, Math.floor((found.length - 1) / PAGE) * PAGE));
    body.replaceChildren(...found.slice(first, first + PAGE).map(line));
    const last = Math.min(first + PAGE, found.length);
    count.textContent = found.length ? `${first + 1} to ${last} of ${found.length} (${rows.length} in all)` : `none of ${rows.length}`;
    browser.querySelector("[data-turn='-1']").disabled = first === 0;
    browser.querySelector("[data-turn='1']").disabled = last === found.length;
    for (const head of browser.querySelectorAll("th[data-order]")) {
      head.ariaSort = Number(head.dataset.order) !== order ? "none" : ascending ? "ascending" : "descending";
    }
  }
  form.addEventListener("input", () => { first = 0; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  browser.addEventListener("click", (event) => {
    const head = event.target.closest("th[data-order]");
    if (head) {
      [ascending, order] = [Number(head.dataset.order) !== order || !ascending, Number(head.dataset.order)];
      first = 0;
      show();
    }
    if (event.target.dataset.turn) {
      first += PAGE * Number(event.target.dataset.turn);
      show();
    }
  });
  browser.hidden = false;
  show();
}
