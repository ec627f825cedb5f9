// Owns what pages are put together from: figures of the report within the page, each read by its path there, which stands beside it
// as `data-path`; tables; cards with charts. The drawing is in charts.js, what a page says in a script behind this one.

const report = JSON.parse(document.getElementById("report").textContent);

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// What stands at a path such as /workloads/0/rows.
function at(path) {
  return path.split("/").slice(1).reduce((part, name) => part?.[name], report);
}

function numberText(value, digitsMin = 0) {
  const digits = [1000, 100, 10].findIndex((bound) => Math.abs(value) >= bound);
  const digitsMax = digits < 0 ? 3 : digits;
  return value.toLocaleString("en-US", { minimumFractionDigits: Math.min(digitsMin, digitsMax), maximumFractionDigits: digitsMax });
}

// What is counted has no fraction.
const WHOLE = /(count|records|flushes|rate|Rate|checked|bytes|depth|readers)$/;

// One figure of the report, or a dash where it has none.
function figure(path) {
  const value = at(path);
  if (value === null || value === undefined) return make("span", {}, "–");
  return make("span", { "data-path": path }, numberText(value, WHOLE.test(path) ? 0 : 3));
}

function table(heads, rows, look = "") {
  const cells = (tag, row) => make("tr", {}, ...row.map((cell) => make(tag, {}, cell)));
  const body = make("tbody", {}, ...rows.map((row) => cells("td", row)));
  return make("div", { class: "card wide" }, make("table", { class: look }, make("thead", {}, cells("th", heads)), body));
}

// What belongs together on one line.
function together(...parts) {
  return make("span", { class: "together" }, ...parts);
}

function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en-US")} ${number === 1 ? one : many}`;
}

// A percentile curve; the largest latency of all stands where one record in so many is.
function curve(path, stage) {
  const summary = at(`${path}/${stage}`);
  const odds = (percent) => (percent < 100 ? 100 / (100 - percent) : summary.count);
  return summary ? summary.curve.map(([percent, ms]) => [Math.max(1, odds(percent)), ms]) : [];
}

function chartCard(chart, about, look = "") {
  const lines = chart.lines.filter((line) => line.points.length > 0);
  if (lines.length === 0) return null;
  const legend = lines.filter((line) => !line.faint).map((line) => {
    const look = `line c${line.colour} d${line.dash}`;
    const swatch = shape("svg", { width: 24, height: 10, "aria-hidden": "true" }, shape("path", { class: look, d: "M1,5H23" }));
    return make("li", {}, swatch, line.name, line.badge ? " " : null, line.badge ?? null);
  });
  const box = make("div", { class: "plot" });
  pictures.push(() => drawChart({ ...chart, lines }, box));
  const caption = make("figcaption", {}, make("h3", {}, chart.title), about);
  return make("figure", { class: `card ${look}` }, caption, make("ul", { class: "legend" }, ...legend), box, chart.note ? make("p", { class: "note soft" }, chart.note) : null);
}

// What can only be drawn when it is known how wide the page is.
const pictures = [];
let drawnWidth = 0;

function drawAll() {
  drawnWidth = innerWidth;
  pictures.forEach((draw) => draw());
}

// The page, and its pictures again whenever its width changes.
function show(parts) {
  document.getElementById("page").replaceChildren(...parts);
  drawAll();
  // A phone changes its height all the time.
  addEventListener("resize", () => innerWidth !== drawnWidth && drawAll());
}
