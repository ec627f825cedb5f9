// Owns what the page of a run, a comparison or a search says. What it is put together from is in parts.js.

// ---- What a report is called and was asked to do

const STAGES = [
  ["end_to_end", "end to end"],
  ["acknowledge", "acknowledge"],
  ["publish", "publish"],
];

// Acks and flush mode: no figure is worth anything without them.
function promise(run) {
  const { acks, idempotent, producersPerTopic } = run.workload;
  const mode = run.flush_mode.split(": ")[0].replace("log.flush.policy=", "");
  return producersPerTopic > 0 ? `acks=${acks}${idempotent ? ", idempotent" : ""} · ${mode}` : mode;
}

function badge(run) {
  return make("span", { class: "badge", title: run.flush_mode }, promise(run));
}

function sentence(workload) {
  const parts = [`${count(workload.topics, "topic")} of ${count(workload.partitionsPerTopic, "partition")}`];
  if (workload.producersPerTopic > 0) {
    const rate = workload.producerRate > 0 ? `${workload.producerRate.toLocaleString("en-US")} records/s` : "as fast as acknowledged";
    const headers = workload.headersPerMessage > 0 ? ` and ${count(workload.headersPerMessage, "header")} of ${workload.headerSize} B` : "";
    parts.push(`${count(workload.producersPerTopic, "producer")} a topic, ${rate}, records of ${workload.messageSize} B${headers}`);
    parts.push(`batches of ${workload.batchBytes.toLocaleString("en-US")} B or ${workload.lingerMs} ms, ${workload.inFlight} in flight`);
    if (workload.codec !== "none") parts.push(workload.codec);
  }
  const readers = workload.subscriptionsPerTopic * workload.consumerPerSubscription;
  if (readers > 0) parts.push(`${count(readers, "consumer")} a topic`);
  if (workload.idleConnections > 0) parts.push(count(workload.idleConnections, "idle connection"));
  return `${parts.join("; ")}.`;
}

function lasted(path) {
  const { workload } = at(path);
  const warmUp = Math.round(workload.warmupDurationMinutes * 6000) / 100;
  return make("p", { class: "soft" }, "Measured for ", figure(`${path}/seconds`), " s", workload.producersPerTopic > 0 ? ` after ${warmUp} s of warm-up.` : ".");
}

// ---- Figures over time

const MEASURES = {
  produced: { name: "produced", of: (point) => point.acknowledged.bytes / 1e6 / point.seconds },
  consumed: { name: "consumed", of: (point) => point.received.bytes / 1e6 / point.seconds },
  broker_cores: { name: "broker", of: (point) => point.broker_cores },
  generator_cores: { name: "generator", of: (point) => point.generator_cores },
  broker_resident_mib: { name: "broker", of: (point) => point.broker_resident_mib },
};
for (const [stage] of STAGES) {
  for (const of of ["p50", "p99", "max"]) MEASURES[`${stage}.${of}`] = { name: of, of: (point) => point[stage]?.[of] };
}

function overTime(path, measure) {
  const points = at(`${path}/series`).map((point) => [point.at, MEASURES[measure].of(point)]);
  return points.filter(([, value]) => value !== null && value !== undefined);
}

// The middle of several lines, where all of them have a point.
function middle(lines) {
  const length = Math.min(...lines.map((line) => line.length));
  return Array.from({ length }, (_, index) => {
    const heights = lines.map((line) => line[index][1]).sort((one, other) => one - other);
    const half = heights.length >> 1;
    return [lines[0][index][0], heights.length % 2 ? heights[half] : (heights[half - 1] + heights[half]) / 2];
  });
}

// The lines of one run: several measures, told apart by colour.
function linesOfRun(run, measures) {
  return measures
    .map((measure, number) => ({
      name: MEASURES[measure].name, colour: number, dash: number, points: overTime(run.path, measure),
      source: { "data-path": run.path, "data-measure": measure },
    }))
    .filter((line) => line.points.some(([, value]) => value > 0));
}

// The lines of one measure: a side's rounds are faint, and their middle stands before them.
function linesOfSides(sides, pointsOf, measure) {
  return sides.flatMap((side, number) => {
    const rounds = side.paths.map((path) => ({
      name: side.name, colour: number, dash: number % 3, points: pointsOf(path), source: { "data-path": path, "data-measure": measure },
    }));
    const filled = rounds.filter((line) => line.points.length > 0);
    if (filled.length < 2) return filled;
    const faint = filled.map((line) => ({ ...line, dash: 0, faint: true }));
    return [...faint, { ...filled[0], points: middle(filled.map((line) => line.points)), source: {} }];
  });
}

const PERCENTILE_NOTE = "Each step to the right is ten times rarer. The curve ends at the slowest record.";

// ---- One run

const CLOSED_LOOP =
  "Closed loop: no rate was asked for, so each latency counts from sending, and a stall delays few requests instead of many. Compare throughput here, not latencies.";

function notices(path) {
  const run = at(path);
  const said = [];
  const say = (text, bad = false) => said.push(make("p", { class: bad ? "notice bad" : "notice" }, text));
  if (run.failure) say(`The run failed: ${run.failure}. The figures are of the time until then.`, true);
  if (run.interrupted) say("The run was interrupted. The figures are of the time until then.");
  if (run.verdict?.first) say(`Records did not arrive as they were sent: first ${run.verdict.first}.`, true);
  if (run.unread > 0) say(`${count(run.unread, "record")} had not been read at the end.`, !run.interrupted);
  if (run.generator_bound) say("The generator was so busy that it may have been the limit, not the broker.");
  if (run.acknowledge && !run.open_loop) say(CLOSED_LOOP);
  if (run.verdict && !run.verdict.first) {
    said.push(make("p", { class: "notice good" }, "All of ", figure(`${path}/verdict/checked`), " records that were checked arrived once, in order and unaltered."));
  }
  return said;
}

function tiles(path) {
  const run = at(path);
  const tile = (what, value, unit, ...more) => {
    const number = make("div", { class: "value" }, figure(`${path}/${value}`), " ", make("small", {}, unit));
    const details = more.length > 0 ? make("div", { class: "more soft" }, ...more) : null;
    return make("div", { class: "card tile" }, make("div", { class: "what" }, what), number, details, badge(run));
  };
  const part = (value) => figure(`${path}/${value}`);
  const all = [];
  if (run.produced) all.push(tile("produced", "produced/mb_per_second", "MB/s", part("produced/records_per_second"), " records/s"));
  if (run.consumed) all.push(tile("consumed", "consumed/mb_per_second", "MB/s", part("consumed/records_per_second"), " records/s"));
  for (const [stage, name] of STAGES.slice(0, 2)) {
    if (!run[stage]) continue;
    all.push(tile(`${name}, p99`, `${stage}/p99`, "ms", together("p50 ", part(`${stage}/p50`)), " · ", together("max ", part(`${stage}/max`))));
  }
  if (run.broker) {
    all.push(tile("broker CPU", "broker/cpu_seconds_per_gb", "s/GB", together(part("broker/cores"), " cores"), " · ", together(part("broker/cpu_microseconds_per_request"), " µs/request")));
    all.push(tile("broker memory", "broker/resident_mib", "MiB", "resident at the end"));
    const flushes = run.broker.disk_flushes == null ? [] : [part("broker/disk_flushes"), " disk flushes"];
    all.push(tile("written to disk", "broker/disk_written_gb", "GB", ...flushes));
  }
  all.push(tile("generator CPU", "generator_cores", "cores", run.generator_bound ? "it may have been the limit" : "it was not the limit"));
  return make("div", { class: "tiles" }, ...all);
}

function chartsOfRun(path) {
  const run = { ...at(path), path };
  const about = () => badge(run);
  const [main, name] = STAGES.find(([stage]) => run[stage]) ?? [];
  const charts = [
    chartCard({ title: "Throughput", unit: "MB/s", axis: "seconds", lines: linesOfRun(run, ["produced", "consumed"]) }, about()),
  ];
  if (main) {
    const lines = linesOfRun(run, ["p50", "p99", "max"].map((of) => `${main}.${of}`));
    charts.push(chartCard({ title: `Latency, ${name}`, unit: "ms", axis: "seconds", logarithmic: true, lines }, about()));
    const stages = STAGES.filter(([stage]) => run[stage]).map(([stage, called], number) => ({
      name: called, colour: number, dash: number, points: curve(path, stage), source: { "data-path": path, "data-curve": stage },
    }));
    charts.push(chartCard({ title: "Percentiles", unit: "ms", axis: "percentile", logarithmic: true, lines: stages, note: PERCENTILE_NOTE }, about(), "broad"));
  }
  charts.push(
    chartCard({ title: "CPU", unit: "cores", axis: "seconds", lines: linesOfRun(run, ["broker_cores", "generator_cores"]), mark: run.generator_cores > 0.5 ? { height: 1, name: "one core" } : null }, about()),
    chartCard({ title: "Broker memory", unit: "MiB", axis: "seconds", lines: linesOfRun(run, ["broker_resident_mib"]) }, about()),
  );
  return make("div", { class: "charts" }, ...charts);
}

const SUMMARY = ["count", "mean", "p50", "p90", "p99", "p99_9", "p99_99", "max"];

function latencyTable(path) {
  const run = at(path);
  const stages = STAGES.filter(([stage]) => run[stage]).reverse();
  if (stages.length === 0) return null;
  const rows = SUMMARY.map((name) => {
    const called = name === "count" ? "records" : name.replace("_", ".");
    return [called, ...stages.map(([stage]) => figure(`${path}/${stage}/${name}`))];
  });
  return make("div", { class: "narrow" }, make("p", {}, badge(run)), table(["latency, ms", ...stages.map(([, name]) => name)], rows));
}

// Long runs have many seconds, so that they are written down only when somebody wants to read them, or `#seconds` says so.
function secondsTable(path) {
  const run = at(path);
  const stages = STAGES.filter(([stage]) => run[stage]);
  const heads = ["until s", "produced records", "consumed records", ...stages.flatMap(([, name]) => [`${name} p50`, "p99", "max"]), "broker cores", "generator cores"];
  const rows = () => run.series.map((_, index) => {
    const of = (name) => figure(`${path}/series/${index}/${name}`);
    const latencies = stages.flatMap(([stage]) => ["p50", "p99", "max"].map((name) => of(`${stage}/${name}`)));
    return [of("at"), of("acknowledged/records"), of("received/records"), ...latencies, of("broker_cores"), of("generator_cores")];
  });
  const details = make("details", {}, make("summary", {}, `Each of the ${count(run.series.length, "second")}`));
  details.addEventListener("toggle", () => {
    if (details.children.length === 1) details.append(make("p", {}, badge(run)), table(heads, rows()));
  });
  details.open = location.hash === "#seconds";
  return details;
}

// Where the broker says that its time went.
function explanation(path) {
  const said = at(`${path}/explanation`);
  if (!said) return [];
  const place = `${path}/explanation`;
  const requests = said.requests.map((explained, kind) => {
    const rows = explained.stages.map((part, index) => {
      const of = (name) => figure(`${place}/requests/${kind}/stages/${index}/${name}`);
      return [part.stage, of("mean_ms"), of("slow_ms"), of("slow_share")];
    });
    return table([`${explained.kind} requests`, "mean ms", "slowest 1 %, ms", "share"], rows);
  });
  const operations = said.beneath.map((operation, index) => {
    const of = (name) => figure(`${place}/beneath/${index}/${name}`);
    return [operation.stage, of("count"), of("mean_ms"), of("p50_ms"), of("p99_ms")];
  });
  const beneath = operations.length > 0 ? [table(["each", "times", "mean ms", "p50 ms", "p99 ms"], operations)] : [];
  const words = said.words.map((sentence) => make("p", {}, `${sentence}.`));
  return [make("h2", {}, "Where the broker's time went"), ...words, make("p", {}, badge(at(path))), ...requests, ...beneath];
}

function runParts(path) {
  return [lasted(path), ...notices(path), tiles(path), chartsOfRun(path), latencyTable(path), ...explanation(path), secondsTable(path)];
}

// ---- Several sides

// All sides of one workload, drawn over each other.
function chartsOfSides(sides) {
  const runs = sides.flatMap((side) => side.paths.map(at));
  const has = (stage) => runs.some((run) => run[stage]);
  const labelled = (lines) => lines.map((line) => ({ ...line, badge: badge(at(sides.find((side) => side.name === line.name).paths[0])) }));
  const timed = (title, unit, measure, logarithmic = false) =>
    chartCard({ title, unit, axis: "seconds", logarithmic, lines: labelled(linesOfSides(sides, (path) => overTime(path, measure), measure)) }, null);
  const charts = [];
  if (runs.some((run) => run.produced)) charts.push(timed("Produced", "MB/s", "produced"));
  if (runs.some((run) => run.consumed)) charts.push(timed("Consumed", "MB/s", "consumed"));
  for (const [stage, name] of STAGES.slice(0, 2).filter(([stage]) => has(stage))) {
    const lines = labelled(linesOfSides(sides, (path) => curve(path, stage)));
    for (const line of lines) line.source = line.faint || line.source["data-path"] ? { "data-path": line.source["data-path"], "data-curve": stage } : {};
    charts.push(chartCard({ title: `Percentiles, ${name}`, unit: "ms", axis: "percentile", logarithmic: true, lines, note: PERCENTILE_NOTE }, null));
    charts.push(timed(`p99 of each second, ${name}`, "ms", `${stage}.p99`, true));
  }
  charts.push(timed("Broker CPU", "cores", "broker_cores"), timed("Broker memory", "MiB", "broker_resident_mib"));
  return make("div", { class: "charts" }, ...charts);
}

// Who is compared, and what each means by an acknowledgement.
function sidesTable(names, runs) {
  const heads = runs.some((run) => run.start) ? ["side", "flush mode", "broker"] : ["side", "flush mode", "address"];
  const rows = runs.map((run, number) => [
    make("b", {}, names[number]), run.flush_mode, make("code", {}, run.start?.broker ?? run.conditions.broker),
  ]);
  return table(heads, rows, "sides");
}

// Medians, and what each side's are of the first side's.
function comparedTable(path, sides) {
  const rows = at(`${path}/rows`);
  const ratios = rows.flatMap((row) => row.ratios).filter((ratio) => ratio?.low > 0);
  const reach = Math.min(10, Math.max(2, ...ratios.flatMap((ratio) => [ratio.high, 1 / ratio.low])));
  const heads = sides.map((side) => make("th", { scope: "col", class: "side" }, side.name, make("br"), badge(at(side.paths[0]))));
  const lines = rows.map((row, index) => {
    const place = `${path}/rows/${index}`;
    const better = row.higher_is_better ? "more is better" : "less is better";
    const cells = sides.map((side, number) => {
      const median = make("div", {}, make("b", {}, figure(`${place}/figures/${number}/median`)), range(`${place}/figures/${number}`));
      const ratio = row.ratios[number];
      const whose = make("div", { class: "whose" }, side.name, " ", badge(at(side.paths[0])));
      if (number === 0 || !ratio) return make("td", {}, whose, make("div", { class: "cell" }, median));
      const against = make("div", {}, times(`${place}/ratios/${number}`, row.higher_is_better, sides[0].paths.length), range(`${place}/ratios/${number}`));
      return make("td", {}, whose, make("div", { class: "cell" }, median, against, ratio.low > 0 ? drawInterval(ratio, reach, number) : null));
    });
    return make("tr", {}, make("th", { scope: "row" }, row.what, make("div", { class: "soft" }, better)), ...cells);
  });
  const explained = `Medians, and in small the lowest and highest round. × is the ratio to ${sides[0].name}, round by round; it is called better or worse where several rounds agree on more than ${SAME * 100 - 100} %. The bars draw it from 1/${tickText(+reach.toPrecision(2))} to ${tickText(+reach.toPrecision(2))} times; what is beyond stands at their ends.`;
  const head = make("thead", {}, make("tr", {}, make("td"), ...heads));
  return make("div", {}, make("div", { class: `card compared${sides.length > 2 ? " many" : ""}` }, make("table", {}, head, make("tbody", {}, ...lines))), make("p", { class: "soft" }, explained));
}

// The lowest and the highest of several rounds.
function range(place) {
  const { low, high } = at(place);
  return low === high ? null : make("div", { class: "range" }, figure(`${place}/low`), "–", figure(`${place}/high`));
}

// Closer than this, two sides are as good.
const SAME = 1.03;

function times(place, higherIsBetter, rounds) {
  const { low, high } = at(place);
  const verdict = rounds < 2 ? null : low > SAME ? higherIsBetter : high < 1 / SAME ? !higherIsBetter : null;
  const [look, word] = verdict === null ? ["", ""] : verdict ? ["better", " better"] : ["worse", " worse"];
  return make("span", { class: look }, "×", figure(`${place}/median`), word);
}

// ---- Conditions

function conditions(paths) {
  const runs = paths.map(at);
  const each = (of) => [...new Set(runs.map(of))];
  const entries = [];
  const say = (name, values, tag = "span") => {
    const shown = values.filter((value) => value !== "" && value !== undefined && value !== null);
    const lines = shown.map((value) => make("div", {}, make(tag, {}, value)));
    const folded = () => make("details", {}, make("summary", {}, `${lines.length} of them`), ...lines);
    if (lines.length > 0) entries.push(make("dt", {}, name), make("dd", {}, ...(lines.length > 6 ? [folded()] : lines)));
  };
  const first = runs[0].conditions;
  say("command", each((run) => run.conditions.command), "code");
  say("begun", [new Date(Math.min(...runs.map((run) => run.conditions.started_ms))).toISOString().replace("T", " ").slice(0, 16) + " UTC"]);
  say("broker", each((run) => run.conditions.broker));
  say("flush mode", each((run) => run.flush_mode));
  say("started by the comparison", each((run) => run.start?.broker), "code");
  say("generator", each((run) => `coati ${run.conditions.version}`));
  say("machine", [`${first.machine.cpu || "CPU unknown"}, ${count(first.machine.cores, "core")} for the generator, ${numberText(Math.round(first.machine.memory_mib / 102.4) / 10)} GiB, Linux ${first.machine.kernel}`]);
  const loads = runs.map((run) => run.conditions.machine.load_before).filter((load) => load !== null);
  if (loads.length > 0) say("load before", [`${numberText(Math.min(...loads))}${loads.length > 1 ? ` to ${numberText(Math.max(...loads))}` : ""}: what else ran on the machine`]);
  const disturbed = runs.filter((run) => typeof run.stolen_ms === "number");
  if (disturbed.length > 0) {
    const most = (of) => Math.max(...disturbed.map(of));
    say("beside the run", [`at most ${numberText(most((run) => run.others_cores))} cores for other processes and the kernel, ${numberText(most((run) => run.stolen_ms))} ms taken by the machine's host: tails may be theirs`]);
  }
  say("broker runs", [runs.some((run) => run.broker) ? "on the same machine as the generator" : "elsewhere, or its process could not be seen: its CPU and memory are unknown"]);
  return [make("h2", {}, "Conditions"), make("div", { class: "card" }, make("dl", {}, ...entries))];
}

function workloadTable(workloads) {
  const rows = Object.keys(workloads[0]).map((name) => [name, ...workloads.map((workload) => make("code", {}, JSON.stringify(workload[name])))]);
  const heads = ["field", ...workloads.map((workload) => workload.name)];
  return make("details", {}, make("summary", {}, "Everything that was asked for"), table(heads, rows));
}

function guide() {
  const say = (...text) => make("p", {}, ...text);
  return [
    make("h2", {}, "How to read this"),
    say(make("b", {}, "Latency"), " counts in milliseconds from the time that a record was meant to leave, so that a broker that stalls cannot hide it by slowing the generator down. ", make("b", {}, "Publish"), " ends when the request is handed to the connection, ", make("b", {}, "acknowledge"), " when the broker has answered, ", make("b", {}, "end to end"), " when a consumer has the record. p99 is what 99 of 100 records stay below."),
    say(make("b", {}, "acks and flush mode"), " say what an answer promises: ", make("code", {}, "acks=all"), " on a broker that flushes (durable, flush.messages=1) means that the record is on stable storage; in the page cache it is lost with the power. Figures of different promises are not of the same work."),
    say(make("b", {}, "MB"), " are 1,000,000 bytes of record batches as they are on the wire. ", make("b", {}, "Disk flushes"), " are those of the broker's disk, whichever process asked for them; syncs that come together share one."),
  ];
}

// ---- The page of each kind of report

function runPage() {
  const closing = [...conditions([""]), workloadTable([report.workload]), ...guide()];
  return [heading(report.workload.name, sentence(report.workload)), ...runParts(""), ...closing];
}

function heading(title, text) {
  document.title = `${title} – coati bench`;
  return make("header", {}, make("div", { class: "brand" }, "coati bench"), make("h1", {}, title), make("p", { class: "soft" }, text));
}

function comparisonPage() {
  const names = report.sides.map((side) => side.name);
  const parts = [heading(names.length > 2 ? names.join(", ") : names.join(" against "), "The same workloads against each in turn, round after round. Thick lines are the median of the rounds, thin ones the rounds.")];
  const all = [];
  if (report.workloads.length > 0) parts.push(sidesTable(names, report.workloads[0].rounds[0]));
  report.workloads.forEach((compared, index) => {
    const path = `/workloads/${index}`;
    const sides = names.map((name, number) => ({ name, paths: compared.rounds.map((_, round) => `${path}/rounds/${round}/${number}`) }));
    all.push(...sides.flatMap((side) => side.paths));
    const runs = sides.flatMap((side) => side.paths.map(at));
    const bound = runs.some((run) => run.generator_bound);
    const closed = runs.some((run) => run.acknowledge && !run.open_loop);
    parts.push(
      make("h2", {}, compared.workload.name),
      make("p", { class: "soft" }, `${sentence(compared.workload)} ${count(compared.rounds.length, "round")}.`),
      bound ? make("p", { class: "notice" }, "In some rounds the generator was so busy that it may have been the limit, not the broker.") : "",
      closed ? make("p", { class: "notice" }, CLOSED_LOOP) : "",
      comparedTable(path, sides),
      chartsOfSides(sides),
    );
  });
  if (report.workloads.length === 0) parts.push(make("p", { class: "notice" }, "No round was finished."));
  report.unfinished.forEach((one, index) => {
    const path = `/unfinished/${index}/report`;
    all.push(path);
    parts.push(make("h2", {}, `Unfinished: ${one.side}, ${one.report.workload.name}`), make("p", { class: "soft" }, sentence(one.report.workload)), ...runParts(path));
  });
  const workloads = report.workloads.map((compared) => compared.workload);
  return [...parts, ...(all.length > 0 ? conditions(all) : []), workloads.length > 0 ? workloadTable(workloads) : "", ...guide()];
}

function catchUpPage() {
  const sides = [{ name: "alone", paths: ["/alone"] }];
  if (report.beside_reader) sides.push({ name: "beside a reader", paths: ["/beside_reader"] });
  const workload = report.alone.workload;
  const parts = [heading(workload.name, `${sentence(workload)} Alone, then while a reader goes through old records from the beginning.`)];
  if (report.p99_ratio !== null) {
    parts.push(make("p", {}, "End-to-end p99 beside the reader is ", make("b", {}, figure("/p99_ratio"), " times"), " what it is alone; the reader got ", figure("/reader_mb_per_second"), " MB/s. ", badge(report.alone)));
  }
  if (sides.length > 1) parts.push(chartsOfSides(sides));
  for (const side of sides) parts.push(make("h2", {}, side.name), ...runParts(side.paths[0]));
  return [...parts, ...conditions(sides.map((side) => side.paths[0])), workloadTable([workload]), ...guide()];
}

function searchPage() {
  const { slo, best, unfinished } = report;
  const run = best ?? unfinished;
  const title = run ? run.workload.name : "search";
  const parts = [heading(`${title}: the highest rate with ${slo.percentile} ≤ ${slo.limit_ms} ms`, run ? sentence(run.workload) : "")];
  if (best) parts.push(make("p", {}, make("b", {}, figure("/best/workload/producerRate"), " records/s"), " keep the promise. ", badge(best)));
  else parts.push(make("p", { class: "notice" }, "No rate that was tried keeps the promise."));
  const rows = report.trials.map((trial, index) => [figure(`/trials/${index}/rate`), figure(`/trials/${index}/measured`), trial.kept ? "kept" : "broken"]);
  parts.push(make("div", { class: "narrow" }, table(["records/s", `${slo.percentile}, ms`, "promise"], rows)));
  const paths = [best ? "/best" : null, unfinished ? "/unfinished" : null].filter((path) => path);
  for (const path of paths) parts.push(make("h2", {}, path === "/best" ? "The best run" : "The run that ended the search"), ...runParts(path));
  return [...parts, ...(paths.length > 0 ? [...conditions(paths), workloadTable([run.workload])] : []), ...guide()];
}

function parts() {
  if (report.sides) return comparisonPage();
  if (report.trials) return searchPage();
  return report.alone ? catchUpPage() : runPage();
}

show(parts());
