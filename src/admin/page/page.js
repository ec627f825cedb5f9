// Owns what the page says, and when it asks: each second, while somebody looks at it.

const EVERY_MS = 1000;
const PATIENCE_MS = 4000;
const SHOWN_SECONDS = 120;
const STALLS_SHOWN = 10;

const node = (id) => document.getElementById(id);

// What has been seen of this run of the broker, by moment: `at` in seconds since the page was opened.
let seen = [];
let incarnation = null;
let answeredAt = null;

const seconds = () => performance.now() / 1000;

function sum(cores, name) {
  return cores.reduce((total, core) => total + core[name], 0);
}

function latencyOf(figures, name) {
  return figures.requests.find((latency) => latency.name === name);
}

function draw(figures) {
  if (figures.incarnation !== incarnation) {
    // The broker was started anew: what was before is not its past.
    seen = [];
    incarnation = figures.incarnation;
  }
  remember(figures);
  drawHead(figures);
  drawCharts();
  drawCores(figures);
  drawLatencies(figures);
  drawStalls(figures);
  drawLists(figures);
}

function remember(figures) {
  const at = seconds();
  seen.push({
    at,
    in: sum(figures.cores, "bytes_in"),
    out: sum(figures.cores, "bytes_out"),
    produce: latencyOf(figures, "Produce")?.p99_us,
    fetch: latencyOf(figures, "Fetch")?.p99_us,
    cores: new Map(figures.cores.map((core) => [core.core, core.parts])),
  });
  seen = seen.filter((moment) => at - moment.at <= SHOWN_SECONDS + 2);
}

function drawHead(figures) {
  say(node("broker"), `broker ${figures.broker}`);
  document.title = `coati, broker ${figures.broker}`;
  const state = figures.state === "running" ? "" : `${figures.state} \u00b7 `;
  say(node("about"), `${state}version ${figures.version} \u00b7 up ${durationText(figures.uptime_seconds)} \u00b7 ${sizeText(figures.resident_bytes)} resident`);
  const { cores } = figures;
  const stalls = sum(cores, "stalls");
  const busiest = Math.max(0, ...cores.map((core) => core.utilisation));
  const latency = (name) => {
    const found = latencyOf(figures, name);
    return found?.timed ? [timeText(found.p99_us), `p50 ${timeText(found.p50_us)}, p99.9 ${timeText(found.p99_9_us)}`] : ["\u2013", "none in this second"];
  };
  drawTiles([
    ["in", `${megabytesText(sum(cores, "bytes_in"))} MB/s`, `${countText(sum(cores, "records_in"))} records/s`],
    ["out", `${megabytesText(sum(cores, "bytes_out"))} MB/s`, `${countText(sum(cores, "connections"))} connections`],
    ["requests", `${countText(sum(cores, "requests"))}/s`, `${countText(sum(cores, "partitions"))} partitions${offlineText(cores)}`],
    ["produce p99", ...latency("Produce")],
    ["fetch p99", ...latency("Fetch")],
    ["cores", percentText(sum(cores, "utilisation") / Math.max(1, cores.length)), `${cores.length} in use, the busiest ${percentText(busiest)}`],
    ["stalls", countText(stalls), `${countText(sum(cores, "stalls_ever"))} since the start`, stalls > 0],
  ]);
}

function offlineText(cores) {
  const offline = sum(cores, "offline");
  return offline > 0 ? `, ${offline} offline` : "";
}

function drawTiles(tiles) {
  const box = node("tiles");
  for (const [index, [what, value, more, alarm]] of tiles.entries()) {
    if (!box.children[index]) box.append(make("div", "card", make("div", "what", what), make("div"), make("div", "more")));
    const [, valueNode, moreNode] = box.children[index].children;
    valueNode.className = alarm ? "value alarm" : "value";
    valueNode.dataset.figure = what;
    say(valueNode, value);
    say(moreNode, more);
  }
}

function drawCharts() {
  const line = (name, look, scale) => ({ name, look, points: seen.filter((moment) => moment[name] !== undefined).map((moment) => [moment.at, moment[name] / scale]) });
  const now = seconds();
  drawLines(node("throughput"), [line("in", "in", 1e6), line("out", "out", 1e6)], now, SHOWN_SECONDS);
  drawLines(node("latency"), [line("produce", "in", 1e3), line("fetch", "out", 1e3)], now, SHOWN_SECONDS);
}

function drawCores(figures) {
  const legend = node("parts");
  for (const [index, [name, meaning]] of figures.parts.entries()) {
    if (!legend.children[index]) legend.append(make("li", `c${index}`));
    say(legend.children[index], name);
    legend.children[index].title = meaning;
  }
  const box = node("cores");
  while (box.children.length > figures.cores.length) box.lastChild.remove();
  for (const [index, core] of figures.cores.entries()) {
    if (!box.children[index]) box.append(newCore(figures.parts.length));
    drawCore(box.children[index], core, figures.parts);
  }
}

function newCore(parts) {
  const bar = make("div", "bar", ...Array.from({ length: parts }, (_, part) => make("i", `c${part}`)));
  return make("div", "card core", make("div", "title", make("span"), make("b")), bar, make("div", "history"), make("dl", "facts"), make("dl", "queues"));
}

function drawCore(card, core, parts) {
  const [title, bar, history, facts, queues] = card.children;
  say(title.children[0], `core ${core.core}`);
  say(title.children[1], percentText(core.utilisation));
  for (const [part, share] of core.parts.entries()) {
    const piece = bar.children[part];
    if (!piece) continue;
    piece.style.width = `${Math.min(100, 100 * share)}%`;
    piece.title = `${parts[part]?.[0]} ${percentText(share)}`;
  }
  const moments = seen.map((moment) => ({ at: moment.at, parts: moment.cores.get(core.core) ?? [] }));
  drawParts(history, moments, seconds(), SHOWN_SECONDS);
  const latency = (name) => {
    const found = core.latencies.find((one) => one.name === name);
    return found?.timed ? `${timeText(found.p50_us)}, ${timeText(found.p99_us)}` : "\u2013";
  };
  fillList(facts, [
    ["in", `${megabytesText(core.bytes_in)} MB/s`],
    ["out", `${megabytesText(core.bytes_out)} MB/s`],
    ["requests", `${countText(core.requests)}/s`],
    ["partitions", countText(core.partitions)],
    ["connections", countText(core.connections)],
    ["stalls", countText(core.stalls)],
  ]);
  fillList(queues, [
    ["produce p50, p99", latency("Produce")],
    ["fetch p50, p99", latency("Fetch")],
    ...core.queues.map((queue) => [queue.queue, queueText(queue)]),
  ]);
}

function queueText(queue) {
  if (queue.unit !== "bytes") return `${countText(queue.depth)} ${queue.unit}`;
  return queue.limit ? `${sizeText(queue.depth)}, ${percentText(queue.depth / queue.limit)}` : sizeText(queue.depth);
}

function fillList(list, rows) {
  while (list.children.length > 2 * rows.length) list.lastChild.remove();
  for (const [index, [what, value]] of rows.entries()) {
    if (!list.children[2 * index]) list.append(make("dt"), make("dd"));
    say(list.children[2 * index], what);
    say(list.children[2 * index + 1], value);
  }
}

const TIMES = [
  { head: "/s", text: (row) => numberText(row.rate) },
  { head: "p50", text: (row) => timeText(row.p50_us) },
  { head: "p99", text: (row) => timeText(row.p99_us) },
  { head: "p99.9", look: "less", text: (row) => timeText(row.p99_9_us) },
  { head: "max", look: "less", text: (row) => timeText(row.max_us) },
];

function drawLatencies(figures) {
  const timed = figures.requests.filter((row) => row.timed > 0);
  fillTable(node("requests"), [{ head: "request", text: (row) => row.name }, ...TIMES], timed, "no request in this second");
  fillTable(node("stages"), [{ head: "stage", text: (row) => row.name }, ...TIMES], figures.stages, "no request in this second");
}

function drawStalls(figures) {
  const columns = [
    { head: "task", text: (stall) => nameText(stall.task) },
    { head: "core", text: (stall) => `${stall.core}` },
    { head: "held it for", text: (stall) => timeText(stall.us) },
    { head: "ago", text: (stall) => durationText(Math.max(0, figures.now_ms - stall.at_ms) / 1000) },
  ];
  fillTable(node("stalls"), columns, figures.stalls.slice(0, STALLS_SHOWN), "none so far");
}

function toldText(list, of, shown) {
  const beyond = list.looked_at < list.all ? `; ${countText(list.looked_at)} of ${countText(list.all)} were looked at` : "";
  const found = node("find").value ? `${countText(list.found)} found of ` : "";
  return `${found}${countText(list.all)} ${of}, ${countText(list.lines.length)} ${shown}${beyond}`;
}

function drawLists(figures) {
  say(node("partitions-told"), toldText(figures.partitions, "partitions", "shown"));
  say(node("clients-told"), toldText(figures.clients, "connections", "client ids shown"));
  say(node("groups-told"), toldText(figures.groups, "groups", "shown"));
  const partitions = [
    { head: "partition", text: (row) => nameText(`${row.topic}-${row.partition}`) },
    { head: "core", look: "less", text: (row) => `${row.core}` },
    { head: "MB/s in", text: (row) => megabytesText(row.bytes_in) },
    { head: "MB/s out", text: (row) => megabytesText(row.bytes_out) },
    { head: "records/s", look: "less", text: (row) => countText(row.records_in) },
    { head: "size", text: (row) => sizeText(row.size_bytes) },
    { head: "end offset", look: "less", text: (row) => row.end_offset.toLocaleString("en-US") },
  ];
  fillTable(node("partitions"), partitions, figures.partitions.lines, "none");
  const clients = [
    { head: "client id", text: (row) => nameText(row.client_id) },
    { head: "connections", text: (row) => countText(row.connections) },
    { head: "in progress", text: (row) => countText(row.requests) },
    { head: "of them fetches", look: "less", text: (row) => countText(row.fetches) },
  ];
  fillTable(node("clients"), clients, figures.clients.lines, "none");
  const groups = [
    { head: "group", text: (row) => nameText(row.group_id) },
    { head: "type", look: "less", text: (row) => row.type },
    { head: "state", text: (row) => row.state },
    { head: "members", text: (row) => countText(row.members) },
    { head: "core", look: "less", text: (row) => `${row.core}` },
  ];
  fillTable(node("groups"), groups, figures.groups.lines, "none");
}

let timer = null;
let asking = null;

function question() {
  const asked = new URLSearchParams({ sort: node("sort").value, lines: node("lines").value });
  if (node("find").value) asked.set("find", node("find").value);
  return `debug/watch?${asked}`;
}

async function ask() {
  clearTimeout(timer);
  asking?.abort();
  const mine = new AbortController();
  asking = mine;
  const began = performance.now();
  const tooLate = setTimeout(() => mine.abort("late"), PATIENCE_MS);
  try {
    const answer = await fetch(question(), { signal: mine.signal, cache: "no-store" });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    const figures = await answer.json();
    if (mine !== asking) return;
    answeredAt = seconds();
    onAnswer(figures);
  } catch (error) {
    if (mine !== asking) return;
    onSilence(error);
  } finally {
    clearTimeout(tooLate);
    if (mine === asking) next(began);
  }
}

function next(began) {
  asking = null;
  if (document.hidden) return;
  timer = setTimeout(ask, Math.max(50, EVERY_MS - (performance.now() - began)));
}

function onAnswer(figures) {
  document.body.classList.remove("lost");
  node("lost").hidden = true;
  draw(figures);
  document.dispatchEvent(new Event("figures"));
}

function onSilence(error) {
  document.body.classList.add("lost");
  const old = answeredAt === null ? "" : durationText(seconds() - answeredAt);
  const why = error instanceof Error && error.message.startsWith("it answers") ? ` (${error.message})` : "";
  say(node("lost"), old ? `The broker has not answered for ${old}${why}; what stands below is as old.` : `The broker does not answer${why}.`);
  node("lost").hidden = false;
  document.dispatchEvent(new Event("silence"));
}

node("question").addEventListener("submit", (event) => event.preventDefault());
node("question").addEventListener("input", () => ask());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) ask();
});
ask();
