"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Light and dark: the system's choice until the button is pressed.
const theme = byId("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  const other = name === "dark" ? "light" : "dark";
  theme.textContent = other;
  theme.setAttribute("aria-label", `switch to ${other} colours`);
}
let chosenTheme = null;
setTheme(system.matches ? "dark" : "light");
system.addEventListener("change", () => chosenTheme || setTheme(system.matches ? "dark" : "light"));
theme.addEventListener("click", () => {
  chosenTheme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  setTheme(chosenTheme);
});

// Marks of plots and rows of the table stand for runs.
const rows = all("#run-table tbody tr");
const marks = all(".mark").map((element) => ({ element, runs: element.dataset.runs.split(" ").map(Number) }));
const runsOf = new Map(marks.map((mark) => [mark.element, mark.runs]));
const tip = byId("tip");
let shown = new Set(data.runs.keys());

function point(runs) {
  const hot = new Set(runs);
  for (const mark of marks) mark.element.classList.toggle("hot", mark.runs.some((run) => hot.has(run)));
  for (const row of rows) row.classList.toggle("hot", hot.has(Number(row.dataset.run)));
  for (const svg of all(".plot svg")) svg.classList.toggle("pointing", hot.size > 0);
}

function showTip(mark) {
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  const box = mark.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 10;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 10}px`;
}

function leave() {
  tip.hidden = true;
  point([]);
}

for (const svg of all(".plot svg")) {
  const own = () => all(".mark", svg).filter((mark) => !mark.classList.contains("dim") && mark.querySelector("circle, polygon, polyline"));
  let at = -1;
  svg.addEventListener("pointerover", (event) => {
    const mark = event.target.closest(".mark");
    if (!mark) return leave();
    point(runsOf.get(mark));
    showTip(mark);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("click", (event) => {
    const mark = event.target.closest(".mark");
    if (mark) choose(runsOf.get(mark)[0]);
  });
  // Arrow keys go from mark to mark.
  svg.addEventListener("keydown", (event) => {
    const list = own();
    if (!list.length) return;
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      at = (at + (event.key === "ArrowRight" ? 1 : -1) + list.length) % list.length;
      point(runsOf.get(list[at]));
      showTip(list[at]);
      event.preventDefault();
    } else if (event.key === "Enter" && list[at]) {
      choose(runsOf.get(list[at])[0]);
    } else if (event.key === "Escape") {
      leave();
    }
  });
}
addEventListener("scroll", () => (tip.hidden = true), { passive: true });

for (const row of rows) {
  const run = Number(row.dataset.run);
  row.addEventListener("pointerenter", () => point([run]));
  row.addEventListener("pointerleave", leave);
  row.addEventListener("click", () => choose(run));
  row.addEventListener("keydown", (event) => event.key === "Enter" && choose(run));
}

// Sorting: numbers by value, words by letter; what has no value comes last.
for (const [column, header] of all("#run-table th").entries()) {
  header.setAttribute("aria-sort", "none");
  header.querySelector("button").addEventListener("click", () => {
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of all("#run-table th")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const isNumber = header.classList.contains("number");
    const value = (row) => row.cells[column].dataset.value;
    const order = (a, b) => (isNumber ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return up ? order(x, y) : order(y, x);
    });
    byId("run-table").tBodies[0].append(...rows);
  });
}

// Filters act on the table, on the plots and on the slider.
const filters = byId("filters");
function filter() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const selects = all("select", filters).filter((select) => select.value);
  shown = new Set();
  for (const [i, run] of data.runs.entries()) {
    const text = [run.name, ...Object.values(run.axes)].join(" ").toLowerCase();
    const fits = selects.every((select) => ("status" in select.dataset ? run.status : run.axes[select.dataset.axis]) === select.value);
    if (fits && words.every((word) => text.includes(word))) shown.add(i);
  }
  for (const row of rows) row.hidden = !shown.has(Number(row.dataset.run));
  for (const mark of marks) mark.element.classList.toggle("dim", !mark.runs.some((run) => shown.has(run)));
  byId("shown").textContent = `${shown.size} of ${data.runs.length} runs`;
  fillSlider();
}
filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(filter));

// Pictures of the runs that are shown, one run at a time.
const slider = byId("slider");
let withPictures = [];
function fillSlider() {
  if (!slider) return;
  const before = withPictures[slider.value];
  withPictures = [...shown].filter((run) => data.runs[run].pictures.length);
  slider.max = Math.max(0, withPictures.length - 1);
  slider.disabled = withPictures.length < 2;
  slider.value = Math.max(0, withPictures.indexOf(before));
  drawPictures();
}
function drawPictures() {
  const run = data.runs[withPictures[slider.value]];
  const name = run ? `${run.name} (${Number(slider.value) + 1} of ${withPictures.length})` : "no run with pictures is shown";
  byId("slider-name").textContent = name;
  slider.setAttribute("aria-valuetext", name);
  byId("grid").replaceChildren(...(run ? run.pictures.map(picture) : []));
}
function picture({ src, prompt, verdict, right }) {
  const figure = document.createElement("figure");
  const image = document.createElement("img");
  image.src = src;
  image.alt = `drawn from: ${prompt}`;
  const caption = document.createElement("figcaption");
  caption.textContent = prompt;
  if (verdict) {
    const says = document.createElement("span");
    const sign = right === true ? "✓ " : right === false ? "✗ " : "";
    says.className = `verdict ${right === true ? "right" : right === false ? "wrong" : ""}`;
    says.textContent = sign + verdict;
    caption.append(says);
  }
  figure.append(image, caption);
  return figure;
}
if (slider) slider.addEventListener("input", drawPictures);

// Two configs, or one and what most runs have: the keys that differ.
const [left, right] = [byId("left"), byId("right")];
function valuesOf(choice) {
  const values = new Map(Object.entries(data.common));
  if (choice === "common") return values;
  for (const [key, value] of Object.entries(data.runs[choice].diff)) value === null ? values.delete(key) : values.set(key, value);
  return values;
}
function drawDiff() {
  const [a, b] = [valuesOf(left.value), valuesOf(right.value)];
  const keys = [...new Set([...a.keys(), ...b.keys()])].sort();
  const differing = keys.filter((key) => a.get(key) !== b.get(key));
  const lines = differing.map((key) => {
    const row = document.createElement("tr");
    for (const text of [key, a.get(key) ?? "–", b.get(key) ?? "–"]) row.insertCell().textContent = text;
    return row;
  });
  byId("left-name").textContent = left.selectedOptions[0].textContent;
  byId("right-name").textContent = right.selectedOptions[0].textContent;
  byId("diff").tBodies[0].replaceChildren(...lines);
  byId("same").textContent = `${differing.length} keys differ, ${keys.length - differing.length} are the same.`;
}
if (left) {
  left.addEventListener("input", drawDiff);
  right.addEventListener("input", drawDiff);
  drawDiff();
}

// A chosen run is shown everywhere.
function choose(run) {
  for (const row of rows) row.classList.toggle("chosen", Number(row.dataset.run) === run);
  if (slider && withPictures.includes(run)) {
    slider.value = withPictures.indexOf(run);
    drawPictures();
  }
  if (left && data.runs[run].has_config) {
    left.value = run;
    drawDiff();
  }
}
filter();
