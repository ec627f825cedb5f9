// Owns what the page of `coati tune disk` says. What it is put together from is in bench/src/page/parts.js.

const STATES = ["growing", "allocated", "zeroed"];

const placed = (list, path) => list.map((one, index) => ({ ...one, path: `${path}/${index}` }));
const appends = placed(report.appends, "/appends");
const reads = placed(report.reads, "/reads");
const ofWay = (way) => appends.filter((one) => one.way === way);
const distinct = (values) => [...new Set(values)];

const atATime = (depth) => (depth === 1 ? "one at a time" : `${depth} at a time`);
const readersText = (readers) => (readers === 1 ? "one reader" : `${readers} readers`);

// One measure of several loads, which differ in `x`.
function lineOf(name, look, loads, x, measure) {
  const there = loads.filter((one) => one.latency);
  return {
    name, ...look,
    points: there.map((one) => [one[x], at(`${one.path}/${measure}`)]),
    source: { "data-points": there.map((one) => one.path).join(" "), "data-of": x, "data-measure": measure },
  };
}

// Throughput and p99 of the same loads, each in a chart of its own.
function twoCharts(title, { axis, below }, linesOf) {
  const chart = (what, unit, measure) =>
    chartCard({ title: `${title}: ${what}`, unit, axis, below, logarithmic: true, lines: linesOf(measure) }, null);
  return [chart("throughput", "MB/s", "mb_per_second"), chart("p99", "ms", "latency/p99")];
}

function percentiles(title, lines, note) {
  const curves = lines.map(([name, path], number) => ({
    name, colour: number % 6, dash: number % 3, points: curve(path, "latency"), source: { "data-path": path, "data-curve": "latency" },
  }));
  return chartCard({ title, unit: "ms", axis: "percentile", below: "are faster", logarithmic: true, lines: curves, note }, null);
}

// ---- What it comes to

function tiles() {
  const tile = (what, value, unit, ...more) => {
    if (at(value) === undefined || at(value) === null) return null;
    const number = make("div", { class: "value" }, figure(value), " ", make("small", {}, unit));
    return make("div", { class: "card tile" }, make("div", { class: "what" }, what), number, make("div", { class: "more soft" }, ...more));
  };
  const load = (path) => [bytesText(at(path)?.bytes ?? 0), ", ", atATime(at(path)?.depth ?? 1)];
  const p99 = (path) => [together("p99 ", figure(`${path}/p99_ms`), " ms")];
  const all = [
    tile("acks=all, on stable storage", "/verdict/durable/mb_per_second", "MB/s", ...p99("/verdict/durable"), " · appends of ", ...load("/verdict/durable")),
    tile("acks=1, written", "/verdict/write_saturation/mb_per_second", "MB/s", ...p99("/verdict/write_saturation"), " · writes of ", ...load("/verdict/write_saturation")),
    tile("a synced write", "/verdict/synced_write/p50_ms", "ms", ...p99("/verdict/synced_write"), " · ", ...load("/verdict/synced_write")),
    tile("one cold reader", "/verdict/one_reader/mb_per_second", "MB/s", together(figure("/verdict/readers/mb_per_second"), " MB/s"), " for ", readersText(at("/verdict/readers")?.readers ?? 0)),
  ];
  return make("div", { class: "tiles" }, ...all);
}

function verdict() {
  const said = report.verdict.sentences.map((sentence) => make("p", {}, `${sentence}.`));
  const notices = report.notices.map((notice) => make("p", { class: "notice" }, `Note: ${notice}.`));
  return [...said, ...notices, tiles()];
}

// ---- As the broker does it

function brokersWays() {
  const loads = [...ofWay("journal"), ...ofWay("segment")];
  const axis = { axis: "number", below: "appends outstanding" };
  const lines = (measure) =>
    distinct(loads.map((one) => `${one.way} ${one.bytes}`)).map((key, number) => {
      const same = loads.filter((one) => `${one.way} ${one.bytes}` === key);
      return lineOf(`${bytesText(same[0].bytes)}, ${same[0].way}`, { colour: number % 6, dash: same[0].way === "journal" ? 0 : 1 }, same, "depth", measure);
    });
  const smallest = loads.filter((one) => one.way === "journal" && one.bytes === loads[0].bytes);
  const largest = loads.filter((one) => one.way === "segment" && one.bytes === loads[loads.length - 1].bytes);
  const curves = (same) => same.map((one) => [atATime(one.depth), one.path]);
  return [
    make("h2", {}, "To stable storage, as the broker does it"),
    make("p", { class: "soft" }, "Small appends go through a journal, large ones into a segment; what has come meanwhile goes together, and one sync is for all that was written before it. What goes through the journal is written into its segment later as well."),
    make("div", { class: "charts" }, ...twoCharts("Appends", axis, lines),
      smallest.length > 0 ? percentiles(`Appends of ${bytesText(smallest[0].bytes)}, journal`, curves(smallest)) : null,
      largest.length > 0 ? percentiles(`Appends of ${bytesText(largest[0].bytes)}, segment`, curves(largest)) : null),
    latencies("Each load", loads.map((one) => [`${one.way}, ${bytesText(one.bytes)}, ${atATime(one.depth)}`, one.path, "appends_per_second"])),
  ];
}

// The figures of several loads, folded away: the charts show what matters.
function latencies(title, loads) {
  const heads = ["", "MB/s", "a second", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"];
  const rows = loads.map(([name, path, rate]) => [
    name, figure(`${path}/mb_per_second`), figure(`${path}/${rate}`), ...["p50", "p90", "p99", "p99_9", "max"].map((of) => figure(`${path}/latency/${of}`)),
  ]);
  return make("details", {}, make("summary", {}, title), table(heads, rows));
}

// ---- Plain writes

function plainWrites() {
  const plain = ofWay("plain");
  const depths = distinct(plain.map((one) => one.depth));
  const shown = distinct([depths[0], depths[depths.length - 1]]);
  const charts = [false, true].flatMap((synced) =>
    twoCharts(synced ? "Each synced" : "Written", { axis: "bytes", below: "a write" }, (measure) =>
      STATES.flatMap((file, colour) => shown.map((depth, dash) => {
        const loads = plain.filter((one) => one.file === file && one.synced === synced && one.depth === depth);
        return lineOf(`${file}, ${atATime(depth)}`, { colour, dash }, loads, "bytes", measure);
      }))));
  const rows = plain.map((one) => [`${one.file}, ${bytesText(one.bytes)}, ${atATime(one.depth)}${one.synced ? ", synced" : ""}`, one.path, "writes_per_second"]);
  return [
    make("h2", {}, "Plain writes"),
    make("p", { class: "soft" }, "Direct writes one behind another into a file that grows with each, one whose space is reserved (fallocate), and one that was written with zeroes before; with fdatasync and without."),
    make("div", { class: "charts" }, ...charts),
    latencies("Each load", rows),
  ];
}

// ---- Reads

function coldReads() {
  const lines = (measure) =>
    distinct(reads.map((one) => one.readers)).map((readers, number) => {
      const same = reads.filter((one) => one.readers === readers);
      return lineOf(readersText(readers), { colour: number % 6, dash: number % 3 }, same, "bytes", measure);
    });
  return [
    make("h2", {}, "Cold reads"),
    make("p", { class: "soft" }, "Past the page cache, by readers that each go from piece to piece. The broker takes 256 KiB at a time."),
    make("div", { class: "charts" }, ...twoCharts("Reads", { axis: "bytes", below: "a read" }, lines)),
    latencies("Each load", reads.map((one) => [`${bytesText(one.bytes)}, ${readersText(one.readers)}`, one.path, "reads_per_second"])),
  ];
}

function besideReaders() {
  const mixed = placed(report.mixed, "/mixed");
  const same = (one, other) => ["way", "bytes", "depth"].every((name) => one[name] === other[name]);
  const loads = distinct(mixed.map((one) => one.append.way)).map((way) => mixed.filter((one) => one.append.way === way));
  const charts = loads.map((group) => {
    const load = group[0].append;
    const alone = appends.filter((one) => same(one, load)).map((one) => ["alone", one.path]);
    const beside = group.map((one) => [`beside ${readersText(one.read.readers)}`, `${one.path}/append`]);
    return percentiles(`Appends of ${bytesText(load.bytes)}, ${atATime(load.depth)}, ${load.way}`, [...alone, ...beside]);
  });
  const rows = mixed.flatMap((one) => [
    [`${one.append.way}, ${bytesText(one.append.bytes)}, ${atATime(one.append.depth)}, beside…`, `${one.path}/append`, "appends_per_second"],
    [`…${readersText(one.read.readers)} of ${bytesText(one.read.bytes)}`, `${one.path}/read`, "reads_per_second"],
  ]);
  return [
    make("h2", {}, "Appends beside cold readers"),
    make("div", { class: "charts" }, ...charts),
    latencies("Each load", rows),
  ];
}

// ---- The page

function conditions() {
  const about = report.conditions;
  const { cpu, cores, memory_mib, kernel, load_before } = about.machine;
  const entries = [
    ["command", make("code", {}, about.command)],
    ["begun", `${new Date(about.started_ms).toISOString().replace("T", " ").slice(0, 16)} UTC`],
    ["folder", make("code", {}, about.folder)],
    ["disk", `${about.disks.join(", ")}, ${about.file_system}`],
    ["space used", bytesText(about.size_bytes)],
    ["machine", `${cpu || "CPU unknown"}, ${count(cores, "core")}, ${numberText(Math.round(memory_mib / 102.4) / 10)} GiB, Linux ${kernel}`],
    ["load before", load_before === null ? "–" : `${numberText(load_before)}: what else ran on the machine`],
    ["by", `coati ${about.version}`],
  ];
  const shown = entries.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  return [make("h2", {}, "Conditions"), make("div", { class: "card" }, make("dl", {}, ...shown))];
}

function guide() {
  const say = (...text) => make("p", {}, ...text);
  return [
    make("h2", {}, "How to read this"),
    say("So many appends or reads are outstanding at all times, and the next begins when one is done: what the disk gives, not how it fares under a given rate. ", make("b", {}, "Latency"), " is from when there was a place for an append until it is done: on stable storage where it is synced, else taken by the device. p99 is what 99 of 100 stay below."),
    say(make("b", {}, "MB"), " are 1,000,000 bytes, KiB are 1024. Scales are logarithmic."),
  ];
}

function heading() {
  const about = report.conditions;
  document.title = `${about.folder} – coati tune disk`;
  const measured = make("p", { class: "soft" }, `${about.disks.join(", ")} (${about.file_system}), measured for `, figure("/conditions/seconds"), " s.");
  return make("header", {}, make("div", { class: "brand" }, "coati tune disk"), make("h1", {}, about.folder), measured);
}

show([heading(), ...verdict(), ...brokersWays(), ...plainWrites(), ...coldReads(), ...besideReaders(), ...conditions(), ...guide()]);
