// Owns how figures become text, rows and lines. Nothing here makes markup of a text: names come from whoever connects.

const SVG = document.getElementById("pulse").namespaceURI;

// What would move the cursor, turn the line around or not be seen at all is shown by a sign of its own.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

function nameText(name) {
  return name === "" ? "(none)" : name.replace(UNSEEN, "\ufffd");
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function make(tag, look, ...children) {
  const made = document.createElement(tag);
  if (look) made.className = look;
  made.append(...children);
  return made;
}

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Three digits that count.
function numberText(value) {
  const digits = value >= 99.95 || value === 0 ? 0 : value >= 9.995 ? 1 : value >= 0.9995 ? 2 : 3;
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// What has no fraction.
function countText(value) {
  return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
}

function percentText(share) {
  return `${(100 * share).toLocaleString("en-US", { maximumFractionDigits: share < 0.0995 ? 1 : 0 })} %`;
}

function megabytesText(bytes) {
  return numberText(bytes / 1e6);
}

function sizeText(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? bytes : numberText(bytes)} ${units[unit]}`;
}

function timeText(us) {
  if (us >= 1e6) return `${numberText(us / 1e6)} s`;
  return us >= 1000 ? `${numberText(us / 1000)} ms` : `${numberText(us)} \u00b5s`;
}

function durationText(seconds) {
  if (seconds < 1) return "under 1 s";
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => seconds >= size);
  const told = parts.slice(first, first + 2);
  return told.map(([size, unit], place) => `${Math.floor(place ? (seconds % parts[first][0]) / size : seconds / size)} ${unit}`).join(" ");
}

// Rows of a table, in place: what somebody has marked or points at stays where it is. A column has a head, a look and the
// text of a row.
function fillTable(table, columns, rows, nothing) {
  if (!table.tHead) {
    const heads = columns.map((column) => make("th", column.look, column.head));
    table.append(make("thead", "", make("tr", "", ...heads)), make("tbody"));
  }
  const body = table.tBodies[0];
  table.tHead.hidden = rows.length === 0;
  if (rows.length === 0) {
    if (!body.querySelector(".nothing")) body.replaceChildren(make("tr", "", make("td", "nothing", nothing)));
    return say(body.querySelector(".nothing"), nothing);
  }
  if (body.querySelector(".nothing")) body.replaceChildren();
  while (body.rows.length > rows.length) body.rows[body.rows.length - 1].remove();
  rows.forEach((row, index) => {
    if (!body.rows[index]) body.append(make("tr", "", ...columns.map((column) => make("td", column.look, make("bdi")))));
    columns.forEach((column, place) => say(body.rows[index].cells[place].firstChild, column.text(row)));
  });
}

// A round number that is no smaller.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((bound) => bound >= value * 0.999) ?? 10 * power;
}

const HEIGHT = 120;

// Lines over the last `seconds` before `now`; of each line its look and its points: when, in seconds, and how high.
function drawLines(box, lines, now, seconds) {
  const width = Math.max(200, box.clientWidth);
  const most = Math.max(1e-3, ...lines.flatMap((line) => line.points.map((point) => point[1])));
  const top = roundUp(most);
  const y = (value) => HEIGHT - 6 - (value / top) * (HEIGHT - 20);
  const x = (when) => 40 + (1 - (now - when) / seconds) * (width - 44);
  const picture = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": lines.map((line) => line.name).join(", ") });
  for (const tick of [0, top / 2, top]) {
    const text = shape("text", { x: 34, y: y(tick) + 4, "text-anchor": "end" });
    text.textContent = tick === 0 ? "0" : `${+tick.toPrecision(2)}`;
    picture.append(shape("line", { class: "grid", x1: 40, x2: width, y1: y(tick), y2: y(tick) }), text);
  }
  for (const line of lines) {
    const points = line.points.filter((point) => now - point[0] <= seconds);
    if (points.length === 0) continue;
    const d = points.map((point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`).join("L");
    picture.append(shape("path", { class: `line ${line.look}`, d: `M${d}` }));
  }
  box.replaceChildren(picture);
}

// Parts of a whole one on top of the other; of each moment when it was and its parts, which make 1 at the most.
function drawParts(box, moments, now, seconds) {
  const picture = shape("svg", { viewBox: `0 0 ${seconds} 1`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const shown = moments.filter((moment) => now - moment.at <= seconds);
  const floor = shown.map(() => 0);
  const count = shown.at(-1)?.parts.length ?? 0;
  for (let part = 0; part < count; part += 1) {
    const x = shown.map((moment) => (seconds - (now - moment.at)).toFixed(2));
    const lower = shown.map((_, place) => `${x[place]},${(1 - floor[place]).toFixed(4)}`);
    shown.forEach((moment, place) => (floor[place] = Math.min(1, floor[place] + (moment.parts[part] ?? 0))));
    const upper = shown.map((_, place) => `${x[place]},${(1 - floor[place]).toFixed(4)}`);
    picture.append(shape("path", { class: `c${part}`, d: `M${[...upper, ...lower.reverse()].join("L")}Z` }));
  }
  box.replaceChildren(picture);
}
