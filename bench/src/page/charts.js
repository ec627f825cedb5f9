// Owns drawing: charts of lines, and intervals beside a table, as SVG of the width that there is. Knows nothing of reports.

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A scale maps values to pixels, and knows where its ticks are.
function linearScale(low, high, from, to, room) {
  const step = niceStep((high - low) / Math.max(1, room));
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9); tick * step <= high + step * 1e-9; tick++) ticks.push(tick * step);
  return { kind: "linear", low, high, from, to, ticks, at: (value) => from + ((value - low) / (high - low)) * (to - from) };
}

function logScale(low, high, from, to, ticks) {
  const span = Math.log(high / low);
  return {
    kind: "log", low, high, from, to, ticks,
    at: (value) => from + (Math.log(Math.max(value, low) / low) / span) * (to - from),
  };
}

// 1, 2 or 5 times a power of ten.
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((step) => step * power >= least * (1 - 1e-9));
}

function niceBelow(value) {
  const power = 10 ** Math.floor(Math.log10(value) + 1e-9);
  return power * [5, 2, 1].find((step) => step * power <= value * (1 + 1e-9));
}

function logTicks(low, high) {
  const ticks = [];
  const steps = high / low > 300 ? [1] : [1, 2, 5];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
    ticks.push(...steps.map((step) => step * power).filter((tick) => tick >= low * 0.999 && tick <= high * 1.001));
  }
  return ticks;
}

// Values from 0 on, where they are not told apart by their magnitude.
function heightScale(values, logarithmic, from, to) {
  const positive = values.filter((value) => value > 0);
  if (logarithmic && positive.length > 0) {
    const low = niceBelow(Math.min(...extent(positive)));
    const high = Math.max(niceStep(extent(positive)[1]), low * 10);
    return logScale(low, high, from, to, logTicks(low, high));
  }
  const most = positive.length > 0 ? extent(positive)[1] : 1;
  const step = niceStep(most / 4);
  return linearScale(0, Math.ceil(most / step + 0.02) * step, from, to, 5);
}

// Least and largest; series may be too long to be arguments.
function extent(values) {
  return values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
}

function tickText(value) {
  if (value >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (value >= 10000) return `${+(value / 1e3).toPrecision(3)}k`;
  return `${+value.toPrecision(6)}`;
}

function percentText(odds) {
  const percent = 100 - 100 / odds;
  return `${+percent.toFixed(Math.max(0, Math.round(Math.log10(odds)) - 2))}%`;
}

// What values of an x axis are, in short and where there is room. Those of "percentile" are 1 / (1 - share), and stand the
// further apart the rarer they are.
const AXES = {
  seconds: { below: "seconds", text: tickText, long: (seconds) => `${seconds.toFixed(0)} s` },
  percentile: { below: "of the records are faster", text: percentText, long: (odds) => `${+(100 - 100 / odds).toPrecision(7)}%` },
  bytes: { below: "bytes", text: bytesText, long: bytesText },
  number: { below: "", text: tickText, long: tickText },
};

// In the largest unit that leaves no rest.
function bytesText(bytes) {
  const [size, unit] = [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]].find(([size]) => bytes > 0 && bytes % size === 0) ?? [1, "B"];
  return `${bytes / size} ${unit}`;
}

// A chart has a title, lines of points and a kind of x axis; `chart.below` says what that counts. `chart.lines`: name, points, colour (a number), dash (a number) and
// `faint` for those that only stand behind others. `chart.mark`: a height that a thin line is drawn at, with its name.
function drawChart(chart, box) {
  const width = Math.max(260, box.clientWidth);
  const height = Math.round(Math.min(340, Math.max(210, width * 0.44)));
  const edge = { left: 46, right: 14, top: 22, bottom: 34 };
  const points = chart.lines.flatMap((line) => line.points);
  const heights = points.map((point) => point[1]).concat(chart.mark ? [chart.mark.height] : []);
  const y = heightScale(heights, chart.logarithmic, height - edge.bottom, edge.top);
  const x = widthScale(chart, points, edge.left, width - edge.right);
  const picture = shape("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${chart.title}, ${chart.unit}`,
    "data-x": [x.kind, x.low, x.high, x.from, x.to].join(" "), "data-y": [y.kind, y.low, y.high, y.from, y.to].join(" "),
  });
  drawAxes(picture, chart, x, y, edge, width, height);
  for (const line of chart.lines) drawLine(picture, line, x, y);
  box.replaceChildren(picture);
  followPointer(picture, chart, x, y, box);
}

function widthScale(chart, points, from, to) {
  const [least, most] = points.length > 0 ? extent(points.map((point) => point[0])) : [0, 1];
  if (chart.axis === "percentile") {
    const high = Math.max(100, most);
    const ticks = [2];
    for (let odds = 10; odds <= high * 1.001; odds *= 10) ticks.push(odds);
    return logScale(1, high, from, to, ticks);
  }
  if (chart.axis === "bytes" || chart.axis === "number") {
    const ticks = [...new Set(points.map((point) => point[0]))].sort((one, other) => one - other);
    return logScale(least, Math.max(most, least * 2), from, to, ticks);
  }
  return linearScale(Math.min(0, least), Math.max(1, most), from, to, Math.floor((to - from) / 60));
}

function drawAxes(picture, chart, x, y, edge, width, height) {
  const bottom = height - edge.bottom;
  if (chart.axis === "seconds" && x.low < 0) {
    picture.append(
      shape("rect", { class: "warm-up", x: x.from, y: edge.top, width: x.at(0) - x.from, height: bottom - edge.top }),
    );
    if (x.at(0) - x.from > 52) picture.append(shape("text", { class: "tick", x: x.from + 5, y: edge.top + 12 }, "warm-up"));
  }
  for (const tick of y.ticks) {
    const at = y.at(tick);
    picture.append(
      shape("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: at, y2: at }),
      shape("text", { class: "tick", x: edge.left - 6, y: at + 4, "text-anchor": "end" }, tickText(tick)),
    );
  }
  const { text, below } = AXES[chart.axis];
  for (const tick of x.ticks) {
    const at = x.at(tick);
    const last = at > width - edge.right - 14;
    picture.append(
      shape("line", { class: "grid", x1: at, x2: at, y1: x.kind === "log" ? edge.top : bottom, y2: bottom + 4 }),
      shape("text", { class: "tick", x: last ? width - 2 : at, y: bottom + 16, "text-anchor": last ? "end" : "middle" }, text(tick)),
    );
  }
  picture.append(
    shape("text", { class: "unit", x: 2, y: 12 }, chart.unit + (y.kind === "log" ? " (logarithmic)" : "")),
    shape("text", { class: "unit", x: width - 2, y: height - 3, "text-anchor": "end" }, chart.below ?? below),
  );
  if (chart.mark) {
    const at = y.at(chart.mark.height);
    picture.append(
      shape("line", { class: "mark", x1: edge.left, x2: width - edge.right, y1: at, y2: at }),
      shape("text", { class: "tick", x: width - edge.right, y: at - 4, "text-anchor": "end" }, chart.mark.name),
    );
  }
}

function drawLine(picture, line, x, y) {
  if (line.points.length === 0) return;
  const at = line.points.map((point) => `${x.at(point[0]).toFixed(2)},${y.at(point[1]).toFixed(2)}`);
  const look = `line c${line.colour} d${line.dash ?? 0}${line.faint ? " faint" : ""}`;
  picture.append(shape("path", { class: look, d: `M${at.join("L")}`, ...line.source }));
  // A line of few points would hardly show.
  if (line.points.length > 6 || line.faint) return;
  for (const point of line.points) {
    picture.append(shape("circle", { class: `dot c${line.colour}`, cx: x.at(point[0]), cy: y.at(point[1]), r: 3 }));
  }
}

// Says what the lines are at where somebody points.
function followPointer(picture, chart, x, y, box) {
  const rule = shape("line", { class: "rule", y1: y.to, y2: y.from, visibility: "hidden" });
  const bubble = document.createElement("div");
  bubble.className = "bubble";
  bubble.hidden = true;
  picture.append(rule);
  box.append(bubble);
  const lines = chart.lines.filter((line) => !line.faint && line.points.length > 0);
  const hide = () => {
    bubble.hidden = true;
    rule.setAttribute("visibility", "hidden");
  };
  picture.addEventListener("pointerleave", hide);
  picture.addEventListener("pointermove", (event) => {
    const left = event.clientX - picture.getBoundingClientRect().left;
    const distance = (point) => Math.abs(x.at(point[0]) - left);
    const nearest = lines.map((line) => line.points.reduce((best, point) => (distance(point) < distance(best) ? point : best)));
    if (nearest.length === 0) return;
    const first = nearest.reduce((best, point) => (distance(point) < distance(best) ? point : best));
    const rows = lines.map((line, index) => `${line.name}: ${tickText(+nearest[index][1].toPrecision(4))} ${chart.short ?? chart.unit}`);
    const where = AXES[chart.axis].long(first[0]);
    bubble.replaceChildren(...[where, ...rows].map((row) => Object.assign(document.createElement("div"), { textContent: row })));
    bubble.hidden = false;
    const at = x.at(first[0]);
    const room = box.clientWidth - bubble.offsetWidth;
    bubble.style.left = `${Math.max(0, Math.min(room, at > box.clientWidth / 2 ? at - bubble.offsetWidth - 8 : at + 8))}px`;
    rule.setAttribute("x1", at);
    rule.setAttribute("x2", at);
    rule.setAttribute("visibility", "visible");
  });
}

// Where a ratio lies, and how far its rounds lie apart, on a scale where twice and half are equally far from 1. What is
// beyond its reach stands at its end.
function drawInterval(spread, reach, colour) {
  const width = 150;
  const at = (ratio) => width / 2 + Math.max(-1, Math.min(1, Math.log(ratio) / Math.log(reach))) * (width / 2 - 8);
  return shape(
    "svg",
    { class: "interval", viewBox: `0 0 ${width} 22`, width, height: 22, "aria-hidden": "true" },
    shape("line", { class: "grid", x1: 0, x2: width, y1: 11, y2: 11 }),
    shape("line", { class: "rule", x1: width / 2, x2: width / 2, y1: 2, y2: 20 }),
    shape("line", { class: `whisker c${colour}`, x1: at(spread.low), x2: at(spread.high), y1: 11, y2: 11 }),
    shape("circle", { class: `dot c${colour}`, cx: at(spread.median), cy: 11, r: 4.5 }),
  );
}
